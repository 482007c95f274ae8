"""What followed from lists, person by person and arm by arm: the read-out of an experiment.

It reads the log, inside the trusted zone. People are what was drawn, so people are what is counted:
of each, how many lists they were shown, from how many of them they took something, for how much,
and how long the lists took. Of lists only those are held in memory whose time is not over yet.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from tactful.event_log.batches import read_batches
from tactful.event_log.impressions import Impression, as_impression
from tactful.experiments.metrics import METRICS, ROLLOUTS, spent_in
from tactful_bandits.analysis.comparison import Comparison, compare
from tactful_bandits.analysis.multiplicity import holm
from tactful_bandits.analysis.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.analysis.samples import Mean, Proportion, Ratio, Sample
from tactful_bandits.assignment.assign import Experiment
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import Event, decode_entry, event_for, subject_key
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.engine.erasure import names_subject
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

_CHUNK = 2_048
# Records that are later than this after the end of a list's time are not waited for.
_GRACE_MS = 3_600_000
# Outcomes of lists that have not been read yet: servers log lists beside the answer.
_EARLY = 10_000
_EARLY_EACH = 100
_PURCHASE = "purchase"


class PersonOutcome(NamedTuple):
    """What one person did.

    Attributes:
        shown: lists whose time is over.
        took: those of them from which something was taken.
        revenue: what was spent on items of these lists.
        latency_ms: how long they took, all together.
        timed: of how many of them that is known.
        failed: of how many of them what should have made them failed.
        flat: of how many of them all scores were alike, or one was no number.
    """

    shown: int
    took: int
    revenue: float = 0.0
    latency_ms: float = 0.0
    timed: int = 0
    failed: int = 0
    flat: int = 0


class FirstList(NamedTuple):
    """What became of the first list that a person was shown.

    Attributes:
        over: when its time was over, epoch milliseconds.
        arm: by which it was made.
        took: whether something was taken from it.
    """

    over: int
    arm: str
    took: bool


@dataclass(frozen=True)
class ArmOutcomes:
    """What the people of each arm did.

    Attributes:
        arms: by arm and person, what they did.
        crossed: people who were shown lists of several arms, as after a login or another split;
            they are in no arm.
        exposed: by arm, people who were shown a list, over or not.
    """

    arms: Mapping[str, Mapping[str, PersonOutcome]]
    crossed: int
    exposed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadOut:
    """An experiment read out.

    Attributes:
        control: name of the arm that the others are compared with.
        sample_ratio: whether the arms have the people they should; None without any.
        comparisons: by arm and metric (`METRICS`), where both arms have two people.
        adjusted_p: of the same, Holm's p-value over all of them, for any number of looks.
        crossed: share of the people who were left out because they saw several arms.
        alpha: probability that any verdict calls a difference that is not there.
    """

    control: str
    sample_ratio: SampleRatio | None
    comparisons: Mapping[tuple[str, str], Comparison]
    adjusted_p: Mapping[tuple[str, str], float]
    crossed: float
    alpha: float

    def verdict(self, arm: str, metric: str) -> str:
        """In a word: ``higher``, ``lower`` or ``inconclusive``, over all comparisons (Holm)."""
        if self.adjusted_p[arm, metric] >= self.alpha:
            return "inconclusive"
        return "higher" if self.comparisons[arm, metric].estimate.value > 0 else "lower"


@dataclass(slots=True)
class _List:
    """A list whose time is not over."""

    person: str
    arm: str
    at: int
    items: tuple[str, ...]
    latency_ms: float | None
    failed: bool = False
    flat: bool = False
    took: bool = False
    revenue: float = 0.0
    paid: set[str] = field(default_factory=set)


class Tally:
    """Counts what follows from the lists of one experiment, as the log goes by.

    Memory grows with the people, and with the lists of as long as an outcome takes.
    """

    def __init__(
        self,
        experiment: str,
        *,
        since: int,
        types: Collection[str],
        lasts: int,
        until: int | None = None,
        allows: Callable[[Event], bool] = lambda event: True,
    ) -> None:
        """Count nothing yet.

        Args:
            experiment: its key, or that of a rollout.
            since: earliest time of a list, epoch milliseconds.
            types: of the events that say that an item of a list was taken.
            lasts: how long after a list what follows counts, milliseconds.
            until: latest time of a list; None for any.
            allows: whether an event may be used to measure, by what its person says now.
        """
        self._experiment = experiment
        self._allows = allows
        self._since = since
        self._until = until
        self._lasts = lasts
        self._types = frozenset(types)
        self._wanted = self._types | {_PURCHASE}
        self._marks = [name.encode() for name in self._wanted | {"impression"}]
        self._open: dict[str, _List] = {}
        self._early: OrderedDict[str, list[Event]] = OrderedDict()
        self._arms: dict[str, str | None] = {}
        self._people: dict[str, PersonOutcome] = {}
        self._firsts: dict[str, FirstList] = {}
        self._newest = 0

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Take in records of the log, by offset."""
        for offset, payload in records:
            if not any(mark in payload for mark in self._marks):
                continue  # decoding everything would take most of the time
            try:
                event = event_for(decode_entry(payload), Purpose.MEASUREMENT)
            except StreamingError:
                continue
            if event is None or not event.recommendation_id or not self._allows(event):
                continue
            if (found := as_impression(event, offset)) is not None:
                self._show(found)
            elif event.item_id and event.type in self._wanted:
                self._take(event, event.recommendation_id)
        self.close(self._newest - _GRACE_MS, ordered=True)

    def close(self, now: int, *, ordered: bool = False) -> None:
        """Count the lists whose time was over by `now`, epoch milliseconds.

        Args:
            now: the end.
            ordered: stop at the first list that is not over; some after it may be.
        """
        over = []
        for identity, shown in self._open.items():
            if shown.at + self._lasts <= now:
                over.append(identity)
            elif ordered:
                break
        for identity in over:
            shown = self._open.pop(identity)
            known = self._people.get(shown.person, PersonOutcome(0, 0))
            timed = shown.latency_ms is not None
            self._people[shown.person] = PersonOutcome(
                known.shown + 1,
                known.took + shown.took,
                known.revenue + shown.revenue,
                known.latency_ms + (shown.latency_ms or 0.0),
                known.timed + timed,
                known.failed + shown.failed,
                known.flat + shown.flat,
            )
            first = FirstList(shown.at + self._lasts, shown.arm, shown.took)
            self._firsts[shown.person] = min(first, self._firsts.get(shown.person, first))

    def forget(self, traces: SubjectIds) -> None:
        """Count people no more who are erased, as if they had never come."""
        people = traces.people
        for person in people:
            self._arms.pop(person, None)
            self._people.pop(person, None)
            self._firsts.pop(person, None)
        self._open = {key: it for key, it in self._open.items() if it.person not in people}
        for identity, events in [*self._early.items()]:
            if others := [event for event in events if not names_subject(event, traces)]:
                self._early[identity] = others
            else:
                del self._early[identity]

    def outcomes(self) -> ArmOutcomes:
        """What was counted so far."""
        arms: dict[str, dict[str, PersonOutcome]] = {}
        exposed: dict[str, int] = {}
        for person, arm in self._arms.items():
            if arm is None:
                continue
            exposed[arm] = exposed.get(arm, 0) + 1
            if (done := self._people.get(person)) is not None:
                arms.setdefault(arm, {})[person] = done
        crossed = sum(arm is None for arm in self._arms.values())
        return ArmOutcomes(arms, crossed, exposed)

    def first_lists(self, after: int, until: int) -> list[FirstList]:
        """First lists whose time was over after one time and by another, of one person each.

        Whoever's first list is in one such span is in no other one, also if the log is read again.

        Args:
            after: epoch milliseconds, left out.
            until: epoch milliseconds, as far as lists were closed.
        """
        return [first for first in self._firsts.values() if after < first.over <= until]

    def _show(self, shown: Impression) -> None:
        at, person = shown.event.timestamp, subject_key(shown.event)
        self._newest = max(self._newest, at)
        arm, identity = arm_of(shown, self._experiment), shown.event.recommendation_id
        if arm is None or person is None or not identity or at < self._since:
            return
        if (self._until is not None and at > self._until) or identity in self._open:
            return
        if self._arms.setdefault(person, arm) != arm:
            self._arms[person] = None
        properties = shown.event.properties
        took_ms = properties.get("took_ms")
        self._open[identity] = _List(
            person,
            arm,
            at,
            tuple(shown.items),
            took_ms if isinstance(took_ms, float) else None,
            failed=properties.get("failed") is True,
            flat=_is_flat(properties.get("scores")),
        )
        for event in self._early.pop(identity, ()):
            self._note(identity, event)

    def _take(self, event: Event, identity: str) -> None:
        if identity in self._open:
            self._note(identity, event)
            return
        events = self._early.setdefault(identity, [])
        if len(events) < _EARLY_EACH:
            events.append(event)
        if len(self._early) > _EARLY:
            self._early.popitem(last=False)

    def _note(self, identity: str, event: Event) -> None:
        shown = self._open[identity]
        in_time = shown.at <= event.timestamp < shown.at + self._lasts
        if not in_time or event.item_id not in shown.items:
            return
        shown.took |= event.type in self._types
        if event.type == _PURCHASE and event.event_id not in shown.paid:
            shown.paid.add(event.event_id)  # the log may hold an event twice, of who sent it again
            shown.revenue += spent_in(event)


