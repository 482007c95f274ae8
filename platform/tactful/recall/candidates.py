"""From a context to at most a thousand candidates, each with what its channels know about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from heapq import nsmallest
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import (
    FeatureSource,
    RequestContext,
    read_nonzero,
    read_placed,
)
from tactful.errors import ConfigError
from tactful.kernels.sparse_scores import Scores, stable_order
from tactful.recall.cohorts import coldness
from tactful.recall.index import CHANNELS, RecallIndex, direction
from tactful.recall.neighbours import neighbourhood
from tactful.util.growable_array import lengthened
from tactful.util.scalars import is_whole_number
from tactful.vectors.ivf_index import Nearest
from tactful.vectors.storage import RowVectors, StoredVectors

SOLD = ("sold_7d", "sold_28d", "sold_84d")
"""What is read of each item of a list: how much everybody took within a week, four and twelve."""

_TAKEN = "sold_28d"
_PART = 4_096
_REACH = 8
_NOWHERE = np.iinfo(np.int32).max


class VectorSearch(Protocol):
    """Search over the vectors of items: an index as it was built, or with what came since."""

    @property
    def stored(self) -> StoredVectors:
        """The vectors by row."""

    def nearest(
        self, query: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None = None
    ) -> Nearest:
        """Up to `count` allowed rows with the largest inner products, best first."""


@dataclass(frozen=True)
class Quotas:
    """How many candidates each channel may bring; 0 turns it off. An arm may have its own.

    Attributes:
        following: by what came next before; so many for the last items and for the whole visit.
        together: by what was in the same visits; so many for this visit and for the history.
        sessions: by what similar visits went on to.
        vectors: by nearness to the visit, or to the history when the visit is empty.
        repeat: by what the person takes again and again.
        popular: by what everybody takes now.
        intent: by what is popular in the categories the request intends.
        campaign: by what a running campaign shows, the most popular first.
        cohort: by what people like this one take, while next to nothing else is known.
        trending: by what rises in published statistics.
        total: of all channels together; those that a channel placed highest stay.
    """

    following: int = 150
    together: int = 150
    sessions: int = 200
    vectors: int = 200
    repeat: int = 120
    popular: int = 100
    intent: int = 60
    campaign: int = 20
    cohort: int = 100
    trending: int = 60
    total: int = 1_000

    @classmethod
    def of(cls, changes: object, *, where: str) -> Quotas:
        """The defaults with some changes.

        Args:
            changes: quota by name, as read from a file.
            where: what to call their place in a message.

        Raises:
            ConfigError: if it is no mapping, a name is unknown or a value is not from 0 to 1,000.
        """
        known = [each.name for each in fields(cls)]
        if not isinstance(changes, Mapping):
            raise ConfigError(f"{where}: must be quotas by name")
        for name, value in changes.items():
            if name not in known:
                raise ConfigError(
                    f"{where}: there is no quota {name!r}; there are {', '.join(known)}"
                )
            if not is_whole_number(value) or not 0 <= value <= 1_000:
                raise ConfigError(f"{where}.{name}: must be a whole number from 0 to 1000")
        return cls(**changes)


@dataclass(frozen=True)
class Popularity:
    """Which items everybody takes.

    Attributes:
        rows: available rows, the most popular first.
        places: place of each row in `rows`, its length or more where it is not there, shape
            (n_items,).
    """

    rows: NDArray[np.int64]
    places: NDArray[np.int32]

    @classmethod
    def of(cls, rows: NDArray[np.int64], count: int) -> Popularity:
        """From rows in order, out of `count` rows."""
        places = np.full(count, _NOWHERE, np.int32)
        places[rows] = np.arange(len(rows), dtype=np.int32)
        return cls(rows, places)

    def grown(
        self, available: NDArray[np.bool_], rows: NDArray[np.int64] | None = None
    ) -> Popularity:
        """With the rows that are available now and were not counted yet at the end.

        It shares memory with this one, which stays as it is. Only the latest may grow further.

        Args:
            available: of all rows.
            rows: ascending, those that may have come or changed; None for all.
        """
        fresh = np.full(len(available) - len(self.places), _NOWHERE, np.int32)
        places = lengthened(self.places, fresh)
        rows = np.arange(len(available)) if rows is None else rows
        added = rows[available[rows] & (places[rows] >= len(self.rows))]
        found = lengthened(self.rows, added)
        places[added] = np.arange(len(self.rows), len(found), dtype=np.int32)
        return Popularity(found, places)

    def places_of(self, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        """Their places among all, the first behind them for those that are not there."""
        return np.minimum(self.places[rows], np.int32(len(self.rows)))

    def first(self, allowed: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
        """The `count` most popular of the allowed rows."""
        top = self.rows[: _REACH * count]
        found = top[allowed[top]]
        if len(found) >= count or len(top) == len(self.rows):
            return found[:count]
        # A narrow filter: what passes is less than what would have to be looked through.
        return self.best(np.flatnonzero(allowed), count)

    def best(self, rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """The `count` most popular of some rows."""
        places = self.places[rows]
        rows, places = rows[places < len(self.rows)], places[places < len(self.rows)]
        if len(rows) > count:
            nearest = np.argpartition(places, count)[:count]
            rows, places = rows[nearest], places[nearest]
        return rows[np.argsort(places)]


@dataclass(frozen=True)
class Candidates:
    """Candidate items and the scores the channels gave them.

    Attributes:
        rows: catalogue rows, ascending, shape (n,).
        channel: number in `CHANNELS` of the channel that ranked the item best, shape (n,).
        vectors: their vectors, zero where there is none.
        next_last: score by what followed the last item, by row.
        next_three: by what followed the last three items, nearer ones counting more.
        next_session: by what followed any item of the visit.
        together_session: by what was together with the items of the visit.
        together_history: by what was together with the items of the history.
        similar_sessions: by what similar visits went on to.
        after_last: by how often it came right after the last item.
        after_second: by how often it came two places after the last item but one.
        before_last: by how often it came right before the last item.
        together_last: by what was together with the last item.
        last_vector: vector of the latest item of the visit, or of the history when the visit is
            empty; zero when there is none.
        session_vector: direction of the visit in vector space; zero when it is empty.
        history_vector: direction of the history.
        lift: how much more, in log-odds, the person is expected to take items than others are, by
            what they are; None where that is not known.
        intent: weight by category, as a device sent it; None where it sent none.
    """

    rows: NDArray[np.int64]
    channel: NDArray[np.int8]
    vectors: RowVectors
    next_last: Scores
    next_three: Scores
    next_session: Scores
    together_session: Scores
    together_history: Scores
    similar_sessions: Scores
    after_last: Scores
    after_second: Scores
    before_last: Scores
    together_last: Scores
    last_vector: NDArray[np.float32]
    session_vector: NDArray[np.float32]
    history_vector: NDArray[np.float32]
    lift: Scores | None = None
    intent: Mapping[str, float] | None = None

    def found(self, rows: NDArray[np.int64], channel: NDArray[np.int8]) -> Candidates:
        """The same of other rows, ascending."""
        vectors = RowVectors(self.vectors.stored, rows)
        return replace(self, rows=rows, channel=channel, vectors=vectors)


class _Union:
    """Collects candidates; an item belongs to the channel that placed it highest."""

    def __init__(self) -> None:
        self._rows: list[NDArray[np.int64]] = []
        self._sizes: list[int] = []
        self._channels: list[int] = []

    def add(self, channel: str, rows: NDArray[np.int64]) -> None:
        """Take rows of a channel, its best first."""
        self.extend([channel], [len(rows)], rows)

    def extend(
        self, channels: Sequence[str], sizes: Sequence[int], rows: NDArray[np.int64]
    ) -> None:
        """Take what several channels bring, one after the other, and how many rows each does."""
        self._rows.append(rows)
        self._sizes.extend(sizes)
        self._channels.extend(map(CHANNELS.index, channels))

    def merged(self, total: int) -> tuple[NDArray[np.int64], NDArray[np.int8]]:
        """At most `total` rows, ascending, and the channel of each."""
        rows = np.concatenate(self._rows)
        places = np.concatenate([np.arange(size) for size in self._sizes])
        channels = np.repeat(np.array(self._channels, np.int8), self._sizes)
        # By row, then by place; of two channels at the same place the earlier one comes first.
        order = stable_order(rows * max(self._sizes) + places)
        first = np.ones(len(rows), np.bool_)
        first[1:] = rows[order[1:]] != rows[order[:-1]]
        kept = order[first]
        if len(kept) > total:
            highest = stable_order(places[kept])[:total]
            kept = kept[np.sort(highest)]
        return rows[kept], channels[kept]


def gather(
    index: RecallIndex,
    search: VectorSearch,
    catalogue: Catalogue,
    context: RequestContext,
    *,
    popular: Popularity,
    quotas: Quotas,
    allowed: NDArray[np.bool_],
    intent: Mapping[str, float] | None = None,
    trending: NDArray[np.int64] | None = None,
    least: int = 0,
) -> Candidates:
    """Ask every channel and merge what they bring.

    Args:
        index: what was learned.
        search: search over the vectors of `catalogue`'s first rows.
        catalogue: its first rows are the rows of `index`.
        context: who asks.
        popular: what `popular_rows` gave.
        quotas: how many each channel may bring.
        allowed: which rows may be recommended to this request, shape (len(catalogue),). A
            read-only array is prepared once and kept for the next search.
        intent: weight by category, where the request says what it is looking for.
        trending: rows of what rises, the first to be proposed first; None where nothing does.
        least: so many candidates are found if as many are allowed, whatever the quotas: the most
            popular fill up.

    Returns:
        The candidates; none when every channel is silent or everything is filtered.
    """
    session, history = context.session[:20], context.history[:30]
    recent = np.array([*session, *history], np.int64)
    known = search.stored.of(recent)
    session_vector = direction(known[: len(session)], session)
    history_vector = direction(known[len(session) :], history)
    anchor = session_vector if session_vector.any() else history_vector
    near = recent[:0]
    if anchor.any() and quotas.vectors:
        near, _ = search.nearest(anchor, quotas.vectors, allowed)
    around = neighbourhood(
        index,
        recent,
        len(session),
        allowed=allowed,
        following=quotas.following,
        together=quotas.together,
    )
    similar_sessions = index.sessions.scores(session)
    repeated = _repeated(context, catalogue, allowed, quotas.repeat)
    favourites = popular.first(allowed, quotas.popular)

    def first(rows: NDArray[np.int64], quota: int) -> NDArray[np.int64]:
        return rows[allowed[rows]][:quota]

    further = [("repeat", repeated), ("popular", favourites)]
    if len(similar_sessions.rows):
        further.append(("sessions", first(similar_sessions.best(), quotas.sessions)))
    if intent:
        intended = _intended(intent, catalogue, popular, allowed, quotas.intent)
        further.extend(("intent", rows) for rows in intended)
    if len(catalogue.in_campaign):
        shown = catalogue.in_campaign[allowed[catalogue.in_campaign]]
        further.append(("campaign", popular.best(shown, quotas.campaign)))
    lift = index.cohorts.lift(context.properties)
    if lift is not None and coldness(context) and quotas.cohort:
        further.append(("cohort", first(index.cohorts.expected(lift), quotas.cohort)))
    if trending is not None and len(trending):
        further.append(("trending", first(trending, quotas.trending)))
    union = _Union()
    union.extend(("next", "next", "together", "together"), around.sizes, around.best)
    union.add("vectors", near)
    for each, brought in further:
        union.add(each, brought)
    rows, channel = union.merged(max(quotas.total, least))
    if len(rows) < least:
        union.add("popular", popular.first(allowed, least))
        rows, channel = union.merged(len(rows) + least)
    return Candidates(
        rows=rows,
        channel=channel,
        vectors=RowVectors(search.stored, rows),
        next_last=around.next_last,
        next_three=around.next_three,
        next_session=around.next_session,
        together_session=around.together_session,
        together_history=around.together_history,
        similar_sessions=similar_sessions,
        after_last=around.after_last,
        after_second=around.after_second,
        before_last=around.before_last,
        together_last=around.together_last,
        last_vector=direction(known[:1], (session or history)[:1]),
        session_vector=session_vector,
        history_vector=history_vector,
        lift=lift,
        intent=intent or None,
    )


def extended(
    candidates: Candidates, channel: str, rows: NDArray[np.int64], search: VectorSearch
) -> Candidates:
    """Candidates and further rows of a channel; those that are there already stay as they are.

    Args:
        candidates: what was found.
        channel: one of `CHANNELS`.
        rows: allowed rows, each once.
        search: gives their vectors.
    """
    rows = np.setdiff1d(rows, candidates.rows, assume_unique=True)
    if not len(rows):
        return candidates
    every = np.concatenate([candidates.rows, rows])
    channels = np.full(len(rows), CHANNELS.index(channel), np.int8)
    order = np.argsort(every)
    return candidates.found(every[order], np.concatenate([candidates.channel, channels])[order])


def popular_rows(
    source: FeatureSource,
    catalogue: Catalogue,
    index: RecallIndex,
    reading: AbstractContextManager[object] | None = None,
) -> Popularity:
    """All available rows: what everybody takes now first, then what they took before, then by row.

    All of them, so that a filter leaves something to show as long as there is something to sell.

    Args:
        source: the feature engine.
        catalogue: its first rows are the rows of `index`.
        index: says what was popular when it was built.
        reading: held while the engine is read, a part of the catalogue at a time, so that neither
            the engine nor an answer waits long; None where nothing else uses the engine.
    """
    count = len(catalogue)
    taken, amount = _taken(source, catalogue, reading)
    # Most items are taken by nobody within four weeks, and need no sorting.
    before = np.full(count, count, np.int32)
    before[index.popular] = np.arange(len(index.popular), dtype=np.int32)
    order = np.lexsort((before[taken], -amount))  # stable, so by row at last
    del before
    left = catalogue.available.copy()
    left[taken] = False
    then = index.popular[left[index.popular]]
    left[then] = False
    taken, amount = taken[order], amount[order]
    here = catalogue.available[taken]
    most, least = taken[here & (amount > 0.0)], taken[here & (amount < 0.0)]
    return Popularity.of(np.concatenate([most, then, np.flatnonzero(left), least]), count)


def _taken(
    source: FeatureSource, catalogue: Catalogue, reading: AbstractContextManager[object] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The rows that were taken within four weeks, ascending, and how often."""
    # Who keeps numbers by place keeps them for the lists, and is asked for all of them.
    if hasattr(source, "read_placed"):
        return _taken_of_all(source, catalogue, reading)
    at, rows, amounts = source.watermark, [], []
    start: int | None = 0
    while start is not None:
        with reading or nullcontext():
            part = read_nonzero(source, "item", _TAKEN, at, start)
        if part is None:
            return _taken_of_all(source, catalogue, reading)
        rows.append(catalogue.rows_at(part.keys))
        amounts.append(part.numbers)
        start = part.following
    # What went and came again between two parts is told twice: the last time counts.
    taken, last = np.unique(np.concatenate(rows)[::-1], return_index=True)
    amount = np.concatenate(amounts)[::-1][last]
    return taken[taken >= 0], amount[taken >= 0]


