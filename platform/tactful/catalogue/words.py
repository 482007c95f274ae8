"""Words of a text for search: without case and accents, by characters where no spaces separate.

Chinese, Japanese, Thai, Lao, Burmese and Khmer write no spaces between words. Each pair of
neighbouring characters of such a run is a term, and so is the last character alone. Any part of the
run is found: by its pairs, and a single character as the beginning of a pair.

>>> words("Crème brûlée, 茶壶套装")
['creme', 'brulee', '茶壶', '壶套', '套装', '装']
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

# Thai and Lao; Burmese; Khmer; kana; Chinese characters and those of Japanese.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUNS = re.compile(f"(?P<unspaced>[{_UNSPACED}]+)|[^\\W_{_UNSPACED}]+")
_PLAIN_RUNS = re.compile(r"[a-z0-9]+")
# Letters that Unicode does not decompose.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d"}
)


class Query(NamedTuple):
    """Terms that an item must have: some whole, some as beginnings."""

    whole: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()


def fold(text: str) -> str:
    """Remove case, accents and differences of width."""
    if text.isascii():
        return text.lower()
    parts = unicodedata.normalize("NFKD", text.casefold()).translate(_LETTERS)
    return "".join(part for part in parts if unicodedata.category(part)[0] != "M").casefold()


def words(text: str) -> list[str]:
    """Return the terms of a text by which it is found, in order, perhaps repeated."""
    folded = fold(text)
    if folded.isascii():
        return _PLAIN_RUNS.findall(folded)
    return [term for run, is_unspaced in _runs(folded) for term in _terms(run, is_unspaced)]


def query_of(text: str) -> Query:
    """Return the terms of a search: its words, of which the last may be a beginning.

    A text without any word gives no term.

    >>> query_of("blue TEA")
    Query(whole=('blue',), begun=('tea',))
    >>> query_of("茶 pot ")
    Query(whole=(), begun=('茶', 'pot'))
    """
    whole: dict[str, None] = {}
    begun: dict[str, None] = {}
    found = [*runs(text)]
    for place, (run, is_unspaced) in enumerate(found, 1):
        if is_unspaced and len(run) > 1:
            whole |= dict.fromkeys(_terms(run, is_unspaced)[:-1])
        elif is_unspaced or place == len(found):
            begun[run] = None
        else:
            whole[run] = None
    return Query(tuple(whole), tuple(begun))


def runs(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the folded runs of letters and digits, and whether their script writes no spaces."""
    return _runs(fold(text))


def _runs(folded: str) -> Iterator[tuple[str, bool]]:
    for match in _RUNS.finditer(folded):
        yield match[0], match["unspaced"] is not None


def _terms(run: str, is_unspaced: bool) -> list[str]:
    if not is_unspaced:
        return [run]
    return [run[at : at + 2] for at in range(len(run))]
