"""Quality of logged recommendations by day: impressions joined with what users took afterwards.

A recommendation counts on the day it was made, once its outcome time is over. Its answers are the
items that its user took in this time: by events of the same user or device, or with its
`recommendation_id`. The newest records of the log are read, so the work has a bound; days before
them keep the figures of earlier measurements.
"""

from __future__ import annotations

import datetime as dt
import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tactful.event_log.batches import decoded, read_batches
from tactful.event_log.impressions import as_impression, is_served
from tactful.schemas.interactions import is_interaction, rank_of
from tactful.schemas.models import QualityDay, QualityFigure
from tactful.training.evaluation import CUTOFF, ndcg, user_intervals
from tactful_streaming.contract.log_entries import PERSONALISATION, Event, event_for, subject_key
from tactful_streaming.log.event_log import EventLog

LATEST = 500_000  # newest records of the log that are read

_CHUNK = 2_048
_HOUR, _DAY = 3_600_000, 86_400_000


@dataclass(frozen=True)
class Shown:
    """A recommendation."""

    at: int  # epoch milliseconds
    user: str  # key of the user or device; its own id for nobody
    recommendation_id: str
    items: tuple[str, ...]  # the first `CUTOFF`, best first


@dataclass(frozen=True)
class Take:
    """An item that a user took."""

    at: int
    user: str | None
    item: str
    recommendation_id: str | None


@dataclass
class Logged:
    """Recommendations and takes in a part of a log."""

    shown: list[Shown] = field(default_factory=list)
    takes: list[Take] = field(default_factory=list)
    since: int = 0  # time before which recommendations may be missing, epoch milliseconds
    until: int = 0  # time of the latest event


def measure(
    log: EventLog, *, label: str, outcome_hours: float = 24.0, latest: int = LATEST
) -> list[QualityDay]:
    """Measure the days in the `latest` records of a log, oldest first.

    The day in which these records begin is left out, unless the log begins there.
    """
    logged = read_logged(log, label=label, latest=latest)
    return by_day(logged, outcome_ms=int(outcome_hours * _HOUR))


