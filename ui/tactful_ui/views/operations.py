"""Page "Operations": the machine, its metrics of a day, long jobs, workers, checks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from tactful.client.messages import JobIndex, JobInfo, MetricsPage, SystemInfo
from tactful.client.routes import operations as routes
from tactful_ui.components import formats, shell, tables, time_series, times
from tactful_ui.components.charts import show
from tactful_ui.components.words import text as _
from tactful_ui.report import flatten, parse_time
from tactful_ui.views import metric_charts
from tactful_ui.views.metric_charts import MetricChart

LIVE_SECONDS = 10
"""Refresh interval: the server keeps a point each ten seconds."""

_JOBS = 20
_HOURS = (1, 6, 24)


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Operations"), _("State of the server, its metrics of the last day, and its jobs.")
    )
    reader = shell.reader()
    if not reader.may("monitor"):
        st.info(_("This page needs a key with the scope `monitor`."), icon=":material/key:")
        return
    hours = st.segmented_control(
        _("Time"),
        _HOURS,
        default=_HOURS[0],
        key="operations-hours",
        format_func=lambda hours: _("last hour") if hours == 1 else _("{n} hours", n=hours),
    )
    st.fragment(partial(_live, hours or _HOURS[0], reader), run_every=LIVE_SECONDS)()


def _live(hours: int, reader: shell.Reader) -> None:
    """Draw everything that changes; it is drawn again without the rest of the page."""
    shell.section(_("Server"), lambda: shell.ask(routes.system()), _system)
    wanted = metric_charts.charts(exact=reader.admin)
    fetch = partial(_metrics, wanted, hours)
    shell.section(_("Metrics"), fetch, partial(_charts, wanted))
    shell.section(_("Jobs"), lambda: shell.ask(routes.jobs(limit=_JOBS)), _jobs)
    if reader.may("analyst"):
        shell.section(_("Models in use"), shell.source().models, _models)


def _system(system: SystemInfo) -> None:
    now, ready = time.time(), system.status == "ok"
    facts = [
        (_("State"), _("ready") if ready else _("not ready")),
        (_("Version"), formats.plain(system.version)),
        (_("Running for"), formats.duration(now - system.started_at / 1000)),
        (_("Records not applied"), formats.count(system.lag)),
        (_("Memory"), _gigabytes(system.memory_bytes)),
        (_("Free disk"), _gigabytes(system.disk_free_bytes)),
        (_("Last backup"), _age(system.last_backup, now)),
        (_("Processors"), formats.count(system.cpus)),
    ]
    for part in (facts[:4], facts[4:]):
        for column, (name, value) in zip(st.columns(4), part, strict=True):
            column.metric(name, value, border=True)
    if not system.holds_lease:
        name = formats.plain(system.lease_holder or _("none at present"))
        st.caption(_("Another server publishes, sends and schedules: {name}.", name=name))
    problems = [check for check in system.checks if check.state != "ok"]
    for check in problems:
        draw = st.error if check.state == "failed" else st.warning
        draw(f"**{formats.plain(check.name)}**: {formats.plain(check.finding)}")
    if not problems:
        st.success(_("All checks pass."), icon=":material/check:")
    if system.workers is not None:
        rows = [
            {
                _("Worker"): worker.number,
                _("State"): worker.state,
                _("Restarts"): worker.restarts,
                _("Model"): worker.model_version,
                _("Items behind"): worker.items_behind,
            }
            for worker in system.workers
        ]
        st.markdown(f"**{_('Workers')}**")
        tables.show(rows, "workers")


def _metrics(wanted: Sequence[MetricChart], hours: int) -> MetricsPage:
    names = sorted({name for chart in wanted for name in chart.names})
    return shell.ask(routes.metrics(names, since=round((time.time() - 3600 * hours) * 1000)))


def _charts(wanted: Sequence[MetricChart], page: MetricsPage) -> None:
    if not page.times:
        st.caption(_("The first point appears ten seconds after the start of the server."))
        return
    found: Mapping[str, Sequence[float | None]] = {
        series.name: series.highest for series in page.series
    }
    st.caption(_("Shares are rounded up to 0.1, 1, 10 or 100 %; times to the bounds of buckets."))
    for number, chart in enumerate(wanted):
        if number % 2 == 0:
            columns = st.columns(2)
        lines = chart.lines(found)
        with columns[number % 2]:
            st.markdown(f"**{chart.title}**")
            drawn = time_series.draw(chart.unit, page.times, lines, shell.palette(), times.zone())
            if drawn is None:
                st.caption(_("Nothing was measured in this time."))
            else:
                rows = time_series.rows_of(page.times, lines, times.zone())
                show(drawn, f"metrics-{chart.key}", rows)


def _jobs(index: JobIndex) -> None:
    if not index.jobs:
        st.caption(_("No long job has run yet."))
        return
    tables.show([_job(job) for job in index.jobs], "jobs")


def _job(job: JobInfo) -> dict[str, Any]:
    until = job.ended_at or job.updated_at
    return {
        _("Job"): _kinds().get(job.kind, job.kind),
        _("State"): _states().get(job.state, job.state),
        _("Stage"): job.stage,
        _("Progress"): formats.percent(job.progress, 0),
        _("Started"): times.moment(job.started_at),
        _("Took"): formats.duration((until - job.started_at) / 1000),
    }


def _models(models: Mapping[str, Any]) -> None:
    champion = models.get("champion")
    if not isinstance(champion, Mapping):
        st.caption(_("No ranking model is in use yet."))
    elif trained := parse_time(champion.get("trained_until")):
        models = {**models, "champion": {**champion, "trained_until": times.moment(trained)}}
    if facts := dict(flatten(models)):
        rows = [{_("Fact"): name, _("Value"): value} for name, value in facts.items()]
        tables.show(rows, "models")


def _kinds() -> Mapping[str, str]:
    return {
        "training": _("Training"),
        "backfill": _("Backfill"),
        "backup": _("Backup"),
        "restore": _("Restore"),
        "rescale": _("Rescaling"),
        "key_rotation": _("Key rotation"),
        "erasure": _("Erasure"),
        "import": _("Import"),
        "encoding": _("Encoding of items"),
    }


def _states() -> Mapping[str, str]:
    return {
        "running": _("running"),
        "done": _("done"),
        "failed": _("failed"),
        "killed": _("killed"),
    }


def _gigabytes(size: int) -> str:
    return f"{formats.decimal(size / 2**30, 1)} GB"


def _age(backup: JobInfo | None, now: float) -> str:
    """Return the age of the last backup, in days when it is old."""
    if backup is None or backup.ended_at is None:
        return _("none")
    seconds = now - backup.ended_at / 1000
    if seconds < 2 * 86_400:
        return formats.duration(seconds)
    return _("{n} days", n=round(seconds / 86_400))
