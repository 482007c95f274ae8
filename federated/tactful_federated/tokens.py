"""Visits as token sequences: a public vocabulary, one token per category of a basket.

The vocabulary is built from the catalogue's list of categories, which everybody may know, and
never from what people bought: a vocabulary learnt from histories would itself tell of them.

Lines of one basket carry no order in most shops' data, so a basket is read as a *set* of
categories in an order that is a function of the basket alone: the category with the most lines
first (the basket's lead category), equal ones in catalogue order. The token after `BOUNDARY` is
therefore the lead category of a visit, and the tokens after it say what else the basket holds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import SettingsError, VocabularyError

PAD: Final = 0
"""Fills a window up to its length; as an answer it means "not scored"."""

BOUNDARY: Final = 1
"""Opens every basket."""

OTHER: Final = 2
"""A category the catalogue does not list."""

FIRST_CATEGORY: Final = 3
"""The smallest token that stands for a category of the catalogue."""


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
        """Build the vocabulary of a catalogue; order and repetitions of the input do not matter.

        Raises:
            VocabularyError: No category is left after blank ones are dropped.
        """
        return cls(tuple(sorted({name for name in categories if name.strip()})))

    @property
    def size(self) -> int:
        """Number of tokens, the three reserved ones included."""
        return len(self.categories) + FIRST_CATEGORY

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the category list, hex; devices and server must agree on it."""
        return hashlib.sha256("\0".join(self.categories).encode()).hexdigest()

    @cached_property
    def _tokens(self) -> Mapping[str, int]:
        return {name: token for token, name in enumerate(self.categories, FIRST_CATEGORY)}

    def token(self, category: str) -> int:
        """Token of `category`, `OTHER` if the catalogue does not list it."""
        return self._tokens.get(category, OTHER)

    def category(self, token: int) -> str:
        """Category of `token`.

        Raises:
            VocabularyError: The token is reserved or outside the vocabulary.
        """
        if not FIRST_CATEGORY <= token < self.size:
            raise VocabularyError(
                f"token {token} stands for no category; categories are {FIRST_CATEGORY} to "
                f"{self.size - 1}"
            )
        return self.categories[token - FIRST_CATEGORY]

    def sequence(self, baskets: Iterable[Sequence[str]]) -> NDArray[np.int64]:
        """Token sequence of baskets in time order.

        Args:
            baskets: For each basket the category of each of its lines, in any order.

        Returns:
            int64 of shape (tokens,): for each basket that has a line, `BOUNDARY` and then each
            of its categories once, most lines first, equal ones in catalogue order.
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
    """Next-token questions cut to one length; row r asks `answers[r, t]` after `inputs[r, :t+1]`.

    `inputs` and `answers` are of shape (rows, length), int64 but for `compact` ones. An answer of
    `PAD` is not scored.
    """

    inputs: NDArray[np.signedinteger]
    answers: NDArray[np.signedinteger]

    @property
    def steps(self) -> int:
        """Number of questions scored."""
        return int(np.count_nonzero(self.answers != PAD))

    def compact(self) -> Windows:
        """The same in two bytes a token, for a simulation that holds thousands of devices'."""
        return Windows(self.inputs.astype(np.int16), self.answers.astype(np.int16))


def windows(
    sequence: NDArray[np.int64], *, start: int = 1, scored: int = 24, context: int = 24
) -> Windows:
    """Cut the questions at positions `start` and later out of a sequence.

    Every position p >= max(start, 1) whose token is a category of the catalogue is asked exactly
    once, from the token before it and at least `context` tokens before that where the sequence
    has them. `BOUNDARY` and `OTHER` are read but never asked.

    Args:
        sequence: Tokens, int64 of shape (tokens,).
        start: First position asked; earlier ones serve as context only.
        scored: Positions asked per window, at least 1.
        context: Positions a window reads before the first it asks, at least 0.

    Returns:
        Windows of length `context + scored`, filled up with `PAD` on the right.

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
    """Sequence of all baskets, and the position where the latest ones, held out, begin.

    Args:
        baskets: Baskets in time order.
        vocabulary: Public vocabulary.
        held_out: Share of baskets held out, rounded down to whole baskets.

    Returns:
        Tokens of shape (tokens,), and `cut`: `tokens[:cut]` is what may be trained on.
    """
    kept = len(baskets) - int(len(baskets) * held_out)
    past, latest = vocabulary.sequence(baskets[:kept]), vocabulary.sequence(baskets[kept:])
    return np.concatenate([past, latest]), len(past)
