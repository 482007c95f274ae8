"""Entry of ``streamlit run``: the navigation between the pages."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from tactful_ui.components import shell, times, words
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError
from tactful_ui.views import demo, models, overview, released, system


def main() -> None:
    """Draw the navigation and the chosen page; without rights a form to sign in."""
    # The browser would ask a server of Google for an icon of Streamlit's own set.
    icon = str(Path(__file__).with_name("assets") / "icon.svg")
    st.set_page_config(page_title="tactful", page_icon=icon, layout="wide")
    page = st.navigation(_pages())
    refused: SourceError | None = None
    with st.sidebar:
        try:
            _who(shell.reader())
        except SourceError as failure:
            refused = failure
        words.choose()
        times.choose()
        st.caption(_("Server `{url}`", url=shell.settings().url))
    if isinstance(refused, PermissionError):
        shell.explain(refused)
        shell.sign_in()
    else:
        page.run()


def _pages() -> list[st.Page]:
    """Return all pages, each with an address that can be linked to."""
    return [
        st.Page(
            overview.page,
            title=_("Overview"),
            icon=":material/home:",
            url_path="overview",
            default=True,
        ),
        st.Page(
            models.page, title=_("Models"), icon=":material/model_training:", url_path="models"
        ),
        st.Page(
            released.page, title=_("Statistics"), icon=":material/bar_chart:", url_path="statistics"
        ),
        st.Page(system.page, title=_("System"), icon=":material/dns:", url_path="system"),
        st.Page(
            demo.page,
            title=_("Demo"),
            icon=":material/play_circle:",
            url_path="demo",
            visibility="visible" if shell.has_report() else "hidden",
        ),
    ]


def _who(reader: shell.Reader) -> None:
    """Draw who reads, and the way out."""
    st.caption(_("Signed in as {name}", name=reader.name))
    if shell.signed_in() and st.button(_("Sign out"), icon=":material/logout:"):
        shell.sign_out()
        st.rerun()


if __name__ == "__main__":
    main()
