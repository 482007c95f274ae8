"""The text of a search as words, whatever it contains.

>>> [word.text for word in read_query("Crème brûlée, 红色皮鞋")]
['creme', 'brulee', '红色皮鞋']
"""

from __future__ import annotations

from typing import NamedTuple

from tactful.catalogue.words import runs
from tactful.schemas.search import LONGEST_QUERY
from tactful.search.item_text import LONGEST_WORD

MOST_WORDS = 16
"""Different words of a query that count, the first ones."""


class Word(NamedTuple):
    """One word of a query."""

    text: str
    is_begun: bool = False  # whether words that begin so match, too: the last one is being typed
    is_run: bool = False  # whether the script writes no spaces, so that it may be several words

    @property
    def pairs(self) -> list[str]:
        """Pairs of neighbouring characters of a run; of a single one none."""
        return [*dict.fromkeys(self.text[at : at + 2] for at in range(len(self.text) - 1))]

    @property
    def edits(self) -> int:
        """Number of typing errors that the word may have.

        A word with a digit is a number or a code, and one of another script than letters with case
        differs in meaning by one character.
        """
        if self.is_run or not self.text.isalpha() or self.text.upper() == self.text:
            return 0
        return 2 if len(self.text) >= 8 else 1 if len(self.text) >= 4 else 0


def read_query(text: str) -> tuple[Word, ...]:
    """Return the different words of a query, at most `MOST_WORDS`; none for no letter or digit."""
    found = [*runs(text[:LONGEST_QUERY])]
    words: dict[str, Word] = {}
    for place, (run, is_unspaced) in enumerate(found, 1):
        run = run[:LONGEST_WORD]
        is_last = place == len(found)
        word = Word(run, is_begun=is_last and not is_unspaced, is_run=is_unspaced)
        if run not in words or word.is_begun:
            words[run] = word
    return tuple(words.values())[:MOST_WORDS]
