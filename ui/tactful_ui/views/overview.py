"""Page "Overview": the state of the shop in words, its worth, and the next step of an empty one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import streamlit as st

from tactful.client.messages import AlertPage, MetricsPage, ReadOutMessage
from tactful.client.routes import alerts, experiments, operations
from tactful_ui.components import formats, readouts, shell
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError
from tactful_ui.report import parse_time
from tactful_ui.source import Health

LIVE_SECONDS = 10
"""Refresh interval: the server keeps a point of its metrics each ten seconds."""

_EVENTS = 'tactful_ingested_per_second{kind="event",result="accepted"}'
_REQUESTS = 'tactful_request_seconds{{quantile="{0}",route="/v1/recommend"}}'
_FRESH = 'tactful_freshness_seconds{quantile="0.99"}'
_REFUSED = 'tactful_rejected_share{kind="event"}'
_RUNNING = ("shadow", "canary", "held")


@shell.explained
def page() -> None:
    """Draw the page."""
    shell.heading(_("Overview"), _("The state of this installation, and what to do next."))
    reader = shell.reader()
    st.fragment(partial(_now, reader), run_every=LIVE_SECONDS)()
    if reader.may("analyst"):
        _steps_or_worth(reader)


def _now(reader: shell.Reader) -> None:
    """Draw what changes by the second; it is drawn again without the rest of the page."""
    try:
        _state(shell.source().health())
    except SourceError as failure:
        shell.explain(failure)
        return
    for scope, title, fetch, draw in _parts(reader):
        if reader.may(scope):
            shell.section(title, fetch, draw)


def _parts(reader: shell.Reader) -> list[tuple[str, str, Callable[[], Any], Callable[[Any], None]]]:
    def numbers() -> MetricsPage:
        names = [_EVENTS, _FRESH, _REFUSED, *(_REQUESTS.format(q) for q in (0.5, 0.99))]
        return shell.ask(operations.metrics(names, since=round((time.time() - 60) * 1000)))

    return [
        ("monitor", _("Right now"), numbers, partial(_numbers, exact=reader.admin)),
        ("monitor", _("Open alerts"), lambda: shell.ask(alerts.alerts()), _alerts),
        ("analyst", _("Models and rollouts"), shell.source().models, _models),
    ]


def _state(health: Health) -> None:
    failed = [name for name, result in health.checks.items() if result != "ok"]
    if health.ready and not failed:
        st.success(_("The server is ready, and all its checks pass."), icon=":material/check:")
        return
    detail = formats.plain(health.detail or ", ".join(failed))
    st.warning(_("The server is not ready: {reason}", reason=detail), icon=":material/error:")


def _numbers(page: MetricsPage, *, exact: bool) -> None:
    latest = {
        series.name: next((value for value in reversed(series.means) if value is not None), None)
        for series in page.series
    }
    facts = [
        (_("A recommendation, p50"), _milliseconds(latest.get(_REQUESTS.format(0.5)))),
        (_("A recommendation, p99"), _milliseconds(latest.get(_REQUESTS.format(0.99)))),
        (_("Features are fresh in, p99"), _milliseconds(latest.get(_FRESH))),
        (_("Events refused, at most"), formats.percent(latest.get(_REFUSED))),
    ]
    if exact:
        facts.insert(0, (_("Events a second"), formats.decimal(latest.get(_EVENTS), 1)))
    for column, (name, value) in zip(st.columns(len(facts)), facts, strict=True):
        column.metric(name, value, border=True)


def _milliseconds(seconds: float | None) -> str:
    return formats.milliseconds(None if seconds is None else 1000 * seconds)


def _alerts(found: AlertPage) -> None:
    if not found.alerts:
        st.caption(_("No alert is open."))
    for alert in found.alerts:
        draw = st.error if alert.severity == "critical" else st.warning
        draw(f"**{formats.plain(alert.rule)}**: {formats.plain(alert.message)}")


def _models(models: Mapping[str, Any]) -> None:
    champion = models.get("champion")
    known = champion if isinstance(champion, Mapping) else {}
    items, model, trained, rollouts = st.columns(4)
    items.metric(_("Items"), formats.count(models.get("items")), border=True)
    version = str(known.get("version") or "") or _("none yet")
    model.metric(_("Champion"), formats.plain(version), border=True)
    until = parse_time(known.get("trained_until"))
    day = formats.MISSING if until is None else f"{until:%Y-%m-%d}"
    trained.metric(_("Trained until"), day, border=True)
    try:
        listed = shell.ask(experiments.rollouts()).experiments
        running = formats.count(sum(rollout.state in _RUNNING for rollout in listed))
    except SourceError:
        running = formats.MISSING
    rollouts.metric(_("Running rollouts"), running, border=True)


def _steps_or_worth(reader: shell.Reader) -> None:
    try:
        models = shell.source().models()
    except SourceError:
        return  # the part above explains it
    if not models.get("items") or not models.get("champion"):
        _first_steps(models)
        return
    title = _("Worth of the platform")
    shell.section(title, lambda: shell.ask(experiments.worth()), _worth)


def _worth(found: ReadOutMessage) -> None:
    if found.effects:
        readouts.draw(found, "worth")
        return
    st.caption(formats.plain(found.reason))


def _first_steps(models: Mapping[str, Any]) -> None:
    """Draw what an empty installation needs, with commands for its address."""
    url = shell.settings().url
    st.subheader(_("First steps"), anchor=False)
    steps = [
        (
            _("Send your items"),
            f"tactful import items.csv --kind items --url {url}",
            bool(models.get("items")),
        ),
        (_("Send your events"), f"tactful import events.csv --url {url}", False),
        (
            _("Ask for the first recommendation"),
            f"tactful recommend --user somebody --url {url}",
            False,
        ),
        (_("Train and promote"), "tactful train --promote", bool(models.get("champion"))),
    ]
    for number, (title, command, done) in enumerate(steps, start=1):
        mark = ":material/check_circle:" if done else ":material/radio_button_unchecked:"
        st.markdown(f"{mark} **{number}. {title}**")
        st.code(command, language=None)
