"""From a situation to a few hundred candidates, each with what its channels know about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue import Catalogue
from tactful.recall import CHANNELS, RecallIndex, Scores, VectorSearch
from tactful.situation import FeatureSource, Situation

_FADE = 0.9
_PART = 4_096


@dataclass(frozen=True)
class Quotas:
    """How many candidates each channel may bring.

    Attributes:
        following: by what came next before; so many for the last items and for the whole visit.
        together: by what was in the same visits; so many for this visit and for the history.
        vectors: by nearness to the visit, or to the history when the visit is empty.
        repeat: by what the person takes again and again.
        popular: by what everybody takes now.
    """

    following: int = 80
    together: int = 80
    vectors: int = 50
    repeat: int = 120
    popular: int = 40


@dataclass(frozen=True)
class Candidates:
    """Candidate items and the scores the channels gave them.

    Attributes:
        rows: catalogue rows, ascending, shape (n,).
        channel: number in `CHANNELS` of the channel that ranked the item best, shape (n,).
        next_last: score by what followed the last item, by row.
        next_three: by what followed the last three items, nearer ones counting more.
        next_session: by what followed any item of the visit.
        together_session: by what was together with the items of the visit.
        together_history: by what was together with the items of the history.
        session_vector: direction of the visit in vector space; zero when it is empty.
        history_vector: direction of the history.
    """

    rows: NDArray[np.int64]
    channel: NDArray[np.int8]
    next_last: Scores
    next_three: Scores
    next_session: Scores
    together_session: Scores
    together_history: Scores
    session_vector: NDArray[np.float32]
    history_vector: NDArray[np.float32]


@dataclass
class _Union:
    """Collects candidates; an item belongs to the channel that placed it highest."""

    allowed: NDArray[np.bool_]
    best: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, channel: str, rows: Iterable[int], quota: int) -> None:
        number = CHANNELS.index(channel)
        place = 0
        for row in rows:
            if place >= quota:
                return
            if row < 0 or not self.allowed[row]:
                continue
            held = self.best.get(row)
            if held is None or place < held[0]:
                self.best[row] = (place, number)
            place += 1


def gather(
    index: RecallIndex,
    search: VectorSearch,
    catalogue: Catalogue,
    situation: Situation,
    *,
    popular: NDArray[np.int64],
    quotas: Quotas,
    allowed: NDArray[np.bool_],
) -> Candidates:
    """Ask every channel and merge what they bring.

    Args:
        index: what was learned.
        search: search over the index's vectors.
        catalogue: its first rows are the rows of `index`.
        situation: who asks.
        popular: what `popular_rows` gave.
        quotas: how many each channel may bring.
        allowed: which rows may be recommended to this request, shape (len(catalogue),).

    Returns:
        The candidates; none when every channel is silent or everything is filtered.
    """
    session, history = situation.session[:20], situation.history[:30]
    last = (situation.session or situation.history)[:3]
    next_last = index.following.scores(last[:1], [1.0] * len(last[:1]))
    next_three = index.following.scores(last, [1.0 / (place + 1) for place in range(len(last))])
    next_session = index.following.scores(session, _fading(session))
    together_session = index.together.scores(session, _fading(session))
    together_history = index.together.scores(history, _fading(history))
    session_vector = _direction(index, session)
    history_vector = _direction(index, history)

    union = _Union(allowed)
    union.add("next", next_three.best(), quotas.following)
    if len(session) > len(last):
        union.add("next", next_session.best(), quotas.following)
    union.add("together", together_session.best(), quotas.together)
    union.add("together", together_history.best(), quotas.together)
    anchor = session_vector if session_vector.any() else history_vector
    if anchor.any():
        near, _ = search.nearest(anchor, quotas.vectors + len(session))
        union.add("vectors", near, quotas.vectors)
    repeated = _repeated(situation, catalogue, allowed, quotas.repeat)
    union.add("repeat", repeated, quotas.repeat)
    union.add("popular", _first(popular, allowed, quotas.popular), quotas.popular)

    rows = sorted(union.best)
    return Candidates(
        rows=np.array(rows, np.int64),
        channel=np.array([union.best[row][1] for row in rows], np.int8),
        next_last=next_last,
        next_three=next_three,
        next_session=next_session,
        together_session=together_session,
        together_history=together_history,
        session_vector=session_vector,
        history_vector=history_vector,
    )


def popular_rows(
    source: FeatureSource,
    catalogue: Catalogue,
    index: RecallIndex,
    reading: AbstractContextManager[object] | None = None,
) -> NDArray[np.int64]:
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
    if not count:
        return np.zeros(0, np.int64)
    sold, at = np.empty(count), source.watermark
    for start in range(0, count, _PART):
        items = catalogue.item_ids[start : start + _PART]
        with reading or nullcontext():
            sold[start : start + _PART] = source.read_columns("item", items, ("sold_28d",), at)[
                :, 0
            ]
    before = np.full(count, count)
    before[index.popular] = np.arange(len(index.popular))
    order = np.lexsort((np.arange(count), before, -sold))
    return order[catalogue.available[order]]


def _first(rows: NDArray[np.int64], allowed: NDArray[np.bool_], count: int) -> list[int]:
    """The first `count` of `rows` that are allowed; few are looked at unless most are filtered."""
    found = rows[:0]
    for reach in (4 * count, len(rows)):
        found = rows[:reach][allowed[rows[:reach]]]
        if len(found) >= count:
            break
    first: list[int] = found[:count].tolist()
    return first


def _fading(rows: Sequence[int]) -> list[float]:
    return [_FADE**place for place in range(len(rows))]


def _repeated(
    situation: Situation, catalogue: Catalogue, allowed: NDArray[np.bool_], count: int
) -> list[int]:
    """Rows of the allowed items the person took most, ties by item id."""
    rows = catalogue.rows
    taken = {
        item: amount
        for item, amount in situation.grouped("taken_364d").items()
        if item in rows and allowed[rows[item]]
    }
    amounts = np.fromiter(taken.values(), np.float64, len(taken))
    # Everything as strong as the last that counts, so that ties do not depend on the order.
    least = np.partition(amounts, -count)[-count] if len(amounts) > count else 0.0
    strongest = [item for item, amount in taken.items() if amount >= least]
    strongest.sort(key=lambda item: (-taken[item], item))
    return [rows[item] for item in strongest]


def _direction(index: RecallIndex, rows: Sequence[int]) -> NDArray[np.float32]:
    """Unit vector of the faded sum of the rows' vectors; zero where nothing is known."""
    known = [
        (row, weight)
        for row, weight in zip(rows, _fading(rows), strict=True)
        if row < len(index.vectors)
    ]
    total = np.zeros(index.vectors.shape[1], np.float32)
    if known:
        weights = np.array([weight for _, weight in known], np.float32)
        total = weights @ index.vectors[[row for row, _ in known]]
    norm = float(np.linalg.norm(total))
    return total / np.float32(norm) if norm > 0 else total
