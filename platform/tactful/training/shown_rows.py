"""Training rows of shown lists: features as served, outcomes, and the bias of places.

An event with the `recommendation_id` of a list is an outcome of its items. It counts if it is of
the user who was given the list, and its own time lies between the time of the list and the end of
its outcome time, so late arrival makes no difference. Each item of a list is taken once at most.

Items that are shown lower are taken less, whatever they are. A model that learns from such outcomes
without correction learns to repeat its own order. So an item taken from a place that is seldom
looked at counts more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import xgboost
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from tactful.event_log.batches import Record, read_batches
from tactful.event_log.impressions import Impression, decode_impression
from tactful.event_log.recipients import LOGINS, Recipients, is_of_earlier_version
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.intent_effect import LoggedIntent
from tactful.training.intent_trust import IntendedList
from tactful.training.options import TrainingOptions
from tactful.training.replay_rows import Progress, Rows
from tactful_streaming.contract.log_entries import PERSONALISATION, Event, decode_entry, event_for
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

FEWEST_OUTCOMES = 200  # fewest taken items for an estimate of the bias
LEAST = 0.1  # lower bound of the estimates: a taken item counts ten times at most

_CHUNK = 2_048
_HOUR = 3_600_000
_PLACES = 50
_ITERATIONS = 25
_ROWS = 100_000
_FOREST = {
    "objective": "binary:logistic",
    "max_depth": 4,
    "eta": 0.3,
    "min_child_weight": 10,
    "tree_method": "hist",
    "max_bin": 64,
}


@dataclass(frozen=True)
class ShownLists:
    """Shown lists whose outcome time is over, in the order of their times."""

    features: NDArray[np.float32]  # served values, shape (n, columns)
    taken: NDArray[np.bool_]  # whether the item was taken in time, shape (n,)
    place: NDArray[np.int64]  # its place in its list, 0 the first, shape (n,)
    sizes: NDArray[np.int64]  # items of each list, shape (lists,)
    at: NDArray[np.int64]  # time of each list, epoch milliseconds, shape (lists,)

    def __len__(self) -> int:
        """Return the number of lists."""
        return len(self.sizes)

    def between(self, first: int, last: int) -> ShownLists:
        """Return the lists of [first, last), epoch milliseconds."""
        start, end = np.searchsorted(self.at, [first, last]).tolist()
        bounds = np.concatenate([[0], np.cumsum(self.sizes)])
        inside = slice(int(bounds[start]), int(bounds[max(start, end)]))
        rows = (self.features[inside], self.taken[inside], self.place[inside])
        return ShownLists(*rows, self.sizes[start:end], self.at[start:end])

    def rows(self, looked: NDArray[np.float64]) -> Rows:
        """Return training rows, corrected by the attention of each place (`examination`).

        Every taken item makes a list of its own with the items of its list that were not taken. Its
        weight is the inverse of how often its place is looked at, which makes the loss equal to
        that of places that are all looked at (Joachims, Swaminathan and Schnabel, "Unbiased
        Learning-to-Rank with Biased Feedback", WSDM 2017). Weights are scaled to a mean of 1.
        """
        kept: list[NDArray[np.intp]] = []
        weights: list[float] = []
        bounds = np.concatenate([[0], np.cumsum(self.sizes)])
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            taken = self.taken[start:end]
            if not taken.any() or taken.all():
                continue
            others = start + np.flatnonzero(~taken)
            for row in (start + np.flatnonzero(taken)).tolist():
                kept.append(np.sort(np.append(others, row)))
                weights.append(1.0 / float(looked[min(int(self.place[row]), len(looked) - 1)]))
        if not kept:
            return Rows.none(self.features.shape[1])
        chosen = np.concatenate(kept)
        scaled = np.array(weights) / float(np.mean(weights))
        return Rows(
            features=self.features[chosen],
            labels=self.taken[chosen],
            sizes=np.array([len(rows) for rows in kept], np.int64),
            weights=scaled.astype(np.float32),
        )


def read_shown(
    log: EventLog,
    layout: str,  # of the present features, see `tactful.ranking.features.layout`
    since: int,  # earliest time of a list, epoch milliseconds
    until: int,  # time at which the log ends, epoch milliseconds
    options: TrainingOptions,  # time of outcomes; most lists
    types: Collection[str],  # event types by which an item counts as taken
    *,
    end: int | None = None,  # offset to stop at; None for the end of the log
    progress: Progress = lambda stage, done, total: None,  # called with the stage `outcomes`
) -> ShownLists:
    """Read the shown lists that can be learned from, and their outcomes.

    Lists without features or with another layout, lists of a forced arm, and lists whose outcome
    time is not over are left out.
    """
    reading = ShownReading(layout, since, until, options, types)
    stop = log.end if end is None else min(log.end, end)
    for records in read_batches(log, log.begin, stop if options.shown else 0, size=_CHUNK):
        reading.add(records)
        progress("outcomes", records[-1][0] + 1, stop)
    return reading.close()


class ShownReading:
    """Shown lists and outcomes in the part of a log that was read so far."""

    def __init__(
        self,
        layout: str,
        since: int,
        until: int,
        options: TrainingOptions,
        types: Collection[str],
        *,
        columns: int = len(RANKING_FEATURES),  # number of the present features
    ) -> None:
        """Begin; the other arguments are those of `read_shown`."""
        self._columns = columns
        self._layout = layout
        self._lasts = int(options.outcome_hours * _HOUR)
        self._since, self._until = since, until - self._lasts
        self._most = options.shown
        self._types = types
        self._marks = [*(name.encode() for name in types), *LOGINS]
        self._lists: dict[str, Impression] = {}
        self._intended: dict[str, Impression] = {}
        self._outcomes: dict[str, list[Event]] = {}
        self._recipients = Recipients()

    def add(self, records: Sequence[Record]) -> None:
        """Read the next records of the log."""
        for offset, payload in records if self._most else ():
            if (shown := decode_impression(payload, offset)) is not None:
                self._add_list(shown)
            elif any(mark in payload for mark in self._marks):
                self._add_outcome(payload)

    def close(self) -> ShownLists:
        """Join the lists with their outcomes."""
        return _joined(self._lists, self._outcomes, self._recipients, self._lasts, self._columns)

    def intended(self, looked: NDArray[np.float64]) -> list[IntendedList]:
        """Return the lists of requests with an intent in which an item was taken.

        A taken item counts by the inverse of how often its place is looked at (`examination`).
        """
        found = []
        for identity, shown in self._intended.items():
            events = self._outcomes.get(identity, ())
            followed = _followed(shown, events, self._recipients, self._lasts)
            held = _intended(shown, followed, looked)
            if held is not None:
                found.append(held)
        return found

    def _add_list(self, shown: Impression) -> None:
        if not self._since <= shown.event.timestamp <= self._until:
            return
        usable = _usable(shown, self._layout, self._columns)
        told = "intent" in shown.event.properties and not shown.forced
        for is_kept, lists in ((usable, self._lists), (told, self._intended)):
            if is_kept:
                lists.setdefault(shown.event.recommendation_id or "", shown)
                if len(lists) > self._most:
                    del lists[next(iter(lists))]

    def _add_outcome(self, payload: bytes) -> None:
        event = _decoded(payload)
        if event is None:
            return
        self._recipients.note(event)
        if event.type in self._types and event.recommendation_id and event.item_id:
            # Without properties, which take memory.
            outcome = msgspec.structs.replace(event, properties={}, context={})
            self._outcomes.setdefault(event.recommendation_id, []).append(outcome)


def _usable(shown: Impression, layout: str, columns: int) -> bool:
    if shown.features is None or shown.layout != layout or shown.forced:
        return False
    fits = shown.features.shape[1] == columns
    return fits and bool(shown.event.recommendation_id)


def _decoded(payload: bytes) -> Event | None:
    try:
        entry = decode_entry(payload)
    except StreamingError:
        return None
    return event_for(entry, PERSONALISATION)


def _joined(
    lists: dict[str, Impression],
    outcomes: dict[str, list[Event]],
    recipients: Recipients,
    lasts: int,
    columns: int,
) -> ShownLists:
    ordered = sorted(lists.items(), key=lambda pair: (pair[1].event.timestamp, pair[1].offset))
    features: list[NDArray[np.float32]] = [np.zeros((0, columns), np.float32)]
    taken: list[bool] = []
    for identity, shown in ordered:
        followed = _followed(shown, outcomes.get(identity, ()), recipients, lasts)
        assert shown.features is not None
        features.append(shown.features)
        taken.extend(item in followed for item in shown.items)
    sizes = [len(shown.items) for _, shown in ordered]
    return ShownLists(
        features=np.concatenate(features),
        taken=np.array(taken, np.bool_),
        place=np.concatenate([np.zeros(0, np.int64), *(np.arange(size) for size in sizes)]),
        sizes=np.array(sizes, np.int64),
        at=np.array([shown.event.timestamp for _, shown in ordered], np.int64),
    )


def _followed(
    shown: Impression, events: Sequence[Event], recipients: Recipients, lasts: int
) -> set[str | None]:
    """Return the items of a list that its user took in time."""
    at, user_id, device_id = shown.event.timestamp, shown.event.user_id, shown.event.device_id
    if is_of_earlier_version(shown.event):  # outcomes of any user are learned from, as then
        user_id = device_id = None
    return {
        event.item_id
        for event in events
        if at <= event.timestamp < at + lasts and recipients.includes(user_id, device_id, event)
    }


def _intended(
    shown: Impression, followed: Collection[str | None], looked: NDArray[np.float64]
) -> IntendedList | None:
    """Return the items of a request with an intent; None if none was taken, or it is damaged."""
    told = LoggedIntent.read(shown.event.properties["intent"])
    if told is None:
        return None
    places = np.minimum(np.arange(len(shown.items)), len(looked) - 1)
    is_taken = np.array([item in followed for item in shown.items], np.bool_)
    ratios, chances = np.array(told.ratios), np.array(told.chances)
    if len(ratios) != len(is_taken) or len(chances) != len(is_taken) or not is_taken.any():
        return None
    return IntendedList(chances, ratios, told.total, is_taken / looked[places], told.known)


def examination(
    features: NDArray[np.float32],  # of every item of every list, shape (n, columns)
    taken: NDArray[np.bool_],  # whether it was taken, shape (n,)
    place: NDArray[np.int64],  # its place in its list, 0 the first, shape (n,)
    *,
    threads: int = 1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Estimate how often each place is looked at, relative to the first.

    The position-based click model: an item is taken if its place is looked at and the item
    attracts, independently; the first depends on the place alone, the second on the features. Both
    are estimated by regression-based expectation maximisation (Wang et al., "Position Bias
    Estimation for Unbiased Learning to Rank in Personal Search", WSDM 2018), which needs no
    randomised lists, but gets better with them: where every list is in the order of the same
    features, the two can hardly be separated. Attention is assumed never to grow further down.

    Returns:
        Shape (places,): 1 for the first place, and at least `LEAST` for every other; places
        beyond the fiftieth are like it. All 1 where fewer than `FEWEST_OUTCOMES` were taken.
    """
    if not len(place):
        return np.ones(1)
    place = np.minimum(place, _PLACES - 1)
    places = int(place.max()) + 1
    if taken.sum() < FEWEST_OUTCOMES:
        return np.ones(places)
    generator = np.random.default_rng(seed)
    if len(place) > _ROWS:
        chosen = np.sort(generator.choice(len(place), _ROWS, replace=False))
        features, taken, place = features[chosen], taken[chosen], place[chosen]
    # Expectation maximisation: estimate attention and attraction by turns.
    count = np.bincount(place, minlength=places)
    rate = np.bincount(place, weights=taken, minlength=places) / np.maximum(count, 1)
    looked = np.clip(rate / max(rate[0], 1e-9), LEAST, 1.0)
    attracts = np.full(len(place), min(2.0 * float(taken.mean()), 0.5))
    matrix = xgboost.DMatrix(features)
    parameters = {**_FOREST, "nthread": threads, "seed": seed}
    for _ in range(_ITERATIONS):
        seen = looked[place]
        # Expectations for items that were not taken; taken items were looked at and attracted.
        neither = np.maximum(1.0 - seen * attracts, 1e-9)
        was_seen = np.where(taken, 1.0, seen * (1.0 - attracts) / neither)
        attracted = np.where(taken, 1.0, (1.0 - seen) * attracts / neither)
        looked = np.bincount(place, weights=was_seen, minlength=places) / np.maximum(count, 1)
        matrix.set_label(attracted)
        forest = xgboost.train(parameters, matrix, 20)
        attracts = np.clip(forest.predict(matrix).astype(np.float64), 1e-6, 1.0 - 1e-6)
    falling = IsotonicRegression(increasing=False).fit(np.arange(places), looked, count)
    fitted: NDArray[np.float64] = falling.predict(np.arange(places))
    relative: NDArray[np.float64] = np.clip(fitted / fitted[0], LEAST, 1.0)
    return relative