def _taken_of_all(
    source: FeatureSource, catalogue: Catalogue, reading: AbstractContextManager[object] | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """As `_taken`, by asking for each row."""
    count, at = len(catalogue), source.watermark
    takes, amounts = [np.zeros(0, np.int64)], [np.zeros(0)]
    for start in range(0, count, _PART):
        rows = np.arange(start, min(start + _PART, count))
        with reading or nullcontext():
            found = read_placed(source, "item", catalogue.item_places, rows, SOLD, at)
        sold = found[:, SOLD.index(_TAKEN)]
        some = np.flatnonzero(sold)
        takes.append(rows[some])
        amounts.append(sold[some])
    return np.concatenate(takes), np.concatenate(amounts)


def _intended(
    intent: Mapping[str, float],
    catalogue: Catalogue,
    popular: Popularity,
    allowed: NDArray[np.bool_],
    quota: int,
) -> list[NDArray[np.int64]]:
    """The most popular of each category that is intended, as many as its weight says."""
    weights = {
        catalogue.category_numbers[name]: weight
        for name, weight in intent.items()
        if name in catalogue.category_numbers and weight > 0.0
    }
    total = sum(weights.values())
    found = []
    for number, weight in weights.items():
        share = round(quota * weight / total)
        rows = np.flatnonzero((catalogue.category == number) & allowed)
        found.append(popular.best(rows, share))
    return found


def _repeated(
    context: RequestContext, catalogue: Catalogue, allowed: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """Rows of the allowed items the person took most, ties by item id."""
    items = context.grouped("taken_364d")
    taken = [
        (-amount, item, row)
        for (item, amount), row in zip(items.items(), catalogue.rows.of_many(items), strict=True)
        if row is not None and allowed[row] and amount >= 0.0
    ]
    return np.array([row for _, _, row in nsmallest(count, taken)], np.int64)
