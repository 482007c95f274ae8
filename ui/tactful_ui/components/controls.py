"""Controls of several pages: a choice that the address keeps, and a change with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from tactful.client import Request
from tactful_ui.components import formats, shell
from tactful_ui.components.words import text as _
from tactful_ui.errors import SourceError

_ADDRESS = "key"
_MAX_REASON = 500


def choose(label: str, keys: Sequence[str], widget: str) -> str:
    """Return the key of the address (`?key=`), or the one chosen, which the address then names.

    Args:
        label: label of the selection.
        keys: at least one key; an address without a known one chooses the first.
        widget: key of the selection in the state of the session.
    """
    asked = st.query_params.get(_ADDRESS)
    index = keys.index(asked) if asked in keys else 0
    key = st.selectbox(label, keys, index=index, key=widget)
    if key != asked:
        st.query_params[_ADDRESS] = key
    return key


def reason(of: str) -> str:
    """Draw the field of a reason inside a form, and return it without white space around it.

    Args:
        of: what the change begins at, such as key and state of a flag. Each has a field of its
            own, so a reason is never sent for something else.
    """
    field = st.text_input(
        _("Reason"), max_chars=_MAX_REASON, key=f"reason-{of}", help=_("It stands in the history.")
    )
    return field.strip()


def change(request: Request[Any], *, because: str) -> None:
    """Send a change and draw the page again; a refusal or a missing reason is shown in its place.

    Args:
        request: the change.
        because: its reason, which the request contains.
    """
    if not because:
        st.error(_("Give a reason: it stands in the history."))
        return
    try:
        shell.ask(request)
    except SourceError as failure:
        st.error(formats.plain(str(failure)))
    else:
        st.rerun()