def read_arm_outcomes(
    log: EventLog,
    experiment: str,
    *,
    since: int,
    until: int,
    types: Collection[str],
    lasts: int,
) -> ArmOutcomes:
    """Read the lists of an experiment whose time is over, and what followed from them.

    Left out are lists of an arm that the caller chose, and lists to nobody in particular.

    Args:
        log: events and lists, as far as they may be used to measure.
        experiment: key of the experiment or of a rollout.
        since: earliest time of a list, epoch milliseconds.
        until: time at which the log ends, epoch milliseconds.
        types: of the events that say that an item of a list was taken.
        lasts: how long after a list what follows counts, milliseconds.
    """
    tally = Tally(experiment, since=since, types=types, lasts=lasts, until=until - lasts)
    read_on(log, tally, log.begin)
    tally.close(until)
    return tally.outcomes()


def read_on(log: EventLog, tally: Tally, position: int) -> int:
    """Let a tally read a log from an offset to its present end; the offset to go on at."""
    position = max(position, log.begin)
    for records in read_batches(log, position, log.end, size=_CHUNK):
        tally.read(records)
        position = records[-1][0] + 1
    return position


def read_out(outcomes: ArmOutcomes, experiment: Experiment, *, alpha: float = 0.05) -> ReadOut:
    """Compare every arm with the control, right at any number of looks.

    Args:
        outcomes: of the experiment.
        experiment: as it was split while the lists were given.
        alpha: probability that an interval ever misses the truth, each by itself, and that any
            verdict calls a difference that is not there, all together.
    """
    shares = {name: share for name, share in experiment.shares.items() if share > 0}
    people = {name: len(outcomes.arms.get(name, {})) for name in shares}
    seen = sum(people.values())
    ratio = (
        check_sample_ratio(list(people.values()), list(shares.values()))
        if seen and len(shares) > 1
        else None
    )
    control = experiment.control.name
    found = {name: samples(outcomes.arms.get(name, {})) for name in people}
    comparisons = {
        (name, metric): compare(found[control][metric], found[name][metric], alpha=alpha)
        for name in people
        for metric in METRICS
        if name != control and comparable(metric, found.get(control, {}), found[name])
    }
    adjusted = holm([compared.anytime_p for compared in comparisons.values()])
    total = seen + outcomes.crossed
    return ReadOut(
        control,
        ratio,
        comparisons,
        dict(zip(comparisons, adjusted, strict=True)),
        outcomes.crossed / total if total else 0.0,
        alpha,
    )


