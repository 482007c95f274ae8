"""Pairs of items that enough people took in one visit, for lists that anybody may see.

A person counts once for an item and once for a pair, however often they took it. Items and pairs of
fewer people than the minimum are left out before anything is counted, so nobody's visit changes
these tables unless as many others took the same items. They are learned with the rest of recall,
from the same visits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.kernels.sparse_scores import Scores, begins, stable_order
from tactful.recall.neighbours import ranges
from tactful.recall.tables import Interactions
from tactful.util.checked_arrays import is_partition, map_array, require, within

MOST_PAIRS = 50
"""Most pairs that are kept of an item, the strongest."""

_LONGEST_VISIT = 500
_AT_ONCE = 1 << 20
_MOST_PEOPLE = 1 << 31
_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class PairTable:
    """The pairs of each item, the strongest first.

    starts [0, 2, 2, 3]   items [1, 2, | | 0]   people [31, 12, | | 12]   of three items
    """

    starts: NDArray[np.int64]  # start of each item in the others, and the end
    items: NDArray[np.int32]  # the other item's row
    people: NDArray[np.int32]  # number of people who took both

    @classmethod
    def empty(cls) -> PairTable:
        """Make a table of no items."""
        return cls(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))

    def of(self, row: int) -> slice:
        """Return the place of the pairs of an item in `items` and `people`."""
        if row >= len(self.starts) - 1:
            return slice(0, 0)
        return slice(int(self.starts[row]), int(self.starts[row + 1]))


@dataclass(frozen=True)
class CommonPairs:
    """Pairs of items by what enough people did, and the number of people of each item."""

    people: NDArray[np.int32]  # who took each item; 0 for fewer than the minimum
    together: PairTable  # items of one visit, symmetric but for the pairs that were cut off
    following: PairTable  # items that came right after another one
    least: int  # the minimum, of items and of pairs

    @classmethod
    def empty(cls) -> CommonPairs:
        """Make it without items."""
        return cls(np.zeros(0, np.int32), PairTable.empty(), PairTable.empty(), 0)

    @classmethod
    def learn(
        cls,
        seen: Interactions,  # with the people; events of unknown ones count nowhere
        count: int,  # number of rows of the catalogue
        *,
        least: int,  # people who make an item or a pair common; two at least make a pair
        most: int = MOST_PAIRS,
    ) -> CommonPairs:
        """Count people."""
        least = max(least, 2)
        nobody = np.full(len(seen.item), -1, np.int64)
        person = nobody if seen.person is None else seen.person
        events = np.flatnonzero(person >= 0)
        people = _people_of(seen.item[events], person[events], count)
        people[people < least] = 0
        events = events[people[seen.item[events]] > 0]
        events = events[stable_order(seen.session[events])]
        visits = _Visits(
            visit=np.cumsum(begins(seen.session[events]), dtype=np.int32) - np.int32(1),
            item=seen.item[events].astype(np.int32),
            person=person[events].astype(np.int32),
            timestamp=seen.timestamp[events],
        )
        del events
        return cls(
            people=people,
            together=_table(_together(visits, count), people, least, most),
            following=_table(_following(visits, count), people, least, most),
            least=least,
        )

    def together_with(self, row: int, least: int) -> Scores:
        """Score the items of the same visits as an item, by the cosine of their people."""
        return self._scores(self.together, row, least)

    def following_of(self, row: int, least: int) -> Scores:
        """Score the items that came right after an item, by the cosine of their people."""
        return self._scores(self.following, row, least)

    def alike(self, row: int, least: int) -> Scores:
        """Score items by the company they share with an item: 1 for as much as it has itself."""
        company = self.together_with(row, least)
        whole = float((company.values**2).sum())
        if whole == 0.0:
            return Scores.empty()
        shared = [self.together_with(other, least) for other in company.rows.tolist()]
        weights = np.repeat(company.values, [len(scores.rows) for scores in shared])
        rows = np.concatenate([scores.rows for scores in shared])
        values = np.concatenate([scores.values for scores in shared])
        sums = Scores.summed(rows, weights * values / whole, len(self.people))
        return Scores(sums.rows, np.minimum(sums.values, np.float32(1.0)))

    def _scores(self, table: PairTable, row: int, least: int) -> Scores:
        """Score the pairs of at least so many people; a table learned for more has fewer."""
        span = table.of(row)
        items, people = table.items[span].astype(np.int64), table.people[span]
        enough = people >= least
        items, people = items[enough], people[enough]
        order = np.argsort(items)
        either = np.sqrt(float(self.people[row]) * self.people[items]) if len(items) else people
        return Scores(items[order], (people / either)[order].astype(np.float32))

    def save(self, directory: Path) -> None:
        """Write the arrays into a directory that is being sealed."""
        for name, array in self._arrays().items():
            np.save(_path(directory, name), array)

    @classmethod
    def load(cls, directory: Path, count: int, least: int) -> CommonPairs:
        """Map the arrays of `count` items; ModelError names a file that does not fit."""
        people = map_array(path := _path(directory, "people"), np.int32)
        require(len(people) == count and within(people, _MOST_PEOPLE), path, "people of each item")
        return cls(
            people=people,
            together=_load_table(directory, "together", people),
            following=_load_table(directory, "following", people),
            least=least,
        )

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {"people": self.people}
        for name, table in (("together", self.together), ("following", self.following)):
            arrays |= {f"{name}_{field}": column for field, column in vars(table).items()}
        return arrays


class _Visits(NamedTuple):
    """Events of known people with common items, visit by visit, each in its order."""

    visit: NDArray[np.int32]  # number of the visit, ascending
    item: NDArray[np.int32]
    person: NDArray[np.int32]
    timestamp: NDArray[np.int64]


class _Pairs(NamedTuple):
    """People who took two items, as columns; all pairs of a first item are in one part."""

    first: NDArray[np.int32]
    second: NDArray[np.int32]
    person: NDArray[np.int32]


def _people_of(item: NDArray[np.int64], person: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """Count the people of each item."""
    each = int(person.max(initial=0)) + 1
    distinct = _distinct(item * each + person)
    return np.bincount(distinct // each, minlength=count).astype(np.int32)


def _distinct(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sort keys in place, and return each once: `np.unique` takes five times as long."""
    keys.sort()
    return keys[begins(keys)]


