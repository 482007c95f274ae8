"""Sentences of the pages in the reader's language, English or Chinese.

The English sentence is the key. The catalogues are `locale/LANGUAGE/*.json`, one for each page and
`shared.json`; a sentence without a translation is shown in English.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import streamlit as st

LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "中文"}
"""Names of the languages, each in itself."""

KEY = "language"
"""Key of the choice in the state of a session."""

_FOLDER = Path(__file__).resolve().parents[1] / "locale"


def text(english: str, **values: object) -> str:
    """Return a sentence in the reader's language, with `values` for its fields in braces."""
    found = catalogue(language()).get(english, english)
    return found.format(**values) if values else found


def language() -> str:
    """Return the code of the chosen language, at first that of the browser."""
    chosen = st.session_state.get(KEY)
    if chosen in LANGUAGES:
        return str(chosen)
    locale = (st.context.locale or "").split("-")[0].lower()
    return locale if locale in LANGUAGES else "en"


def choose() -> None:
    """Draw the choice of the language."""
    codes = list(LANGUAGES)
    chosen = st.selectbox(
        "Language / 语言",
        codes,
        index=codes.index(language()),
        format_func=LANGUAGES.__getitem__,
        key="chosen_language",
    )
    if chosen != language():
        st.session_state[KEY] = chosen
        st.rerun()


@functools.cache
def catalogue(code: str) -> Mapping[str, str]:
    """Return the translations of a language by the English sentence; empty for English."""
    found: dict[str, str] = {}
    for path in sorted((_FOLDER / code).glob("*.json")):
        found |= json.loads(path.read_text("utf-8"))
    return found
