"""Entry of ``streamlit run``: the navigation between the pages."""

from __future__ import annotations

import streamlit as st

from tactful_ui.components import shell
from tactful_ui.views import overview, released, system


def main() -> None:
    """Draw the navigation and the chosen page."""
    st.set_page_config(page_title="tactful", page_icon=":material/monitoring:", layout="wide")
    demo = st.Page(
        overview.page, title="Demo", icon=":material/play_circle:", url_path="demo", default=True
    )
    statistics = st.Page(
        released.page, title="Statistics", icon=":material/bar_chart:", url_path="statistics"
    )
    machine = st.Page(system.page, title="System", icon=":material/dns:", url_path="system")
    page = st.navigation({"tactful": [demo, statistics, machine]})
    st.sidebar.caption(f"Server `{shell.settings().url}`")
    page.run()


if __name__ == "__main__":
    main()
