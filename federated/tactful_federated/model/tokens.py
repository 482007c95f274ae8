"""Visits as token sequences over a public vocabulary of categories.

The vocabulary is built from the public list of categories of the catalogue, never from purchases:
a vocabulary learnt from histories would reveal information about them.

The lines of a basket have no order in the data of most shops, so a basket is read as a *set* of
categories, sorted by number of lines (most first), then in catalogue order. The token after
`BOUNDARY` is the lead category of the visit; the tokens after it are its other categories:

    [["tea", "milk", "tea"], ["soap"]]  ->  BOUNDARY tea milk BOUNDARY soap
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import SettingsError, VocabularyError

PAD: Final = 0
"""Padding of a window; as an answer it means "not scored"."""

BOUNDARY: Final = 1
"""First token of every basket."""

OTHER: Final = 2
"""Token of a category that is not in the catalogue."""

FIRST_CATEGORY: Final = 3
"""Smallest token of a category of the catalogue."""


@dataclass(frozen=True)
class Vocabulary:
    """Public categories and their tokens; category i of `categories` is token i + 3."""

    categories: tuple[str, ...]

    def __post_init__(self) -> None:
        """Raise `VocabularyError` on an empty or repeated category list."""
        if not self.categories:
            raise VocabularyError("the catalogue lists no category; give at least one")
        repeated = [name for name, n in Counter(self.categories).items() if n > 1]
        if repeated:
            raise VocabularyError(f"the catalogue lists category {repeated[0]!r} more than once")

    @classmethod
    def from_catalogue(cls, categories: Iterable[str]) -> Vocabulary:
        """Build the vocabulary of a catalogue; input order and repetitions are ignored.

        Raises:
            VocabularyError: All categories are blank, or there are none.
        """
        return cls(tuple(sorted({name for name in categories if name.strip()})))

    @property
    def size(self) -> int:
        """Number of tokens, including the three reserved ones."""
        return len(self.categories) + FIRST_CATEGORY

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the category list, hex; must be equal on devices and server."""
        return hashlib.sha256("\0".join(self.categories).encode()).hexdigest()

    @cached_property
    def _tokens(self) -> Mapping[str, int]:
        return {name: token for token, name in enumerate(self.categories, FIRST_CATEGORY)}

    def token(self, category: str) -> int:
        """Return the token of `category`, `OTHER` if it is not in the catalogue."""
        return self._tokens.get(category, OTHER)

    def category(self, token: int) -> str:
        """Return the category of `token`.

        Raises:
            VocabularyError: The token is reserved or outside the vocabulary.
        """
        if not FIRST_CATEGORY <= token < self.size:
            raise VocabularyError(
                f"token {token} is not a category: categories are {FIRST_CATEGORY} to "
                f"{self.size - 1}"
            )
        return self.categories[token - FIRST_CATEGORY]

    def sequence(self, baskets: Iterable[Sequence[str]]) -> NDArray[np.int64]:
        """Return the token sequence of baskets in time order, int64 of shape (tokens,).

        For each non-empty basket it holds `BOUNDARY`, then each of its categories once, sorted by
        number of lines (most first), then in catalogue order.
        """
        out: list[int] = []
        for basket in baskets:
            lines = Counter(self.token(category) for category in basket)
            if lines:
                out.append(BOUNDARY)
                out.extend(sorted(lines, key=lambda token: (-lines[token], token)))
        return np.asarray(out, dtype=np.int64)


@dataclass(frozen=True)
class Windows:
    """Next-token questions in rows of equal length.

    Row r asks for `answers[r, t]` given `inputs[r, :t+1]`. Both arrays have the shape
    (rows, length) and are int64 (int16 after `compact`). An answer of `PAD` is not scored:

        inputs   BOUNDARY  tea   milk      BOUNDARY  PAD
        answers  tea       milk  PAD       soap      PAD
    """

    inputs: NDArray[np.signedinteger]
    answers: NDArray[np.signedinteger]

    @property
    def steps(self) -> int:
        """Number of questions scored."""
        return int(np.count_nonzero(self.answers != PAD))

    def batches(self, size: int, shuffle: np.random.Generator) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each step of an epoch; steps without question are skipped."""
        order = shuffle.permutation(len(self.inputs))
        for first in range(0, len(order), size):
            rows = order[first : first + size]
            if (self.answers[rows] != PAD).any():
                yield rows

    def compact(self) -> Windows:
        """Return an int16 copy, for simulations of thousands of devices."""
        return Windows(self.inputs.astype(np.int16), self.answers.astype(np.int16))


def windows(
    sequence: NDArray[np.int64], *, start: int = 1, scored: int = 24, context: int = 24
) -> Windows:
    """Cut a sequence into windows that ask its tokens from position `start` on.

    Each position p >= max(start, 1) whose token is a category of the catalogue is asked exactly
    once, given the token before it and at least `context` earlier tokens (fewer at the start of
    the sequence). `BOUNDARY` and `OTHER` are inputs but never asked.

    Args:
        sequence: Tokens, int64 of shape (tokens,).
        start: First position asked; earlier ones are context only.
        scored: Positions asked per window, at least 1.
        context: Positions before the first one asked, at least 0.

    Returns:
        Windows of length `context + scored`, padded with `PAD` on the right.

    Raises:
        SettingsError: `scored` or `context` lies outside its range.
    """
    if scored < 1 or context < 0:
        raise SettingsError(f"windows need scored >= 1 and context >= 0, not {scored}, {context}")
    start, length = max(start, 1), context + scored
    firsts = range(start, len(sequence), scored)
    inputs = np.full((len(firsts), length), PAD, dtype=np.int64)
    answers = np.full((len(firsts), length), PAD, dtype=np.int64)
    for row, first in enumerate(firsts):
        begin, end = max(1, first - context), min(first + scored, len(sequence))
        inputs[row, : end - begin] = sequence[begin - 1 : end - 1]
        asked = sequence[first:end]
        answers[row, first - begin : end - begin] = np.where(asked >= FIRST_CATEGORY, asked, PAD)
    return Windows(inputs, answers)


def split_by_time(
    baskets: Sequence[Sequence[str]], vocabulary: Vocabulary, held_out: float
) -> tuple[NDArray[np.int64], int]:
    """Return the sequence of all baskets in time order and the position of the held-out ones.

    A share `held_out` of the latest baskets is held out, rounded down to whole baskets. Tokens
    before the position are the training part.
    """
    training_count = len(baskets) - int(len(baskets) * held_out)
    past = vocabulary.sequence(baskets[:training_count])
    return np.concatenate([past, vocabulary.sequence(baskets[training_count:])]), len(past)
