"""Shared parts of the pages: connection, report choice, refresh, errors."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from tactful_ui.components import charts, formats
from tactful_ui.errors import NoReport, ServerDown, SourceError, Unauthorised
from tactful_ui.report import Report
from tactful_ui.source import ReportSource, Settings, connect

LIVE_SECONDS = 2
"""Refresh interval while a report is being written or missing."""

IDLE_SECONDS = 30
"""Refresh interval of a finished report; a new run of the demo appears within it."""

DEFAULT_REPORT = "demo"


def settings() -> Settings:
    """Return address and key of the server from the environment or the secrets."""
    try:
        secrets = dict(st.secrets)
    except FileNotFoundError:
        secrets = {}
    return Settings.load(secrets)


def source() -> ReportSource:
    """Return the connection to the server, shared by all pages and sessions."""
    return _connection(settings())


@st.cache_resource(show_spinner=False)
def _connection(server: Settings) -> ReportSource:
    return connect(server)


def palette() -> charts.Palette:
    """Return the colours for the reader's theme."""
    return charts.DARK if st.context.theme.type == "dark" else charts.LIGHT


def heading(title: str, subtitle: str) -> None:
    """Draw title and subtitle of a page."""
    st.title(title, anchor=False)
    st.caption(subtitle)


def current_report(server: ReportSource) -> Report:
    """Return the chosen report; a selection appears only for several reports."""
    names = sorted(server.report_names(), key=lambda name: (name != DEFAULT_REPORT, name))
    if not names:
        raise NoReport("the server has no report yet")
    name = names[0]
    if len(names) > 1:
        name = st.selectbox("Report", names, key="report") or name
    return server.report(name)


def report_if_any(server: ReportSource) -> Report | None:
    """Return the chosen report, or None if the server has none."""
    try:
        return current_report(server)
    except NoReport:
        return None


def live(draw: Callable[[Report], None]) -> None:
    """Draw the current report repeatedly: often while it grows, then rarely.

    A failure to fetch it is explained in its place, and the next refresh tries again.
    """
    settled = bool(st.session_state.get("settled", False))

    def refresh() -> None:
        report, failure = None, None
        try:
            report = current_report(source())
        except SourceError as error:
            failure = error
        now_settled = report is not None and report.finished
        if now_settled != settled:
            # The interval is part of the fragment's definition, which only a full run renews.
            st.session_state["settled"] = now_settled
            st.rerun()
        if report is not None:
            draw(report)
        elif failure is not None:
            explain(failure)

    st.fragment(refresh, run_every=IDLE_SECONDS if settled else LIVE_SECONDS)()


def explain(failure: SourceError) -> None:
    """Show what is missing and the command that provides it."""
    url = settings().url
    if isinstance(failure, ServerDown):
        st.error(
            f"**The server does not answer** at `{url}`. Start it with:",
            icon=":material/cloud_off:",
        )
        st.code("tactful serve --dev", language="bash")
        st.caption(
            "`--dev` serves this machine only and requires no key. If the server runs elsewhere, "
            "set its address in `TACTFUL_URL` and restart the dashboard. Then reload this page."
        )
    elif isinstance(failure, Unauthorised):
        st.error(
            f"**The server at `{url}` does not accept the key.** The dashboard needs an API key "
            "with the scope `analyst`:",
            icon=":material/key:",
        )
        st.code("export TACTFUL_API_KEY=…\ntactful dashboard", language="bash")
        st.caption("The key can also be set in `.streamlit/secrets.toml` as `TACTFUL_API_KEY`.")
    elif isinstance(failure, NoReport):
        st.info(
            "**There is no report yet.** The demo replays real shopping data and writes one:",
            icon=":material/hourglass_empty:",
        )
        st.code("scripts/demo --quick", language="bash")
        st.caption("It appears here while the demo runs.")
    else:
        st.error(
            f"**The server's answer cannot be shown.** {formats.plain(str(failure))}",
            icon=":material/error:",
        )
        st.caption("Do the server and the dashboard come from the same version of tactful?")


def pending(title: str) -> None:
    """Show that a section is not in the report yet."""
    st.caption(f"{title}: not in this report yet.")
