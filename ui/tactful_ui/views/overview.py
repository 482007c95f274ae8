"""Page "Overview": the state of the shop in words, and the next step of an empty one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from tactful_ui.components import formats, shell, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError
from tactful_ui.report import parse_time
from tactful_ui.source import Health


def page() -> None:
    """Draw the page."""
    shell.heading(_("Overview"), _("The state of this installation, and what to do next."))
    try:
        health = shell.source().health()
        models = shell.source().models()
    except SourceError as failure:
        shell.explain(failure)
        return
    _state(health, models)
    if not models.get("items") or not models.get("champion"):
        _first_steps(models)


def _state(health: Health, models: Mapping[str, Any]) -> None:
    failed = [name for name, result in health.checks.items() if result != "ok"]
    if health.ready and not failed:
        st.success(_("The server is ready, and all its checks pass."), icon=":material/check:")
    else:
        detail = formats.plain(health.detail or ", ".join(failed))
        st.warning(_("The server is not ready: {reason}", reason=detail), icon=":material/error:")
    champion = models.get("champion")
    known = champion if isinstance(champion, Mapping) else {}
    items, model, trained = st.columns(3)
    items.metric(_("Items"), formats.count(models.get("items")), border=True)
    version = str(known.get("version") or "") or _("none yet")
    model.metric(_("Champion"), formats.plain(version), border=True)
    until = parse_time(known.get("trained_until"))
    trained.metric(_("Trained until"), times.moment(until), border=True)


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
        st.code(command, language="bash")
