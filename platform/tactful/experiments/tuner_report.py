"""Report the tuners of rollouts: weights over time, verdict, regret against fixed weights.

The regret is an off-policy estimate: a tuner with noise logs each draw with its density, so the
value of fixed weights with the same noise follows from its recommendations. Fixed weights are taken
near the tuner's, since those far away have no overlap with its draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.errors import ConfigError
from tactful.event_log.batches import decoded, read_batches
from tactful.event_log.impressions import as_impression, is_served
from tactful.experiments.definitions import CHANGE
from tactful.experiments.store import RolloutStore, StoredRollout
from tactful.experiments.tally import arm_of
from tactful.rerank.tuned_objective import EVALUATION, Tuner, TunerEvaluation, network_check
from tactful.schemas.experiments.readouts import Bounds
from tactful.schemas.experiments.tuner import (
    FixedArm,
    Regret,
    TunerInfo,
    Verdict,
    WeightPoint,
    WeightRange,
)
from tactful.util.fresh_values import FreshValues
from tactful_bandits.errors import EvaluationError
from tactful_bandits.tuner.weight_bounds import WeightBounds
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.log.event_log import EventLog

if TYPE_CHECKING:
    from tactful.experiments.tuner import ProbedList

NO_NOISE = "its actions have no noise, so other weights cannot be evaluated: roll out a probe"
TOO_FEW = "too few recommendations with a logged draw are over"
NO_OVERLAP = "no fixed weights have enough recommendations near them"

_CHUNK = 2_048
_POINTS = 60
_HOUR_MS = 3_600_000
_FRESH_MS = 60_000
_LEAST_EFFECTIVE = 200.0

Floats = NDArray[np.float64]


class TunerReports:
    """Reports the tuners of an installation's rollouts."""

    def __init__(
        self,
        store: RolloutStore,
        logs: Callable[[], Sequence[EventLog]],
        *,
        clock: Callable[[], int],
    ) -> None:
        """Report tuners; `logs` are partitions with the events that may be used to measure."""
        self._store = store
        self._logs = logs
        self._clock = clock
        self._fresh: FreshValues[list[TunerInfo]] = FreshValues(_FRESH_MS, clock)

    def all(self, *, days: float, exact: bool) -> list[TunerInfo]:
        """Report all tuners, by key of the rollout; nothing of the log unless `exact`.

        Raises:
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """

        def report() -> list[TunerInfo]:
            since = self._clock() - int(days * 24 * _HOUR_MS)
            return [
                self._report(stored, since, exact)
                for stored in self._store.all()
                if stored.definition.tuner and not stored.archived
            ]

        return self._fresh.get((days, exact), report)

    def _report(self, stored: StoredRollout, since: int, exact: bool) -> TunerInfo:
        directory, state = Path(stored.definition.tuner), stored.rollout.state
        base = TunerInfo(key=stored.key, state=state, share=stored.rollout.share)
        try:
            tuner = Tuner(directory)
        except ConfigError:
            return msgspec.structs.replace(base, reason="the tuner's directory cannot be read")
        manifest, now = tuner.manifest, self._clock()
        regret, reason = None, ""
        if exact and not manifest.noise:
            reason = NO_NOISE
        elif exact:
            regret, reason = self._regret(stored, tuner, since, now)
        return msgspec.structs.replace(
            base,
            trained_in=manifest.trained_in,
            noise=manifest.noise,
            weights=weight_ranges(tuner, now),
            # A mean of one hour may be that of a single user.
            series=self._series(stored.key, since, now) if exact else [],
            figures=manifest.figures,
            verdict=read_verdict(directory) if exact else None,
            regret=regret,
            reason=reason,
        )

    def _series(self, key: str, since: int, now: int) -> list[WeightPoint]:
        step = max(_HOUR_MS, -(-(now - since) // _POINTS))
        sums: dict[int, dict[str, float]] = {}
        counts: dict[int, int] = {}
        for log in self._logs():
            for at, weights in _weights(log, key, since):
                bucket = (at - since) // step
                counts[bucket] = counts.get(bucket, 0) + 1
                total = sums.setdefault(bucket, {})
                for name, weight in weights.items():
                    total[name] = total.get(name, 0.0) + weight
        return [
            WeightPoint(
                at=since + bucket * step,
                weights={name: it / counts[bucket] for name, it in sums[bucket].items()},
            )
            for bucket in sorted(sums)
        ]

    def _regret(
        self, stored: StoredRollout, tuner: Tuner, since: int, now: int
    ) -> tuple[Regret | None, str]:
        definition = stored.definition
        from tactful.experiments.tuner import read_probed  # with SciPy

        lists: list[ProbedList] = []
        for log in self._logs():
            lists += read_probed(
                log,
                stored.key,
                since=since,
                until=now,
                types=definition.outcomes,
                lasts=definition.lasts,
            )
        return regret_of(lists, tuner)


def regret_of(lists: Sequence[ProbedList], tuner: Tuner) -> tuple[Regret | None, str]:
    """Estimate the regret by recommendations with logged draws; else return the reason."""
    # They import parts of SciPy that a server should not wait for.
    from tactful_bandits.evaluation.off_policy import LoggedDecisions, logged_value, snips
    from tactful_bandits.evaluation.verdict import measure_overlap

    manifest = tuner.manifest
    objectives, bounds = manifest.objectives, WeightBounds(manifest.champion, reach=manifest.reach)
    if len({shown.person for shown in lists}) < 2:
        return None, TOO_FEW
    drawn = np.array([shown.drawn for shown in lists], np.float64)
    people = np.unique([shown.person for shown in lists], return_inverse=True)[1]
    rewards = np.array([shown.took for shown in lists], np.float64)
    propensities = np.exp([shown.log_density for shown in lists])
    arms, differences = [], {}
    for name, action in _fixed_actions(drawn, objectives, manifest.noise).items():
        densities = np.exp(_log_densities(drawn, action, manifest.noise))
        try:
            log = LoggedDecisions(rewards, propensities, densities, units=people, densities=True)
            value, effective = snips(log), measure_overlap(log).effective
        except EvaluationError:
            continue
        reliable = effective >= _LEAST_EFFECTIVE
        weights = dict(zip(objectives, map(float, bounds.weights(action)), strict=True))
        arms.append(
            FixedArm(
                name=name,
                weights=weights,
                value=value.value,
                effective=effective,
                reliable=reliable,
            )
        )
        if reliable:
            differences[name] = value.minus(logged_value(log))
    if not differences:
        return None, NO_OVERLAP
    best = max(differences, key=lambda name: differences[name].value)
    interval = differences[best].interval(1 - 0.05 / len(differences))
    return Regret(
        value=float(rewards.mean()),
        recommendations=len(lists),
        best=best,
        regret=differences[best].value,
        interval=Bounds(low=interval.low, high=interval.high),
        arms=arms,
    ), ""


def weight_ranges(tuner: Tuner, now: int) -> list[WeightRange]:
    """Return the bounds of a tuner's weights, and the weights at a time."""
    manifest = tuner.manifest
    bounds = WeightBounds(manifest.champion, reach=manifest.reach)
    present = tuner.objective(now)
    count = len(manifest.champion)
    ranges = []
    for number, (name, champion) in enumerate(
        zip(manifest.objectives, manifest.champion, strict=True)
    ):
        # Weights are normalised: one is largest if the others are smallest.
        most, least = -np.ones(count), np.ones(count)
        most[number], least[number] = 1.0, -1.0
        ranges.append(
            WeightRange(
                objective=name,
                champion=champion,
                low=float(bounds.weights(least)[number]),
                high=float(bounds.weights(most)[number]),
                now=None if present is None else float(getattr(present, name)),
            )
        )
    return ranges


def read_verdict(directory: Path) -> Verdict | None:
    """Return the evaluation in a tuner's directory; None without one."""
    try:
        found = msgspec.json.decode((directory / EVALUATION).read_bytes(), type=TunerEvaluation)
        current = found.network == network_check(directory)
    except (OSError, ConfigError, *DECODE_ERRORS):
        return None
    return Verdict(
        verdict=found.verdict,
        gain=found.gain,
        interval=Bounds(low=found.low, high=found.high),
        reasons=list(found.reasons),
        current=current,
    )


def _log_densities(drawn: Floats, action: Floats, noise: float) -> Floats:
    """Compute `gaussian_log_density` of every draw, ``[n]``."""
    squares = (((drawn - action) / noise) ** 2).sum(axis=1)
    constant = drawn.shape[1] * np.log(noise * np.sqrt(2 * np.pi))
    densities: Floats = -0.5 * squares - constant
    return densities


def _fixed_actions(drawn: Floats, objectives: Sequence[str], noise: float) -> dict[str, Floats]:
    """Return the champion, the mean action, and steps of the noise from it."""
    mean = drawn.mean(axis=0)
    actions = {"champion": np.zeros_like(mean), "mean": mean}
    for number, name in enumerate(objectives):
        for words, sign in (("more", 1.0), ("less", -1.0)):
            action = mean.copy()
            action[number] += sign * noise
            actions[f"{words} {name}"] = action
    return actions


def _weights(log: EventLog, key: str, since: int) -> list[tuple[int, dict[str, float]]]:
    """Read time and weights of the recommendations in a rollout's change."""
    found = []
    for records in read_batches(log, max(log.begin, log.offset_at(since)), log.end, size=_CHUNK):
        for offset, entry in decoded(records):
            if not isinstance(entry, Event) or entry.timestamp < since or not is_served(entry):
                continue
            shown = as_impression(entry, offset)
            logged = entry.properties.get("objective")
            if shown is None or not isinstance(logged, list) or arm_of(entry, key) != CHANGE:
                continue
            if (weights := _parsed(logged)) is not None:
                found.append((entry.timestamp, weights))
    return found


def _parsed(logged: Sequence[object]) -> dict[str, float] | None:
    """Parse weights that are logged as `name=value`."""
    weights = {}
    for text in logged:
        name, _, value = str(text).partition("=")
        try:
            weights[name] = float(value)
        except ValueError:
            return None
    return weights
