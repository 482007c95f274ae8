"""Times in the reader's zone, or in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from tactful_ui.components.words import text as _

KEY = "local_times"
"""Key of the choice in the state of a session."""


def zone() -> tzinfo:
    """Return the chosen zone: UTC at first, or that of the reader's browser."""
    if not st.session_state.get(KEY):
        return UTC
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def choose() -> None:
    """Draw the choice between UTC and local time."""
    st.toggle(_("Local times"), key=KEY, help=_("Times are in UTC otherwise."))


def moment(value: datetime | int | None) -> str:
    """Format a time to the minute with its zone; an integer is in epoch milliseconds."""
    if value is None:
        return "–"
    if isinstance(value, int):
        value = datetime.fromtimestamp(value / 1000, UTC)
    local = value.astimezone(zone())
    return f"{local:%Y-%m-%d %H:%M} {local.tzname() or 'UTC'}"
