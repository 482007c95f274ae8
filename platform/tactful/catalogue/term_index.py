"""An inverted index of the words, categories and availability of items.

    ids       ["a-1", "b-2", "c-3"]                   ascending; a place is a number in it
    text      b"blue|mug|tea" (without bars)          every term once, ascending
    postings  [0, 2 | 1 | 0, 1]                       the places of the items of each term

An index never changes, but for the prices. Terms that begin alike lie side by side, and so do their
postings: the beginning of a word costs as little as a word.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.words import Query, query_of, words
from tactful_streaming.contract.log_entries import Item

_MOST_WORDS = 200
_HIGHEST_PRICE = 1e30
# Beginnings of terms that are no words: no word contains these characters.
_CATEGORY, _AVAILABLE, _UNAVAILABLE = "\x00", "\x01", "\x02"


class Terms(NamedTuple):
    """Terms that an item must have: some whole, some as beginnings."""

    whole: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, search: str | None = None, category: str | None = None, available: bool | None = None
    ) -> Terms | None:
        """Return the terms of a search; None for a text without words, which no item matches."""
        query = Query() if not search else query_of(search)
        if search and not (query.whole or query.begun):
            return None
        marks = () if category is None else (_CATEGORY + category,)
        if available is not None:
            marks = (*marks, _AVAILABLE if available else _UNAVAILABLE)
        return cls((*query.whole, *marks), query.begun)

    def match(self, terms: frozenset[str]) -> bool:
        """Return whether an item with these terms has all."""
        return terms.issuperset(self.whole) and all(
            any(term.startswith(begun) for term in terms) for begun in self.begun
        )


class Alike(NamedTuple):
    """Items described alike another one, in no order."""

    places: NDArray[np.int64]
    cosines: NDArray[np.float32]


@dataclass(frozen=True)
class TermIndex:
    """The terms of items; `of` makes it."""

    ids: list[str]  # ascending
    prices: NDArray[np.float32]  # NaN where unknown
    _descriptions: NDArray[np.int64]  # hash of what the terms follow from
    _text: bytes
    _ends: NDArray[np.int64]  # end of each term in `_text`
    _starts: NDArray[np.int64]  # start of each term in `_postings`, and the end
    _postings: NDArray[np.uint32]
    _rarity: NDArray[np.float32]  # by term: log(1 + items / items with it), 0 for those of one item
    _norms: NDArray[np.float32]  # by place: length of the vector of rarities

    @classmethod
    def of(cls, items: Sequence[Item]) -> TermIndex:
        """Build it; 100,000 items take about a second."""
        items = sorted(items, key=lambda item: item.item_id)
        names, term, place = _postings_of(items)
        counts = np.bincount(term, minlength=len(names))
        rarity = np.where(counts > 1, np.log1p(len(items) / np.maximum(counts, 1)), 0.0)
        squares = np.bincount(place, weights=rarity[term] ** 2, minlength=len(items))
        sizes = np.fromiter((len(name.encode()) for name in names), np.int64, len(names))
        return cls(
            ids=[item.item_id for item in items],
            prices=np.fromiter(map(price_of, items), np.float32, len(items)),
            _descriptions=np.fromiter(map(_description, items), np.int64, len(items)),
            _text="".join(names).encode(),
            _ends=np.cumsum(sizes),
            _starts=np.concatenate([[0], np.cumsum(counts)]),
            _postings=place[np.argsort(term, kind="stable")],
            _rarity=rarity.astype(np.float32),
            _norms=np.sqrt(squares).astype(np.float32),
        )

    def place_of(self, item_id: str) -> int | None:
        """Return the place of an item; None for an unknown one."""
        place = bisect_left(self.ids, item_id)
        return place if place < len(self.ids) and self.ids[place] == item_id else None

    def describes(self, place: int, item: Item) -> bool:
        """Return whether the terms at a place are those of a description."""
        return int(self._descriptions[place]) == _description(item)

    def matches(self, terms: Terms) -> NDArray[np.bool_]:
        """Return whether each item has all terms, shape (len(ids),)."""
        passing = np.ones(len(self.ids), np.bool_)
        ranges = [self._range(term, term) for term in terms.whole]
        ranges += [self._range(term, term + "\U0010ffff") for term in terms.begun]
        for begin, end in ranges:
            having = np.zeros(len(self.ids), np.bool_)
            having[self._places(begin, end)] = True
            passing &= having
            if begin == end:
                break  # no item has this term
        return passing

    def categories(self, passing: NDArray[np.bool_]) -> dict[str, int]:
        """Count the passing items of each category that has some."""
        (begin, _), (end, _) = (
            self._range(_CATEGORY, _CATEGORY),
            self._range(_AVAILABLE, _AVAILABLE),
        )
        counts = {}
        for number in range(begin, end):
            if count := int(np.count_nonzero(passing[self._places(number, number + 1)])):
                counts[self._term(number)[1:].decode()] = count
        return counts

    def alike(self, own: Mapping[str, float], allowed: NDArray[np.bool_]) -> Alike:
        """Return the allowed items that share terms with `own`, which has `rarities`."""
        scores = np.zeros(len(self.ids), np.float32)
        for term, rarity in own.items():
            scores[self._places(*self._range(term, term))] += rarity**2
        places = np.flatnonzero((scores > 0.0) & allowed)
        norm = np.float32(sum(rarity**2 for rarity in own.values()) ** 0.5)
        return Alike(places, scores[places] / (self._norms[places] * norm))

    def rarities(self, terms: Iterable[str]) -> dict[str, float]:
        """Return the weights of terms that at least two items have."""
        found = {}
        for term in terms:
            begin, end = self._range(term, term)
            if begin < end and self._rarity[begin] > 0.0:
                found[term] = float(self._rarity[begin])
        return found

    def _places(self, begin: int, end: int) -> NDArray[np.uint32]:
        return self._postings[self._starts[begin] : self._starts[end]]

    def _range(self, first: str, last: str) -> tuple[int, int]:
        """Return the numbers of the terms from `first` to `last`, the end excluded."""
        numbers = range(len(self._ends))
        begin = bisect_left(numbers, first.encode(), key=self._term)
        end = bisect_left(numbers, last.encode() + b"\x00", lo=begin, key=self._term)
        return begin, end

    def _term(self, number: int) -> bytes:
        begin = int(self._ends[number - 1]) if number else 0
        return self._text[begin : int(self._ends[number])]


def _postings_of(
    items: Sequence[Item],
) -> tuple[list[str], NDArray[np.uint32], NDArray[np.uint32]]:
    """Return all terms, ascending, and of each pair of term and item the term and the place."""
    numbers: dict[str, int] = {}
    flat, sizes = array("I"), array("I")
    for item in items:
        terms = terms_of(item)
        flat.extend([numbers.setdefault(term, len(numbers)) for term in terms])
        sizes.append(len(terms))
    names = sorted(numbers)
    rank = np.empty(len(names), np.uint32)
    rank[np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))] = np.arange(len(names))
    places = np.arange(len(items), dtype=np.uint32)
    return names, rank[np.array(flat)], np.repeat(places, np.array(sizes))


def terms_of(item: Item) -> dict[str, None]:
    """Return the terms by which an item is found, each once."""
    return dict.fromkeys(
        (
            *words(item.title or "")[:_MOST_WORDS],
            *words(item.item_id)[:_MOST_WORDS],
            *_category_of(item),
            _AVAILABLE if item.available else _UNAVAILABLE,
        )
    )


def alike_terms(item: Item) -> dict[str, None]:
    """Return the terms that make other items alike: of its title and its category."""
    return dict.fromkeys((*words(item.title or "")[:_MOST_WORDS], *_category_of(item)))


def price_of(item: Item) -> float:
    """Return the price of an item; NaN for an unknown one, and for one beyond 32 bits."""
    return np.nan if item.price is None or item.price > _HIGHEST_PRICE else item.price


def _category_of(item: Item) -> tuple[str, ...]:
    return () if item.category is None else (_CATEGORY + item.category,)


def _description(item: Item) -> int:
    return hash((item.title, item.category, item.available))
