"""What every page shares: the server, the choice of a report, refreshing, words for failures."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from tactful_ui import charts, formats
from tactful_ui.errors import NoReport, ServerDown, SourceError, Unauthorised
from tactful_ui.report import Report
from tactful_ui.source import ReportSource, Settings, connect

LIVE_SECONDS = 2
"""Refresh interval while a report grows, or while there is none yet."""

IDLE_SECONDS = 30
"""Refresh interval once the report is finished; a new run of the demo is noticed within it."""

DEFAULT_REPORT = "demo"


def settings() -> Settings:
    """Address and key of the server, from the environment or from Streamlit's secrets."""
    try:
        secrets = dict(st.secrets)
    except FileNotFoundError:
        secrets = {}
    return Settings.load(secrets)


def source() -> ReportSource:
    """The connection to the server, shared by all pages and sessions."""
    return _connection(settings())


@st.cache_resource(show_spinner=False)
def _connection(wanted: Settings) -> ReportSource:
    return connect(wanted)


def palette() -> charts.Palette:
    """The colours that fit the reader's theme."""
    return charts.DARK if st.context.theme.type == "dark" else charts.LIGHT


def heading(title: str, subtitle: str) -> None:
    """Title of a page, and what it answers."""
    st.title(title, anchor=False)
    st.caption(subtitle)


def current_report(server: ReportSource) -> Report:
    """The report the reader chose; the choice appears only where there are several.

    Raises:
        SourceError: the server has no report or cannot be asked.
    """
    names = sorted(server.report_names(), key=lambda name: (name != DEFAULT_REPORT, name))
    if not names:
        raise NoReport("the server has no report yet")
    name = names[0]
    if len(names) > 1:
        name = st.selectbox("Report", names, key="report") or name
    return server.report(name)


def live(draw: Callable[[Report], None]) -> None:
    """Draw the current report again and again: often while it grows, seldom once it is finished.

    What cannot be fetched is explained in its place, and the page recovers by itself.
    """
    settled = bool(st.session_state.get("settled", False))

    def once() -> None:
        report, failure = None, None
        try:
            report = current_report(source())
        except SourceError as error:
            failure = error
        now_settled = report is not None and report.finished
        if now_settled != settled:
            # The interval belongs to the fragment's definition, which only a full run renews.
            st.session_state["settled"] = now_settled
            st.rerun()
        if report is not None:
            draw(report)
        elif failure is not None:
            explain(failure)

    st.fragment(once, run_every=IDLE_SECONDS if settled else LIVE_SECONDS)()


def explain(failure: SourceError) -> None:
    """Say what is missing and which command brings it."""
    url = settings().url
    if isinstance(failure, ServerDown):
        st.error(
            f"**The server does not answer** at `{url}`. Start it with:",
            icon=":material/cloud_off:",
        )
        st.code("tactful serve --dev", language="bash")
        st.caption(
            "`--dev` serves this machine only and asks for no key. If the server runs elsewhere, "
            "start the dashboard with its address in `TACTFUL_URL`. Reload this page then."
        )
    elif isinstance(failure, Unauthorised):
        st.error(
            f"**The server at `{url}` does not accept the key.** The dashboard needs an API key "
            "with the scope `analyst`:",
            icon=":material/key:",
        )
        st.code("export TACTFUL_API_KEY=…\ntactful dashboard", language="bash")
        st.caption("The key may also stand in `.streamlit/secrets.toml` as `TACTFUL_API_KEY`.")
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


def pending(what: str) -> None:
    """Say that a section is still to come."""
    st.caption(f"{what}: not in this report yet.")
