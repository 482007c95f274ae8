"""Texts as lines of words, to count which of some words occur in many texts.

A text is split once and remembered; then a word is found by one search of its line::

    "Crème brûlée, 2 cups"  ->  " creme brulee 2 cups "
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.words import words

_MOST_CHARACTERS = 16_000_000
_LONGEST = 4_000


class WordLines:
    """Lines of the latest texts; at most sixteen million characters of them."""

    def __init__(self) -> None:
        """Start empty."""
        self._lines: dict[str, str] = {}
        self._held = 0

    def share_found(self, wanted: Collection[str], texts: Sequence[object]) -> NDArray[np.float32]:
        """Return the share of some words in each text; NaN for no text or an empty one.

        The first 4,000 characters of a text count.
        """
        marked = [f" {word} " for word in wanted]
        return np.array(
            [
                sum([word in line for word in marked]) / len(marked)
                if isinstance(text, str) and (line := self._lines.get(text) or self._split(text))
                else math.nan
                for text in texts
            ],
            np.float32,
        )

    def _split(self, text: str) -> str:
        if not text:
            return ""
        line = f" {' '.join(words(text[:_LONGEST]))} "
        if self._held > _MOST_CHARACTERS:
            self._lines, self._held = {}, 0
        self._lines[text] = line
        self._held += len(text) + len(line)
        return line
