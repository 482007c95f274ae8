"""The checks of the audit's four layers, each on one pipeline."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.audit.pipeline import (
    Contribution,
    Output,
    Pipeline,
    binomial_chance,
    reach,
)
from tactful_privacy.mechanisms._exact import clopper_pearson

_THRESHOLDS = 60
_CERTIFIED = 3


@dataclass(frozen=True)
class LowerBound:
    """A proved privacy loss."""

    epsilon: float  # the loss is at least this, except with probability `alpha`
    event: str  # the set of outputs that proves it, in words
    # confidence limit (lower or upper, as the bound needs) of the event's probability with the
    # person
    probability_with: float
    probability_without: float  # confidence limit of its probability without the person


NOTHING_PROVED = LowerBound(0.0, "none", 0.0, 0.0)


@dataclass(frozen=True)
class _Event:
    """Outputs whose score is at least (or below) a threshold."""

    score: str
    threshold: float
    below: bool

    def count(self, scores: Mapping[str, NDArray[Any]], part: slice) -> int:
        values = scores[self.score][part]
        reached = int((values >= self.threshold).sum())
        return len(values) - reached if self.below else reached

    def __str__(self) -> str:
        return f"{self.score} {'<' if self.below else '>='} {self.threshold:g}"


def prove_loss(
    # scores of outputs with the person, by name, each ``[trials]``, numbers or bools
    present: Mapping[str, NDArray[Any]],
    absent: Mapping[str, NDArray[Any]],  # scores of outputs without the person, likewise
    *,
    alpha: float,  # probability that the result is above the true loss
    delta: float = 0.0,  # allowed delta of the mechanism
) -> LowerBound:
    """Return the largest epsilon proved by outputs with and without a person.

    A mechanism that is (epsilon, delta)-private has P(event | with) <= e^epsilon P(event | without)
    + delta for every event, and the other way round. The first third of the outputs selects the
    three most promising events; the remaining outputs, independent of the selection, certify them
    by Clopper-Pearson limits. Both limits of the three events share alpha (Bonferroni).
    """
    trials = min(len(scores) for scores in (*present.values(), *absent.values()))
    picking = trials // 3
    share = alpha / (2 * _CERTIFIED)

    def proved(event: _Event, part: slice, scale: float) -> LowerBound:
        """Return the bound of an event on a part of the outputs, scaled to more trials."""
        trials_of_part = (part.stop - part.start) * scale
        (low1, high1), (low0, high0) = (
            clopper_pearson(round(event.count(scores, part) * scale), round(trials_of_part), share)
            for scores in (present, absent)
        )
        with_more = _log_ratio(low1 - delta, high0), low1, high0
        with_less = _log_ratio(low0 - delta, high1), high1, low0
        epsilon, shown1, shown0 = max(with_more, with_less)
        return LowerBound(epsilon, str(event), shown1, shown0)

    expected = (trials - picking) / picking
    events = sorted(
        _events(present, absent, picking),
        key=lambda event: proved(event, slice(0, picking), expected).epsilon,
    )
    certified = (proved(event, slice(picking, trials), 1.0) for event in events[-_CERTIFIED:])
    best = max(certified, key=lambda bound: bound.epsilon)
    return best if best.epsilon > 0 else NOTHING_PROVED


def _log_ratio(more: float, less: float) -> float:
    return max(0.0, math.log(more / less)) if more > 0 else 0.0


def _events(
    present: Mapping[str, NDArray[Any]], absent: Mapping[str, NDArray[Any]], picking: int
) -> Iterator[_Event]:
    for score, values in present.items():
        sample = np.concatenate([values[:picking], absent[score][:picking]]).astype(np.float64)
        for threshold in np.unique(np.quantile(sample, np.linspace(0.001, 0.999, _THRESHOLDS))):
            yield _Event(score, float(threshold), below=False)
            yield _Event(score, float(threshold), below=True)


_EXCESS = 3
"""Contributions of a canary beyond the cap."""

_CHUNK = 50_000


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    layer: int  # 1 exact noise, 2 sensitivity, 3 attack, 4 freshness
    check: str
    passed: bool  # whether the pipeline meets the claim
    measured: float  # the deciding number
    allowed: float  # limit of that number
    detail: str  # explanation in words


def _at_most(
    layer: int, check: str, measured: float | Fraction, allowed: float | Fraction, detail: str
) -> Finding:
    """Return a finding that passes if the measured number is not above the allowed one."""
    return Finding(layer, check, measured <= allowed, float(measured), float(allowed), detail)


def _likely(layer: int, check: str, chance: float, alpha: float, detail: str) -> Finding:
    """Return a finding that passes if a p-value is above alpha."""
    return Finding(layer, check, chance > alpha, chance, alpha, detail)


# -- layer 1 --------------------------------------------------------------------------------------


def check_noise(pipeline: Pipeline, draws: int, alpha: float) -> Iterator[Finding]:
    """Check delta of the stated probabilities of the noise, and its draws.

    Delta is computed from the stated probabilities by the definition, not by the noise's own code.
    """
    delta, how = pipeline.delta_of_noise()
    detail = f"at epsilon {pipeline.epsilon}, {how}"
    yield _at_most(1, "delta of the noise", delta, pipeline.delta, detail)
    drawn: NDArray[Any] = pipeline.noise().sample(draws)
    if not np.issubdtype(drawn.dtype, np.integer):
        detail = f"draws are {drawn.dtype}: their low bits reveal the count"
        yield Finding(1, "draws as stated", False, 0.0, alpha, detail)
        return
    detail = f"p-value of {draws:,} draws against the probabilities (chi-square)"
    yield _likely(1, "draws as stated", pipeline.chance_of(drawn), alpha, detail)


# -- layer 2 --------------------------------------------------------------------------------------


def check_sensitivity(pipeline: Pipeline, streams: int, seed: int) -> Finding:
    """Measure the largest change of the exact table by removing one user.

    Uses random streams of up to four users, some more active than the cap allows, interrupted by a
    restart from the counter's snapshot at a random place.
    """
    generator = np.random.default_rng(seed)
    worst = 0
    for _ in range(streams):
        length, users = int(generator.integers(1, 12 * pipeline.cap)), int(generator.integers(1, 5))
        stream = [
            Contribution(f"user {generator.integers(users)}", int(pane), int(key))
            for pane, key in generator.integers((0, 0), (pipeline.panes, 4), (length, 2))
        ]
        whole = pipeline.exact(stream, 4, restart_after=int(generator.integers(length)))
        for user in {contribution.user for contribution in stream}:
            rest = [contribution for contribution in stream if contribution.user != user]
            worst = max(worst, int(np.abs(whole - pipeline.exact(rest, 4)).sum()))
    detail = f"largest change of the exact table by one user, over {streams} random streams"
    return _at_most(2, "L1 sensitivity", worst, pipeline.change(), detail)


# -- layer 3 --------------------------------------------------------------------------------------


def attack(
    pipeline: Pipeline,
    canaries: int,
    alpha: float,
    directory: Path,
    spreads: Sequence[str] | None = None,
) -> Iterator[tuple[str, LowerBound]]:
    """Prove the largest possible privacy loss from public outputs.

    The pipeline runs once with and once without canaries: a canary is one user alone on a key, with
    more contributions than the cap allows. So every key is an independent trial. The contributions
    of a canary fall into one pane (``together``) or over all panes (``spread``). A third of the
    keys selects scores and thresholds, the others certify them.
    """
    spreads = pipeline.spreads if spreads is None else spreads
    for spread in spreads:
        panes = [
            pipeline.panes // 2 if spread == "together" else i % pipeline.panes
            for i in range(pipeline.cap + _EXCESS)
        ]
        expected = (
            pipeline.exact([Contribution("canary", pane, 0) for pane in panes], 1)[:, 0],
            pipeline.exact([], 1)[:, 0],
        )
        scores = [
            _scores(pipeline, _publish(pipeline, canaries, shown, directory), expected)
            for shown in (panes, [])
        ]
        yield (spread, prove_loss(*scores, alpha=alpha / len(spreads), delta=float(pipeline.delta)))


def check_loss(pipeline: Pipeline, canaries: int, alpha: float, directory: Path) -> Finding:
    """Check that the privacy loss proved by an attack stays within the claim."""
    where, best = "", NOTHING_PROVED
    for spread, bound in attack(pipeline, canaries, alpha, directory):
        if bound.epsilon >= best.epsilon:
            where, best = spread, bound
    detail = (
        f"{canaries:,} canaries, contributions {where}: {best.event} has probability"
        f" {best.probability_with:.3g} with one, {best.probability_without:.3g} without"
    )
    return _at_most(3, "epsilon proved by attack", best.epsilon, pipeline.epsilon, detail)


def _publish(
    pipeline: Pipeline, canaries: int, panes: list[int], directory: Path
) -> Iterator[Output]:
    """Publish many keys, in chunks."""
    for start in range(0, canaries, _CHUNK):
        keys = min(_CHUNK, canaries - start)
        stream = (Contribution(f"canary {key}", p, key) for key in range(keys) for p in panes)
        ledger = directory / f"{secrets.token_hex(8)}.db"
        yield pipeline.publish(stream, keys, ledger)
        for file in directory.glob(f"{ledger.name}*"):
            file.unlink()


def _scores(
    pipeline: Pipeline,
    outputs: Iterator[Output],
    expected: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> dict[str, NDArray[Any]]:
    """Reduce the outputs of each key to scores that may reveal a canary."""
    parts: list[dict[str, NDArray[Any]]] = []
    moved = int(np.argmax(np.abs(expected[0] - expected[1])))
    for output in outputs:
        y = output.values
        part: dict[str, NDArray[Any]] = {
            "likelihood": pipeline.likelihood(y, *expected),
            "zeros": (y == 0).sum(axis=0),
            "listed": output.listed,
        }
        if np.issubdtype(y.dtype, np.floating):
            for bits in range(50, 55):
                scaled = np.ldexp(y[moved], bits)
                part[f"not a multiple of 2^-{bits}"] = scaled != np.floor(scaled)
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


# -- layer 4 --------------------------------------------------------------------------------------


def check_freshness(
    pipeline: Pipeline, keys: int, alpha: float, directory: Path
) -> Iterator[Finding]:
    """Check that each cell has exactly one draw of noise, shared with no other cell."""
    ledger = directory / f"{secrets.token_hex(8)}.db"
    first = pipeline.publish([], keys, ledger).values
    again = pipeline.publish([Contribution("late", 0, 0)], keys, ledger).values
    changed = int((first != again).sum())
    detail = "cells that change when a day is published again after further contributions"
    yield _at_most(4, "published once", changed, 0, detail)
    other = pipeline.publish([], keys, directory / f"{secrets.token_hex(8)}.db").values
    noise = pipeline.noise()
    p = [float(noise.probability(k)) for k in range(reach(noise))]
    same = p[0] ** 2 + 2 * sum(value**2 for value in p[1:])
    if np.issubdtype(first.dtype, np.floating):
        same = 2.0**-40
    equal, cells = int((first == other).sum()), first.size
    detail = f"p-value of {equal:,} equal cells of {cells:,} in two runs over equal data"
    yield _likely(4, "fresh for each run", binomial_chance(equal, cells, same), alpha, detail)
    drawn = np.concatenate([first.ravel(), other.ravel()])
    # Each equality has at most the largest probability, so a run of this length is too unlikely.
    length = max(4, math.ceil(math.log(drawn.size**2 / alpha) / -math.log(min(p[0], 0.99))))
    repeated = _repeated(drawn, length)
    detail = f"runs of {length} cells that occur more than once among {drawn.size:,}"
    yield _at_most(4, "no block used twice", repeated, 0, detail)


def _repeated(values: NDArray[Any], length: int) -> int:
    """Count the windows of a length that equal another window."""
    if len(values) < length:
        return 0
    windows = np.lib.stride_tricks.sliding_window_view(values, length)
    rows = np.ascontiguousarray(windows).view(np.dtype((np.void, length * values.itemsize)))
    return len(rows) - len(np.unique(rows))
