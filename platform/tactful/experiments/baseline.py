"""Users a day, and their outcomes without a change, from which plans of rollouts are forecast.

Three sources, none of which reveals more than looks at a rollout do:

- For rollouts that are judged by exact outcomes: the recommendations of the last 28 days, read
  inside the trusted zone as by a look. Only the probabilities and days of a forecast leave it.
- For rollouts with `epsilon`: the counts that looks of earlier such rollouts have released in the
  last 28 days. They were charged then; a forecast reads no exact outcome and costs nothing more.
- Numbers that an operator gives.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tactful.event_log.impressions import Impression
from tactful.event_log.recipients import Recipients
from tactful.experiments.definitions import CONTROL, RolloutDefinition
from tactful.experiments.readout import samples
from tactful.experiments.store import RolloutStore
from tactful.experiments.tally import PersonOutcome, Tally, read_on
from tactful.schemas.experiments.rollouts import LookRecord
from tactful_bandits.analysis.noisy_samples import ReleasedProportion
from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_privacy.lazy_imports import LazyModule
from tactful_streaming.contract.log_entries import Event, subject_key
from tactful_streaming.log.event_log import EventLog

special = LazyModule("scipy.special")

DAY_MS = 86_400_000
SPAN_MS = 28 * DAY_MS
"""Time before now from which outcomes are read."""

USUAL_RATE = 0.03
"""Assumed share of users who take something, where neither outcomes nor a share are given."""

_HOUR_MS = 3_600_000
_WINDOWS = 28
_MOST_USERS = 1_000_000  # users who are counted, about; a log has at least as many records
_ASSUMED_USERS = 20_000


@dataclass(frozen=True)
class Baseline:
    """Users a day, and samples of their outcomes in a time as long as a stage."""

    people_per_day: float  # users who are shown something; 0 if unknown
    samples: Mapping[str, Sample]  # by metric
    source: str  # in words
    # Variance of the noise in one released count of a stage; 0 of exact outcomes
    noise: float = 0.0

    def of(self, metric: str, units: int) -> Sample | None:
        """Return the outcomes of a metric with the noise of `units` users; None without any."""
        sample = self.samples.get(metric)
        if sample is None or not (sample.variance > 0 and sample.value != 0):
            return None
        if self.noise == 0 or not isinstance(sample, Proportion):
            return sample
        took = sample.value * units
        return ReleasedProportion(took, units - took, self.noise, self.noise)


@dataclass(frozen=True)
class ExactOutcomes:
    """Outcomes that a process may read."""

    logs: Callable[[], Sequence[EventLog]]  # the event log by partition; none where it is absent
    allows: Callable[[Event], bool] = lambda event: True  # whether one may be used to measure
    recipients: Callable[[], Recipients] = Recipients  # makes the check of whose event it is


def exact_baseline(
    outcomes: ExactOutcomes,
    logs: Sequence[EventLog],
    definition: RolloutDefinition,
    *,
    now: int,
) -> Baseline | None:
    """Read up to 28 windows of the last 28 days, each as long as a stage; None without users.

    Windows before the first recommendation are left out. In a long log a sample of the users
    counts.
    """
    begins = [log.offset_at(now - SPAN_MS) for log in logs]
    records = sum(log.end - begin for log, begin in zip(logs, begins, strict=True))
    tally = WindowTally(definition, outcomes, now=now, share=min(1.0, _MOST_USERS / (records or 1)))
    for log, begin in zip(logs, begins, strict=True):
        read_on(log, tally, begin)
    tally.close(now)
    arms = tally.outcomes().arms
    if not arms:
        return None
    windows = range(min(map(int, arms)), tally.windows)
    people = sum(map(len, arms.values())) / len(windows) / tally.share
    return Baseline(
        people * DAY_MS / tally.window,
        samples({name: row for rows in arms.values() for name, row in rows.items()}),
        "the recommendations of the last 28 days",
    )


class WindowTally(Tally):
    """Counts all recommendations of a sample of the users, window by window.

    A user counts once in each window. Recommendations that are not over by the end of their
    window are left out, like in a stage.

    ```text
    now - 28 days                                         now
         |- window 0 -|   |- window 1 -|   …   |- window n -|
    ```
    """

    def __init__(
        self, definition: RolloutDefinition, outcomes: ExactOutcomes, *, now: int, share: float
    ) -> None:
        """Count a share of the users in the 28 days before `now`."""
        self.window = min(int(definition.stage_hours * _HOUR_MS), SPAN_MS)
        self.windows = max(1, min(_WINDOWS, SPAN_MS // self.window))
        self.share = share
        self._begin = now - SPAN_MS
        self._step = (SPAN_MS - self.window) / max(1, self.windows - 1)
        self._counted_ms = max(self.window - definition.lasts, definition.lasts)
        super().__init__(
            "",
            since=self._begin,
            types=definition.outcomes,
            lasts=definition.lasts,
            allows=outcomes.allows,
            recipients=outcomes.recipients(),
        )

    def _placed(self, shown: Impression) -> tuple[str | None, str | None]:
        name = subject_key(shown.event)
        if name is None or shown.forced:
            return None, None
        if self.share < 1 and zlib.crc32(name.encode()) >= self.share * 2**32:
            return None, None
        passed = shown.event.timestamp - self._begin
        number = min(int(passed / self._step), self.windows - 1) if self._step else 0
        if not 0 <= passed - number * self._step <= self._counted_ms:
            return None, None
        return str(number), f"{number} {name}"


def released_baseline(store: RolloutStore, *, now: int, noise: float) -> Baseline | None:
    """Add up the counts that looks of the last 28 days have released; None without any.

    `noise` is the variance of the noise in one count of a planned stage.
    """
    took = others = 0
    people, ms = 0, 0
    for stored in store.all():
        looks = store.looks(stored.key, limit=None, since=now - SPAN_MS)
        stages: dict[int, list[LookRecord]] = {}
        for look in reversed(looks):
            if look.released is not None:
                stages.setdefault(look.stage, []).append(look)
                took += look.released[CONTROL][0]
                others += look.released[CONTROL][1]
        for released in stages.values():
            ms += released[-1].at - released[0].at
            people += sum(sum(map(sum, (it.released or {}).values())) for it in released[1:])
    if ms <= 0 or people <= 0 or not 0 < took < took + others:
        return None
    sample = Proportion(took + others, took)
    return Baseline(
        people * DAY_MS / ms,
        {"takers": sample},
        "the counts that looks have released in the last 28 days",
        noise,
    )


def assumed_baseline(rate: float | None, *, noise: float = 0.0) -> Baseline:
    """Return outcomes of users of whom a share takes something and spends a log-normal amount.

    The logarithm of the amount has a standard deviation of 1. The users a day are unknown.
    """
    share = USUAL_RATE if rate is None else rate
    takers = min(max(round(share * _ASSUMED_USERS), 1), _ASSUMED_USERS - 1)
    amounts = np.exp(special.ndtri((np.arange(takers) + 0.5) / takers))
    rows = [PersonOutcome(1, 1, float(amount)) for amount in amounts]
    rows += [PersonOutcome(1, 0)] * (_ASSUMED_USERS - takers)
    known = "assumed" if rate is None else "given"
    return Baseline(
        0.0,
        samples({str(number): row for number, row in enumerate(rows)}),
        f"a share of {share:.2%} who take something, {known}",
        noise,
    )