def plain(found: ReadOut) -> dict[str, Any]:
    """A read-out for JSON: differences and intervals, no number of people."""
    return {
        "control": found.control,
        "sample_ratio_mismatch": None
        if found.sample_ratio is None
        else found.sample_ratio.mismatch,
        "crossed_share": round(found.crossed, 3),
        "comparisons": [
            {
                "arm": arm,
                "metric": metric,
                "difference": compared.estimate.value,
                "low": compared.anytime.low if np.isfinite(compared.anytime.low) else None,
                "high": compared.anytime.high if np.isfinite(compared.anytime.high) else None,
                "adjusted_p": found.adjusted_p[arm, metric],
                "verdict": found.verdict(arm, metric),
            }
            for (arm, metric), compared in found.comparisons.items()
        ],
    }


def samples(people: Mapping[str, PersonOutcome]) -> dict[str, Sample]:
    """The outcomes of one arm by metric; a metric of which fewer than two people tell is missing.

    Args:
        people: what the people of the arm did.
    """
    if len(people) < 2:
        return {}
    columns = np.array(list(people.values()), np.float64).T
    shown, took, revenue, latency, timed, failed, flat = columns
    found: dict[str, Sample] = {
        "taken_lists": Ratio.from_units(took, shown),
        "errors": Proportion(len(people), int((failed > 0).sum())),
        "anomalies": Proportion(len(people), int((flat > 0).sum())),
        "takers": Proportion(len(people), int((took > 0).sum())),
        "revenue": Mean.from_units(revenue),
    }
    if np.count_nonzero(timed) >= 2:
        found["latency"] = Ratio.from_units(latency[timed > 0], timed[timed > 0])
    return found


def comparable(metric: str, *arms: Mapping[str, Sample]) -> bool:
    """Whether arms can be compared by a metric: all know it, and not all its values are equal."""
    if not all(metric in arm for arm in arms):
        return False
    return any(arm[metric].variance > 0 for arm in arms)


def arm_of(shown: Impression, experiment: str) -> str | None:
    """The arm by which a list was made, if a draw of this experiment or rollout gave it."""
    properties = shown.event.properties
    if isinstance(drawn := properties.get(ROLLOUTS), list):
        for each in drawn:
            key, _, name = str(each).partition(":")
            if key == experiment:
                return name
    arm = properties.get("arm")
    if shown.forced or properties.get("experiment") != experiment or not isinstance(arm, str):
        return None
    return arm


def _is_flat(scores: object) -> bool:
    """Whether scores order nothing: all alike, or one that is no number (logged as none)."""
    if not isinstance(scores, list) or not scores:
        return False
    if not all(isinstance(score, int | float) for score in scores):
        return True
    return len(scores) > 1 and min(scores) == max(scores)