def read_logged(log: EventLog, *, label: str, latest: int = LATEST) -> Logged:
    """Read the recommendations and takes in the `latest` records of a log."""
    least, end = rank_of(label), log.end
    begin = max(log.begin, end - latest)
    found, first = Logged(), None
    for records in read_batches(log, begin, end, size=_CHUNK):
        for offset, entry in decoded(records):
            event = event_for(entry, PERSONALISATION)
            if event is None:
                continue
            first = event.timestamp if first is None else first
            found.until = max(found.until, event.timestamp)
            if event.type == "impression":
                _add_shown(found, event, offset)
            elif event.item_id and is_interaction(event.type) and rank_of(event.type) <= least:
                take = Take(
                    event.timestamp, subject_key(event), event.item_id, event.recommendation_id
                )
                found.takes.append(take)
    if begin > log.begin and first is not None:
        found.since = (first // _DAY + 1) * _DAY
    return found


def _add_shown(found: Logged, event: Event, offset: int) -> None:
    impression = as_impression(event, offset) if is_served(event) else None
    if impression is None or impression.forced:
        return
    name = event.recommendation_id or event.event_id
    user = subject_key(event) or f"nobody {name}"
    found.shown.append(Shown(event.timestamp, user, name, tuple(impression.items[:CUTOFF])))


def by_day(logged: Logged, *, outcome_ms: int) -> list[QualityDay]:
    """Return the figures of each day whose recommendations are all there."""
    days: dict[int, list[Shown]] = defaultdict(list)
    for shown in logged.shown:
        if logged.since <= shown.at <= logged.until - outcome_ms:
            days[shown.at // _DAY].append(shown)
    outcomes = _Outcomes(logged.takes, outcome_ms)
    return [_day(number, days[number], outcomes) for number in sorted(days)]


class _Outcomes:
    """Takes by user and by recommendation, in the order of their times."""

    def __init__(self, takes: Iterable[Take], outcome_ms: int) -> None:
        self._ms = outcome_ms
        self.popularity = Counter(take.item for take in takes)
        self._by: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for take in takes:
            for key in {f"user {take.user}", f"list {take.recommendation_id}"}:
                self._by[key].append((take.at, take.item))
        for found in self._by.values():
            found.sort()

    def of(self, shown: Shown) -> list[str]:
        """Return the items that were taken in the outcome time, each once."""
        taken: dict[str, None] = {}
        for key in (f"user {shown.user}", f"list {shown.recommendation_id}"):
            takes = self._by.get(key, [])
            first = bisect_left(takes, (shown.at, ""))
            last = bisect_left(takes, (shown.at + self._ms, ""))
            taken |= dict.fromkeys(item for _, item in takes[first:last])
        return list(taken)


def _day(number: int, shown: Sequence[Shown], outcomes: _Outcomes) -> QualityDay:
    figures, users, taken_items = [], [], list[str]()
    numbers: dict[str, int] = {}
    for one in shown:
        taken = outcomes.of(one)
        user = numbers.setdefault(one.user, len(numbers))
        if taken:
            right = [place for place, item in enumerate(one.items) if item in set(taken)]
            figures.append((float(bool(right)), ndcg(right, len(taken))))
            users.append(user)
            taken_items += taken
    counts = Counter(item for one in shown for item in one.items)
    day = dt.datetime.fromtimestamp(number * _DAY / 1000, dt.UTC).date().isoformat()
    estimates = _estimates(np.array(figures).reshape(-1, 2), np.array(users, np.int64))
    return QualityDay(
        day=day,
        recommendations=len(shown),
        users=len(numbers),
        followed=len(figures),
        hr20=estimates[0],
        ndcg20=estimates[1],
        items=len(counts),
        diversity=diversity(counts, [len(one.items) for one in shown]),
        novelty=novelty(counts, outcomes.popularity),
        popularity_bias=popularity_bias(counts, taken_items, outcomes.popularity),
    )


def _estimates(figures: np.ndarray, users: np.ndarray) -> list[QualityFigure | None]:
    if not len(figures):
        return [None, None]
    bounds = user_intervals(figures, users)
    means = figures.mean(axis=0)
    return [
        QualityFigure(value=float(mean), low=float(low), high=float(high))
        for mean, (low, high) in zip(means, bounds, strict=True)
    ]


def diversity(counts: Mapping[str, int], sizes: Sequence[int]) -> float | None:
    """Return 1 minus the mean number of items that two lists share, over their mean length.

    Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems" (PNAS
    2010). `counts` are the lists that each item is in, so no pair of lists is compared.
    """
    lists, shown = len(sizes), sum(sizes)
    if lists < 2 or not shown:
        return None
    shared = sum(count * (count - 1) for count in counts.values()) / (lists * (lists - 1))
    return max(0.0, 1.0 - shared * lists / shown)


def novelty(counts: Mapping[str, int], popularity: Mapping[str, int]) -> float | None:
    """Return the mean information of a shown item in bits, by its share of all takes.

    Zhou et al. (2010), with one added to the takes of each item, so that untaken ones have a share.
    """
    shown = sum(counts.values())
    if not shown:
        return None
    total = sum(popularity.values()) + len(popularity.keys() | counts.keys())
    bits = (n * math.log2(total / (popularity.get(i, 0) + 1)) for i, n in counts.items())
    return sum(bits) / shown


def popularity_bias(
    counts: Mapping[str, int], taken: Sequence[str], popularity: Mapping[str, int]
) -> float | None:
    """Return how much more popular shown items are than taken ones, relative to these.

    The lift of popularity of Abdollahpouri et al., "The Unfairness of Popularity Bias in
    Recommendation" (2019), over all users together.
    """
    if not taken or not counts:
        return None
    served = sum(n * popularity.get(item, 0) for item, n in counts.items()) / sum(counts.values())
    wanted = sum(popularity.get(item, 0) for item in taken) / len(taken)
    return served / wanted - 1.0 if wanted else None
