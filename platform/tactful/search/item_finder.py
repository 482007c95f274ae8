"""Text index of the items of an engine in this process, kept up to date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.changes import EngineItems
from tactful.catalogue.request_context import FeatureSource
from tactful.search.cursor import CursorKey
from tactful.search.meaning import MOST_NEAR, Near
from tactful.search.query import read_query
from tactful.search.text_index import TextIndex, TextMatches

_AT_ONCE = 5_000


@dataclass(frozen=True)
class Matches:
    """Items that match a query by words, by meaning or by sound."""

    text: TextMatches
    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]  # BM25 of each, NaN for an item without the words
    near: NDArray[np.float32]  # cosine of each, NaN for an item that is not among the nearest
    sound: NDArray[np.float32]  # share of equal sounds of each, NaN for none

    def with_sound(self, shares: Mapping[int, float]) -> Matches:
        """Return these items and those that sound like a spoken query, by their numbers."""
        others = np.sort(np.array([*shares.keys() - {*self.numbers.tolist()}], np.int64))
        numbers = np.concatenate([self.numbers, others])
        none = np.full(len(others), np.nan, np.float32)
        return Matches(
            self.text,
            numbers,
            np.concatenate([self.scores, none]),
            np.concatenate([self.near, none]),
            np.array([shares.get(number, np.nan) for number in numbers.tolist()], np.float32),
        )


class ItemFinder:
    """Finds items by text; the index is built at the first search. For one thread.

    The index holds descriptions of items and nothing about people.

    Attributes:
        cursors: key of its cursors, another one for each index: numbers of items differ, too.
    """

    def __init__(self, source: FeatureSource, reading: AbstractContextManager[object]) -> None:
        """Search the items of `source`; `reading` is held while the engine is read."""
        self._feed = EngineItems(source)
        self._reading = reading
        self._index: TextIndex | None = None
        self.cursors = CursorKey.new()

    @property
    def ids(self) -> list[str]:
        """Ids of the items by number; it only grows."""
        return [] if self._index is None else self._index.ids

    def find(
        self, text: str, *, by_sound: Mapping[str, float] | None = None, near: Near | None = None
    ) -> Matches:
        """Find the items that match a text, among them those that changed a moment ago.

        Args:
            text: the query; without a word only `near` and `by_sound` find items.
            by_sound: share of equal sounds by item id, of titles that sound like it.
            near: items near the meaning or the picture of the query; those without the words are
                added if fewer items have the words than can be near.

        Raises:
            ImportError: if the extra ``search`` is not installed.
        """
        if self._index is None:
            self._index = TextIndex()
        changed = self._feed.changes(self._reading)
        for start in range(0, len(changed), _AT_ONCE):
            self._index.put(changed[start : start + _AT_ONCE])
        found = self._index.find(read_query(text))
        none = np.full(len(found.numbers), np.nan, np.float32)
        matches = Matches(found, found.numbers, found.scores, none, none)
        if near is not None:
            matches = _joined(found, self._numbered(near.item_ids, near.cosines))
        shares = self._numbered(by_sound or {}, (by_sound or {}).values())
        return matches.with_sound(shares) if shares else matches

    def _numbered(self, item_ids: Iterable[str], values: Iterable[float]) -> dict[int, float]:
        """Return values by the numbers of the items, without unknown items."""
        assert self._index is not None
        pairs = zip(map(self._index.number_of, item_ids), values, strict=True)
        return {number: value for number, value in pairs if number is not None}


def _joined(found: TextMatches, cosines: Mapping[int, float]) -> Matches:
    others = np.zeros(0, np.int64)
    if len(found.numbers) < MOST_NEAR:
        others = np.sort(np.array([*cosines.keys() - {*found.numbers.tolist()}], np.int64))
    numbers = np.concatenate([found.numbers, others])
    scores = np.concatenate([found.scores, np.full(len(others), np.nan, np.float32)])
    known = [cosines.get(number, np.nan) for number in numbers.tolist()]
    none = np.full(len(numbers), np.nan, np.float32)
    return Matches(found, numbers, scores, np.array(known, np.float32), none)
