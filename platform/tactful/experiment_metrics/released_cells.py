"""Noisy cells of the outcomes of an experiment's units, by arm and day.

A unit stands in one cell of each metric: that of its arm, the day of its first exposure, and its
outcome on a public grid. Discrete Laplace noise of scale ``1 / ε`` on every cell makes all days and
arms of a metric together ε-differentially private for adding or removing a unit (parallel
composition: Dwork and Roth 2014, section 3.5). An outcome between two values of the grid goes to
one of both by chance, such that its expectation is the outcome, so sums stay unbiased.

```text
metric spend, cap 500, day 20428       0   50  100  …  500
arm short                            812   31   17  …    4     users, plus noise
arm long                             797   36   22  …    5
```
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.experiments.worth_release import ratio_of_cells
from tactful.schemas.experiments.metrics import MetricDefinition
from tactful_bandits.analysis.noisy_samples import RatioSums, ReleasedProportion, ReleasedRatio
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.errors import StatisticsError
from tactful_privacy.mechanisms.backends import Noise
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

Floats = NDArray[np.float64]

_STEPS = 10  # of a grid between 0 and a cap
_SHARES = ("binary", "retention")
_UNIT = 2.0**-64
_BEYOND_NOISE = 3.0  # standard deviations of the noise in the number of units


class MetricRelease(msgspec.Struct, kw_only=True, frozen=True):
    """Noisy cells of one metric and day.

    Attributes:
        epsilon: privacy loss, exact text such as ``1/3``.
        definition: fingerprint of the metric as it was counted.
        grid: outcome of each cell.
        cells: by arm, units in each cell, with noise.
    """

    epsilon: str
    definition: str
    grid: tuple[float, ...]
    cells: dict[str, tuple[int, ...]]


def grid_of(metric: MetricDefinition) -> tuple[float, ...]:
    """Return the outcomes that cells stand for; they follow from the definition alone.

    The metric is one that `refusal_of` does not refuse, and no ratio.
    """
    if metric.kind in _SHARES:
        return (0.0, 1.0)
    cap = metric.cap
    assert cap is not None
    whole = metric.kind == "count" and cap == int(cap) and cap <= _STEPS
    steps = int(cap) if whole else _STEPS
    above = [cap * step / steps for step in range(steps + 1)]
    below = [-value for value in reversed(above[1:])] if metric.minus else []
    return (*below, *above)


def refusal_of(metric: MetricDefinition, metrics: Mapping[str, MetricDefinition]) -> str:
    """Return why a metric cannot be released; empty if it can.

    `metrics` has the parts of ratios.
    """
    if metric.kind == "quantile":
        return (
            "a quantile is not released: one unit can move it by any amount, so no noise hides a "
            "unit; exact numbers need admin"
        )
    if metric.kind == "ratio":
        for name in metric.parts:
            if reason := refusal_of(metrics[name], metrics):
                return f"its part {name!r} is not released: {reason}"
        return ""
    if metric.kind in ("count", "sum") and metric.cap is None:
        return (
            f"a {metric.kind} without a cap is not released: one unit could add any amount; give "
            "it a cap"
        )
    return ""


def fingerprint(metric: MetricDefinition) -> str:
    """Return a text that two definitions share if they count alike."""
    counted = msgspec.structs.replace(
        metric, words="", direction="higher", minimum_outcomes=0, line=0
    )
    return hashlib.sha256(msgspec.json.encode(counted, order="deterministic")).hexdigest()[:16]


def noise_of(epsilon: Fraction) -> DiscreteLaplace:
    """Return the noise of one cell: a unit adds 1 to one cell of a metric."""
    return DiscreteLaplace(1, epsilon)


def release_cells(
    metric: MetricDefinition,
    arms: Mapping[str, Mapping[str, float]],
    noise: Noise,
    *,
    chance: bytes,
) -> MetricRelease:
    """Draw the cells of one metric and day; to be called once for both.

    Args:
        metric: the metric.
        arms: outcomes by arm and key of the unit; a unit stands in one arm.
        noise: noise of one cell, of sensitivity 1.
        chance: fresh secret that decides between the two cells of an outcome.

    Raises:
        ValueError: a unit stands in two arms, or the noise is for another sensitivity.
    """
    units = [unit for outcomes in arms.values() for unit in outcomes]
    if len(units) != len({*units}):
        raise ValueError("a unit stands in two arms: its loss would be twice the epsilon")
    if noise.sensitivity != 1:
        raise ValueError(f"the noise is for a sensitivity of {noise.sensitivity}, not 1")
    grid = grid_of(metric)
    cells = {}
    for arm, outcomes in arms.items():
        counts = np.zeros(len(grid), np.int64)
        for unit, outcome in outcomes.items():
            counts[_cell(grid, outcome, _draw(unit, chance))] += 1
        cells[arm] = tuple((counts + noise.sample(len(grid))).tolist())
    return MetricRelease(
        epsilon=str(noise.epsilon), definition=fingerprint(metric), grid=grid, cells=cells
    )


def _cell(grid: Sequence[float], outcome: float, draw: float) -> int:
    """Return the cell of an outcome; one beyond the grid counts as its end."""
    bounded = min(max(outcome, grid[0]), grid[-1])
    above = min(int(np.searchsorted(grid, bounded, side="right")), len(grid) - 1)
    low, high = grid[above - 1], grid[above]
    return above if draw < (bounded - low) / (high - low) else above - 1


def _draw(unit: str, chance: bytes) -> float:
    """Return a number in [0, 1) that depends on no other unit."""
    digest = hashlib.blake2b(unit.encode(), digest_size=8, key=chance).digest()
    return int.from_bytes(digest, "big") * _UNIT


def released_sample(
    metric: MetricDefinition, releases: Sequence[MetricRelease], arm: str
) -> Sample | None:
    """Return the outcomes of an arm over some days; None while noise outweighs the data."""
    try:
        cells, variance = _known(releases, arm)
        if metric.kind in _SHARES:
            return ReleasedProportion(float(cells[1]), float(cells[0]), variance, variance)
        grid = np.array(releases[0].grid)
        return ratio_of_cells(cells, grid, np.ones(len(grid)), variance)
    except StatisticsError:
        return None


def released_ratio(
    parts: tuple[MetricDefinition, MetricDefinition],
    releases: tuple[Sequence[MetricRelease], Sequence[MetricRelease]],
    arm: str,
) -> Sample | None:
    """Return the ratio of two released metrics, without a further release.

    The joint distribution of both is not released, so the variance takes the smallest sum of
    products that is possible: 0, or the bound of Cauchy and Schwarz where a numerator can be
    negative. The interval is therefore too wide rather than too narrow.
    """
    sums, noises = [], []
    units = 0.0
    for of_part in releases:
        try:
            cells, variance = _known(of_part, arm)
        except StatisticsError:
            return None
        grid = np.array(of_part[0].grid)
        powers = (grid, grid**2)
        sums.append([float((power * cells).sum()) for power in powers])
        noises.append([float((power**2).sum() * variance) for power in powers])
        units = float(cells.sum())
    (above, squares_above), (below, squares_below) = sums
    products = 0.0
    if parts[0].minus:
        products = -float(np.sqrt(max(squares_above, 0.0) * max(squares_below, 0.0)))
    try:
        return ReleasedRatio(
            units,
            RatioSums(above, below, squares_above, squares_below, products),
            RatioSums(noises[0][0], noises[1][0], noises[0][1], noises[1][1], 0.0),
        )
    except StatisticsError:
        return None


def released_units(releases: Sequence[MetricRelease], arm: str) -> ReleasedProportion | None:
    """Return the units of an arm with the variance of their noise, as successes; None if few."""
    try:
        cells, variance = _known(releases, arm)
        return ReleasedProportion(float(cells.sum()), 0.0, variance * len(cells), 0.0)
    except StatisticsError:
        return None


def released_outcomes(metric: MetricDefinition, releases: Sequence[MetricRelease], arm: str) -> int:
    """Return the noisy number of units of an arm with an outcome that is not 0, at least 0.

    A share counts those with the rarer of both outcomes; pass the denominator of a ratio.
    """
    cells, _ = _summed(releases, arm)
    nothing = float(cells[releases[0].grid.index(0.0)])
    some = float(cells.sum()) - nothing
    return max(0, round(min(some, nothing) if metric.kind in _SHARES else some))


def _summed(releases: Sequence[MetricRelease], arm: str) -> tuple[Floats, float]:
    """Return the sums of the cells of some days, and the variance of the noise in each."""
    cells = np.array([release.cells[arm] for release in releases], np.float64).sum(axis=0)
    return cells, math.fsum(_variance(release.epsilon) for release in releases)


def _known(releases: Sequence[MetricRelease], arm: str) -> tuple[Floats, float]:
    """Return what `_summed` does; StatisticsError while noise alone may have made the units."""
    cells, variance = _summed(releases, arm)
    if cells.sum() < _BEYOND_NOISE * math.sqrt(variance * len(cells)):
        raise StatisticsError("noise outweighs the units")
    return cells, variance


@functools.cache
def _variance(epsilon: str) -> float:
    return float(noise_of(Fraction(epsilon)).variance)
