"""Part of the page "Data": the newest events and refusals as they come."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import streamlit as st

from tactful_ui.components import formats, shell, times
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_SHOWN = 50


@st.fragment
def draw() -> None:
    """Draw the stream while it is followed; nothing else of the page is drawn again."""
    st.caption(
        _("Users and devices are shown as hashes. Following is noted in the trail of accesses.")
    )
    if not st.toggle(_("Follow"), key="follow_events"):
        return
    place = st.empty()
    place.caption(_("Waiting for events …"))
    accepted, refused = Counter[str](), Counter[str]()
    newest: deque[dict[str, Any]] = deque(maxlen=_SHOWN)
    try:
        for message in shell.source().follow():
            accepted.update(message.accepted)
            refused.update(message.refused)
            newest.extendleft(message.newest)
            with place.container():
                _counts(_("Accepted since you follow"), accepted)
                _counts(_("Refused since you follow"), refused)
                st.dataframe(_columns(newest), hide_index=True, width="stretch")
    except SourceError as failure:
        shell.explain(failure)
        return
    st.caption(_("The stream has ended: switch it off and on to follow again."))


def _counts(title: str, counts: Counter[str]) -> None:
    listed = ", ".join(f"{name} {number:,}" for name, number in counts.most_common())
    st.markdown(f"**{title}**: {formats.plain(listed) or '0'}")


def _columns(newest: deque[dict[str, Any]]) -> dict[str, list[str]]:
    return {
        _("Time"): [times.moment(event.get("timestamp")) for event in newest],
        _("Type"): [str(event.get("type", "")) for event in newest],
        _("User, hashed"): [
            str(event.get("user_id") or event.get("device_id", "")) for event in newest
        ],
        _("Item"): [str(event.get("item_id", "")) for event in newest],
    }
