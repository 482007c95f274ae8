"""Page "Federated": runs of training on devices, their privacy loss against the plan, rounds."""

from __future__ import annotations

from typing import Any

import streamlit as st

from tactful.client.messages import FederatedRound, FederatedRounds, FederatedRun, FederatedRuns
from tactful.client.routes import federated as routes
from tactful_ui.components import charts, formats, model_charts, shell, tables, times
from tactful_ui.components.words import text as _

_LIVE_SECONDS = 10
_MOST_POINTS = 1000


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(
        _("Federated"), _("Training on devices: histories stay there, noised sums come back.")
    )
    reader = shell.reader()
    found = shell.ask(routes.runs())
    if not found.runs:
        st.info(
            _("**No run was reported yet.** A training server reports to this address:"),
            icon=":material/hourglass_empty:",
        )
        url = shell.settings().url
        st.code(f"tactful federated simulate runs/first --report {url}", language=None)
        return
    _runs(found)
    names = {run.id: _title(run) for run in found.runs}
    chosen = st.selectbox(_("Run to look at"), list(names), format_func=names.__getitem__)

    @st.fragment(run_every=_LIVE_SECONDS)
    def watched() -> None:
        shell.section(
            names[chosen],
            lambda: shell.ask(_latest(chosen)),
            lambda read: _run(read, exact=reader.admin),
        )

    watched()


def _latest(run: str) -> Any:
    """Request the rounds of a run: the first page holds a thousand."""
    return routes.rounds(run, limit=_MOST_POINTS)


def _title(run: FederatedRun) -> str:
    simulated = f" ({_('simulated')})" if run.simulated else ""
    return f"{run.name}{simulated}, {times.moment(run.started_at)}"


def _runs(found: FederatedRuns) -> None:
    st.subheader(_("Runs"), anchor=False)
    states = {"running": _("running"), "done": _("done"), "failed": _("failed")}
    rows = [
        {
            _("Run"): run.name,
            _("State"): states[run.state],
            _("Tier"): run.tier,
            _("Releases"): f"{run.last.releases if run.last else 0} / {run.plan.rounds}",
            _("ε spent"): round(run.last.epsilon, 4) if run.last else 0.0,
            _("ε planned"): run.plan.epsilon,
            _("Cohort"): run.plan.cohort,
            _("Last report"): times.moment(run.updated_at),
        }
        for run in found.runs
    ]
    tables.show(rows, "federated-runs")


def _run(read: FederatedRounds, *, exact: bool) -> None:
    run, rounds = read.run, read.rounds
    if run.state == "failed":
        st.error(
            _("The run failed: {reason}", reason=formats.plain(run.reason)),
            icon=":material/error:",
        )
    _figures(run, rounds, exact=exact)
    if not rounds:
        st.caption(_("No round has ended yet."))
        return
    _charts(rounds, run)
    _table(rounds, exact=exact)
    if read.next_cursor:
        st.caption(_("These are the first {count} rounds of the run.", count=len(rounds)))


def _figures(run: FederatedRun, rounds: list[FederatedRound], *, exact: bool) -> None:
    last, void = run.last, sum(bool(it.reason) for it in rounds)
    releases, epsilon, seconds, lost = st.columns(4)
    done = last.releases if last else 0
    releases.metric(_("Releases"), f"{done} / {run.plan.rounds}", border=True)
    spent = formats.decimal(last.epsilon if last else 0.0, 3)
    planned = formats.decimal(run.plan.epsilon, 3)
    epsilon.metric(_("ε of the plan"), f"{spent} / {planned}", border=True)
    length = formats.duration(last.seconds) if last else formats.MISSING
    seconds.metric(_("Last round"), length, border=True)
    if exact:
        share = _dropped(last) if last else None
        lost.metric(_("Drop-outs of the last round"), formats.percent(share), border=True)
    else:
        lost.metric(_("Void rounds"), formats.count(void), border=True)
    st.caption(
        _(
            "A round asks at most {cohort} devices and is released from {least} updates on, at "
            "δ {delta}: {unit}.",
            cohort=formats.count(run.plan.cohort),
            least=formats.count(run.plan.minimum_reports),
            delta=f"{run.plan.delta:.1e}",
            unit=formats.plain(run.plan.unit or "–"),
        )
    )


def _charts(rounds: list[FederatedRound], run: FederatedRun) -> None:
    number, palette = _("Round"), shell.palette()
    left, right = st.columns(2)
    with left:
        title = _("Privacy loss ε")
        rows = [{number: it.number, title: it.epsilon} for it in rounds]
        charts.show(model_charts.curve(rows, number, title, palette), "federated-epsilon", rows)
    with right:
        title = _("Seconds of a round")
        rows = [{number: it.number, title: it.seconds} for it in rounds]
        charts.show(model_charts.curve(rows, number, title, palette), "federated-seconds", rows)
    title = _("Top-1 accuracy")
    rows = [{number: it.number, title: it.top1} for it in rounds if it.top1 is not None]
    if rows:
        charts.show(model_charts.curve(rows, number, title, palette), "federated-accuracy", rows)
        if run.simulated:
            st.caption(_("On generated shoppers outside of the population."))
        else:
            st.caption(_("By private evaluations on devices, with their noise."))
    else:
        st.markdown(
            _("No evaluation yet: `tactful federated evaluate` asks the devices privately.")
        )


def _table(rounds: list[FederatedRound], *, exact: bool) -> None:
    rows = []
    for it in reversed(rounds):
        row: dict[str, Any] = {
            _("Round"): it.number,
            _("Time"): times.moment(it.at),
            _("Releases"): it.releases,
            "ε": round(it.epsilon, 4),
            _("Seconds"): it.seconds,
            _("Void because"): it.reason,
        }
        if exact:
            row |= {_("Asked"): it.asked, _("Reported"): it.reports}
        rows.append(row)
    tables.show(rows, "federated-rounds", height=320)


def _dropped(figures: FederatedRound) -> float | None:
    """Return the share of the asked devices that sent no update."""
    if not figures.asked or figures.reports is None:
        return None
    return max(0.0, 1.0 - figures.reports / figures.asked)