def _together(visits: _Visits, count: int) -> Iterator[_Pairs]:
    """Yield the pairs of items of one visit, both ways, of a million at a time.

    Longer visits than 500 items are those of programs, and are left out.
    """
    person = visits.person[begins(visits.visit)]
    keys = _distinct(visits.visit * np.int64(count) + visits.item)
    visit, item = (keys // count).astype(np.int32), (keys % count).astype(np.int32)
    del keys
    sizes = np.bincount(visit, minlength=len(person))
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(item, kind="stable")
    order = order[(sizes[visit[order]] > 1) & (sizes[visit[order]] <= _LONGEST_VISIT)]
    for part in _parts(item[order], sizes[visit[order]], _most_items(count, person)):
        events = order[part]
        of = visit[events]
        second = item[ranges(starts[of], sizes[of])]
        first = np.repeat(item[events], sizes[of])
        other = first != second
        yield _Pairs(first[other], second[other], np.repeat(person[of], sizes[of])[other])


def _following(visits: _Visits, count: int) -> Iterator[_Pairs]:
    """Yield the pairs of items next to each other in a visit; both ways at the same time."""
    visit, item, person, at = visits
    pair = (visit[:-1] == visit[1:]) & (item[:-1] != item[1:])
    tied = pair & (at[:-1] == at[1:])
    first = np.concatenate([item[:-1][pair], item[1:][tied]])
    second = np.concatenate([item[1:][pair], item[:-1][tied]])
    who = np.concatenate([person[:-1][pair], person[:-1][tied]])
    order = np.argsort(first, kind="stable")
    first, second, who = first[order], second[order], who[order]
    for part in _parts(first, np.ones(len(first), np.int64), _most_items(count, person)):
        yield _Pairs(first[part], second[part], who[part])


def _parts(item: NDArray[np.int32], sizes: NDArray[np.int64], most_items: int) -> Iterator[slice]:
    """Cut ascending items into parts of some million pairs, between two items."""
    ends = np.flatnonzero(np.diff(item, append=-1)) + 1  # after the last event of each item
    total = np.cumsum(sizes)
    begin, done = 0, 0
    while begin < len(item):
        enough = int(np.searchsorted(total, done + _AT_ONCE, side="right"))
        enough = min(enough, int(np.searchsorted(item, int(item[begin]) + most_items)))
        end = int(ends[max(int(np.searchsorted(ends, enough, side="right")) - 1, 0)])
        if end <= begin:  # one item alone has more
            end = int(ends[np.searchsorted(ends, begin, side="right")])
        yield slice(begin, end)
        begin, done = end, int(total[end - 1])


def _most_items(count: int, person: NDArray[np.int32]) -> int:
    """Return the number of items whose pairs have keys of 63 bits, with a person."""
    most = (1 << 62) // (max(count, 1) * (int(person.max(initial=0)) + 1))
    return min(most, 1 << 30)


def _table(parts: Iterator[_Pairs], people: NDArray[np.int32], least: int, most: int) -> PairTable:
    """Count the people of each pair, and keep the strongest pairs of each item."""
    count = len(people)
    firsts, seconds, counts = [_NONE], [_NONE], [_NONE]
    for first, second, person in parts:
        if not len(first):
            continue
        begin, each = int(first.min()), int(person.max()) + 1
        pairs = _distinct(((first - np.int64(begin)) * count + second) * each + person) // each
        places = np.flatnonzero(begins(pairs))
        numbers = np.diff(places, append=len(pairs))
        pairs, numbers = pairs[places[numbers >= least]], numbers[numbers >= least]
        one, other = pairs // count + begin, pairs % count
        # Ties are broken by row, so that the same history always gives the same table.
        order = np.lexsort((other, -numbers / np.sqrt(people[other]), one))
        one = one[order]
        strongest = np.arange(len(one)) - np.searchsorted(one, one) < most
        firsts.append(one[strongest])
        seconds.append(other[order[strongest]])
        counts.append(numbers[order[strongest]])
    ones = np.concatenate(firsts)
    return PairTable(
        starts=np.searchsorted(ones, np.arange(count + 1)).astype(np.int64),
        items=np.concatenate(seconds).astype(np.int32),
        people=np.concatenate(counts).astype(np.int32),
    )


def _load_table(directory: Path, name: str, people: NDArray[np.int32]) -> PairTable:
    starts = map_array(path := _path(directory, f"{name}_starts"), np.int64)
    items = map_array(_path(directory, f"{name}_items"), np.int32)
    counts = map_array(_path(directory, f"{name}_people"), np.int32)
    require(is_partition(starts, len(people), len(items)), path, "start of each item")
    fits = within(items, len(people)) and (people[items] > 0).all()
    fits = fits and (people[np.diff(starts) > 0] > 0).all()
    require(bool(fits), _path(directory, f"{name}_items"), "rows of common items")
    fits = len(counts) == len(items) and within(counts, _MOST_PEOPLE, begin=1)
    require(fits, _path(directory, f"{name}_people"), "people of each pair")
    return PairTable(starts, items, counts)


def _path(directory: Path, name: str) -> Path:
    return directory / f"common_pairs_{name}.npy"
