"""Accounts of readers: OpenID Connect by Streamlit, and the patience with wrong keys.

Streamlit does the sign-in and keeps the ID token in a signed cookie; the server checks the token at
every request (``[auth]`` in ``.streamlit/secrets.toml``, with ``expose_tokens = "id"``).
"""

from __future__ import annotations

import time

import streamlit as st

from tactful_ui.components.words import text as _

_REFUSED, _WRONG = "refused_token", "wrong_keys"

KEPT = (_REFUSED, _WRONG)
"""Names in the state of a session that stay at its end."""

_ATTEMPTS = 5
_PAUSE_SECONDS = 30.0


def offered() -> bool:
    """Return whether readers can sign in with an account."""
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False


def id_token() -> str | None:
    """Return the ID token of the reader; None without one, or after the server refused it."""
    if not offered() or not st.user.get("is_logged_in"):
        return None
    token = st.user.tokens.get("id")
    return token if token != st.session_state.get(_REFUSED) else None


def refuse() -> None:
    """Use the present ID token no more in this session."""
    if (token := id_token()) is not None:
        st.session_state[_REFUSED] = token


def button() -> None:
    """Draw the button that leads to the provider, where one is set up."""
    if offered() and st.button(_("Sign in with your account"), icon=":material/login:"):
        st.login()


def leave() -> None:
    """End the session at Streamlit, which forgets the token."""
    if offered() and st.user.get("is_logged_in"):
        st.logout()


def wait_seconds() -> int:
    """Return how long the form for keys stays closed in this session."""
    wrong, since = st.session_state.get(_WRONG, (0, 0.0))
    left = since + _PAUSE_SECONDS - time.monotonic()
    return max(0, round(left)) if wrong >= _ATTEMPTS else 0


def count_wrong_key() -> None:
    """Count a wrong key; five in a row close the form for half a minute."""
    wrong, _since = st.session_state.get(_WRONG, (0, 0.0))
    wrong = 1 if wrong >= _ATTEMPTS else wrong + 1
    st.session_state[_WRONG] = wrong, time.monotonic()
