"""Entry of ``streamlit run``: the navigation between the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import streamlit as st

from tactful_ui.components import shell, times, words
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError
from tactful_ui.views import (
    alerts,
    bandits,
    coupons,
    data,
    demo,
    experiments,
    federated,
    flags,
    metrics,
    models,
    operations,
    overview,
    people,
    privacy,
    released,
    rollouts,
    try_recommendation,
    tuner,
)
from tactful_ui.views.items import catalogue, search


def main() -> None:
    """Draw the navigation and the chosen page; without rights a form to sign in."""
    # The browser would ask a server of Google for an icon of Streamlit's own set.
    icon = str(Path(__file__).with_name("assets") / "icon.svg")
    st.set_page_config(page_title="tactful", page_icon=icon, layout="wide")
    page = st.navigation(_pages(), expanded=True)
    refused: SourceError | None = None
    with st.sidebar:
        try:
            _who(shell.reader())
        except SourceError as failure:
            refused = failure
            _way_out()
        words.choose()
        times.choose()
        st.markdown(_("Server `{url}`", url=shell.settings().url))
    if isinstance(refused, PermissionError):
        shell.explain(refused)
        shell.sign_in()
    else:
        page.run()


def _pages() -> list[st.Page]:
    """Return all pages, each with an address that can be linked to."""
    return [
        _page("overview", _("Overview"), "home", overview.page, default=True),
        _page("data", _("Data"), "database_upload", data.page),
        _page("items", _("Items"), "inventory_2", catalogue.page),
        _page("search", _("Search"), "search", search.page),
        _page("people", _("People"), "group", people.page),
        _page("try", _("Try"), "play_arrow", try_recommendation.page),
        _page("experiments", _("Experiments"), "science", experiments.page),
        _page("metrics", _("Metrics"), "straighten", metrics.page),
        _page("rollouts", _("Rollouts"), "stairs", rollouts.page),
        _page("bandits", _("Bandits"), "casino", bandits.page),
        _page("flags", _("Flags"), "toggle_on", flags.page),
        _page("tuner", _("Tuner"), "tune", tuner.page),
        _page("models", _("Models"), "model_training", models.page),
        _page("coupons", _("Coupons"), "loyalty", coupons.page),
        _page("privacy", _("Privacy"), "shield_lock", privacy.page),
        _page("statistics", _("Statistics"), "bar_chart", released.page),
        _page("federated", _("Federated"), "hub", federated.page),
        _page("alerts", _("Alerts"), "notifications", alerts.page),
        _page("operations", _("Operations"), "dns", operations.page),
        _page("demo", _("Demo"), "play_circle", demo.page, hidden=not shell.has_report()),
    ]


def _page(
    path: str,
    title: str,
    icon: str,
    draw: Callable[[], None],
    *,
    default: bool = False,
    hidden: bool = False,
) -> st.Page:
    """Return a page at ``/path``; a hidden one is not in the menu, but has its address."""
    return st.Page(
        draw,
        title=title,
        icon=f":material/{icon}:",
        url_path=path,
        default=default,
        visibility="hidden" if hidden else "visible",
    )


def _who(reader: shell.Reader) -> None:
    """Draw who reads, and the way out."""
    st.markdown(_("Signed in as {name}", name=reader.name))
    _way_out()
    if shell.shares_a_key():
        with st.popover(_("Sign in"), icon=":material/login:"):
            shell.sign_in()


def _way_out() -> None:
    """Draw the button of a reader who has signed in."""
    if shell.signed_in() and st.button(_("Sign out"), icon=":material/logout:"):
        shell.sign_out()
        st.rerun()


if __name__ == "__main__":
    main()
