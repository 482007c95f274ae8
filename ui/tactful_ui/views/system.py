"""Page "System": health of the server, its models, and the demo's timings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st

from tactful_ui.components import charts, formats, shell, times
from tactful_ui.errors import SourceError
from tactful_ui.report import Report, flatten, parse_time
from tactful_ui.source import Health


def page() -> None:
    """Draw the page."""
    shell.heading("System", "Health of the server, its models, and the demo's timings.")
    try:
        server = shell.source()
        health = server.health()
    except SourceError as failure:
        shell.explain(failure)
        return
    _health(health)
    _section("Models", server.models, _models)
    _section("Timings", lambda: shell.report_if_any(server), _timings)


def _section(title: str, fetch: Callable[[], Any], draw: Callable[[Any], None]) -> None:
    """Draw a section; a failure to fetch it is shown in its place."""
    st.subheader(title, anchor=False)
    try:
        data = fetch()
    except SourceError as failure:
        shell.explain(failure)
    else:
        draw(data)


def _health(health: Health) -> None:
    st.subheader("Server", anchor=False)
    state, version = st.columns(2)
    state.metric("State", "ready" if health.ready else "not ready", border=True)
    version.metric("Version", formats.plain(health.version) or formats.MISSING, border=True)
    if health.detail:
        st.warning(formats.plain(health.detail))
    if health.checks:
        _table("Check", health.checks)


def _models(models: Mapping[str, Any]) -> None:
    champion = models.get("champion")
    if not isinstance(champion, Mapping):
        st.caption("No ranking model is in use yet.")
    elif trained := parse_time(champion.get("trained_until")):
        models = {**models, "champion": {**champion, "trained_until": times.moment(trained)}}
    if facts := dict(flatten(models)):
        _table("Models in use", facts)


def _timings(report: Report | None) -> None:
    if report is None or not report.timings:
        shell.pending("Timings by stage")
    else:
        chart = charts.bars(report.timings, "Time by stage (seconds)", shell.palette())
        st.altair_chart(chart, width="stretch")
    st.subheader("Environment", anchor=False)
    if report is None or not report.environment:
        shell.pending("The environment of the run")
    else:
        _table("Environment", dict(report.environment))


def _table(title: str, facts: Mapping[str, str]) -> None:
    st.table(
        {title: list(map(formats.plain, facts)), "Value": list(map(formats.plain, facts.values()))},
        hide_index=True,
    )
