"""Heterogeneous treatment effects: by segment, with honest search, and over time.

With many segments some effect is large by chance. P-values of segments named beforehand are
corrected for their number. Segments from a *search* are chosen on one half of the units and
evaluated on the other (honest splits); effects in the half used for the choice would be biased
upwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.analysis import comparison
from tactful_bandits.analysis.multiplicity import holm
from tactful_bandits.analysis.samples import Mean, Sample, columns
from tactful_bandits.errors import StatisticsError
from tactful_privacy.lazy_imports import LazyModule

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeRegressor

special = LazyModule("scipy.special")

Floats = NDArray[np.float64]

Course = Literal["steady", "fading", "growing"]
"""Course of an effect over time: "fading" is novelty that wears off, "growing" is learning."""


@dataclass(frozen=True, slots=True)
class SegmentEffect:
    """Effect in one segment."""

    name: str  # name of the segment
    share: float  # share of all units
    estimate: comparison.Estimate  # treatment minus control in the segment
    # Interval for one look; all intervals together cover with the stated probability
    interval: comparison.Interval
    p: float  # P-value after Holm's adjustment over all segments


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """Effects by segment, and a test whether they differ."""

    segments: tuple[SegmentEffect, ...]  # effects in the order given
    # P-value of equal effects in all segments, by Cochran's Q. Above alpha, the differences are
    # within chance, and the overall effect is the best estimate for each segment.
    p: float


def segment_effects(
    segments: Mapping[str, tuple[Sample, Sample]], *, alpha: float = 0.05
) -> Heterogeneity:
    """Compare the arms within segments that were named beforehand.

    Args:
        segments: Control and treatment by segment; each unit is in one segment, which was known
            before its assignment.
        alpha: Probability of any segment's interval missing its truth (Bonferroni).

    Raises:
        StatisticsError: There is no segment, or `alpha` is out of range.

    Source: Cochran, "The combination of estimates from different experiments", Biometrics 10
    (1954).
    """
    if not segments:
        raise StatisticsError("at least one segment is needed")
    estimates = {name: comparison.difference(*pair) for name, pair in segments.items()}
    adjusted = holm([comparison.fixed_horizon_p_value(estimate) for estimate in estimates.values()])
    total = sum(estimate.units for estimate in estimates.values())
    effects = tuple(
        SegmentEffect(
            name,
            estimate.units / total,
            estimate,
            comparison.fixed_horizon_interval(estimate, alpha=alpha / len(estimates)),
            p,
        )
        for (name, estimate), p in zip(estimates.items(), adjusted, strict=True)
    )
    return Heterogeneity(effects, _cochran([effect.estimate for effect in effects]))


@dataclass(frozen=True, slots=True)
class Uplift:
    """Segments chosen on one half of the units, and their effects in the other half."""

    # Effects in the half that was not used to choose, the largest first
    heterogeneity: Heterogeneity
    features: tuple[str, ...]  # names of the columns
    _tree: "DecisionTreeRegressor"
    _effects: Mapping[int, float]

    def predict(self, x: ArrayLike) -> Floats:
        """Predict each unit's effect as that of its segment, ``[units]``, from features."""
        leaves = self._tree.apply(_matrix(x, self.features))
        return np.array([self._effects[int(leaf)] for leaf in leaves])


def honest_uplift(
    x: ArrayLike,
    treated: ArrayLike,
    outcome: ArrayLike,
    *,
    features: Sequence[str],
    treatment_share: float,
    seed: int,
    segments: int = 4,
    smallest: int = 500,
    alpha: float = 0.05,
) -> Uplift:
    """Search for segments with different effects, and estimate them on other units.

    A regression tree is grown on the transformed outcome ``(y - mean y) (w - p) / (p (1 - p))``,
    whose expectation given the features is the effect. A random half of the units grows the tree;
    the other half gives the effect in each leaf. There is a single segment if no split improves the
    fit.

    Args:
        x: Features of the units from before their assignment, shape ``[units, features]``.
        treated: 1 for the treatment, 0 for the control, shape ``[units]``.
        outcome: The metric, one value per unit, shape ``[units]``.
        features: Names of the columns of `x`.
        treatment_share: Probability ``p`` that the draw gave the treatment, in (0, 1).
        seed: Seed of the split.
        segments: Largest number of segments, at least 2.
        smallest: Units that a segment needs in each half.
        alpha: Probability of any segment's interval missing its truth.

    Raises:
        StatisticsError: Shapes differ, a value is out of range, or there are too few units.

    Source: Athey and Imbens, "Recursive partitioning for heterogeneous causal effects", PNAS 113
    (2016), arXiv 1504.01132.
    """
    names = tuple(features)
    matrix = _matrix(x, names)
    w, y = columns(treated, outcome)
    _require_units(matrix, w, y)
    _require_search(len(w), treatment_share, segments, smallest)
    grows = np.random.default_rng(seed).permutation(len(w)) < len(w) // 2
    weight = (w - treatment_share) / (treatment_share * (1 - treatment_share))
    transformed = (y - y[grows].mean()) * weight
    tree = _grown(matrix[grows], transformed[grows], segments, smallest, seed)
    leaves = tree.apply(matrix[~grows])
    arms_by_leaf = {
        int(leaf): tuple(
            Mean.from_units(y[~grows][(leaves == leaf) & (w[~grows] == arm)]) for arm in (0, 1)
        )
        for leaf in np.unique(leaves)
    }
    rules = _rules(tree, names)
    heterogeneity = segment_effects(
        {rules[leaf]: (pair[0], pair[1]) for leaf, pair in arms_by_leaf.items()}, alpha=alpha
    )
    ordered = sorted(heterogeneity.segments, key=lambda effect: -effect.estimate.value)
    by_rule = {effect.name: effect.estimate.value for effect in ordered}
    effects = {leaf: by_rule[rules[leaf]] for leaf in arms_by_leaf}
    return Uplift(Heterogeneity(tuple(ordered), heterogeneity.p), names, tree, effects)


@dataclass(frozen=True, slots=True)
class Trend:
    """Linear change of an effect over the days since the units' first exposure."""

    slope: float  # change of the effect per day
    standard_error: float  # standard error of the slope
    p: float  # two-sided p-value of the hypothesis that the effect does not change
    effect: float  # mean effect over all days, weighted by precision
    alpha: float  # significance level of the trend

    @property
    def course(self) -> Course:
        """Course of the effect; "steady" also if no change is significant."""
        if self.p >= self.alpha:
            return "steady"
        return "growing" if self.slope * self.effect > 0 else "fading"


def effect_trend(days: Sequence[tuple[Sample, Sample]], *, alpha: float = 0.05) -> Trend:
    """Test whether the effect changes with the days since first exposure.

    A straight line is fitted to the daily effects, weighted by their precision. Novelty wears off,
    and habits form slowly; in both cases the average so far differs from the later effect.

    Give both arms for each day *since a unit's first exposure*, not of the calendar: there a rising
    share of new units looks like a trend. Include only units with all the days behind them, or late
    units count on the first days alone. Units that count on several days correlate the days, and
    make the p-value too small where a unit's days are more similar in one arm than in the other.

    Raises:
        StatisticsError: Fewer than three days, or a day without any variation.
    """
    if len(days) < 3:
        raise StatisticsError(f"a trend needs at least 3 days, not {len(days)}")
    estimates = [comparison.difference(*pair) for pair in days]
    if any(estimate.standard_error == 0 for estimate in estimates):
        raise StatisticsError("a day without any variation has no error; leave it out")
    weights = np.array([estimate.standard_error**-2 for estimate in estimates])
    effects = np.array([estimate.value for estimate in estimates])
    day = np.arange(len(days), dtype=np.float64)
    effect = float(weights @ effects / weights.sum())
    centred = day - weights @ day / weights.sum()
    spread = float(weights @ centred**2)
    slope = float(weights @ (centred * effects)) / spread
    error = spread**-0.5
    return Trend(slope, error, float(2 * special.ndtr(-abs(slope) / error)), effect, alpha)


def _require_units(matrix: Floats, treated: Floats, outcome: Floats) -> None:
    if len(matrix) != len(treated):
        raise StatisticsError(f"{len(matrix)} rows of features for {len(treated)} units")
    if not np.isin(treated, (0, 1)).all() or not np.isfinite(outcome).all():
        raise StatisticsError("treated must be 0 or 1, and every outcome a finite number")


def _require_search(units: int, treatment_share: float, segments: int, smallest: int) -> None:
    if not 0 < treatment_share < 1 or segments < 2 or smallest < 2:
        raise StatisticsError(
            "treatment_share must lie between 0 and 1, segments and smallest be at least 2"
        )
    if units < 4 * smallest:
        raise StatisticsError(
            f"{units} units are too few: two segments of {smallest} in each half need "
            f"{4 * smallest}"
        )


def _grown(
    x: Floats, y: Floats, segments: int, smallest: int, seed: int
) -> "DecisionTreeRegressor":
    # Imported here because scikit-learn is slow to import and only this analysis needs it.
    from sklearn.tree import DecisionTreeRegressor

    return DecisionTreeRegressor(
        max_leaf_nodes=segments, min_samples_leaf=smallest, random_state=seed
    ).fit(x, y)


def _cochran(estimates: Sequence[comparison.Estimate]) -> float:
    if len(estimates) < 2 or any(estimate.standard_error == 0 for estimate in estimates):
        return 1.0
    weights = np.array([estimate.standard_error**-2 for estimate in estimates])
    effects = np.array([estimate.value for estimate in estimates])
    q = float(weights @ (effects - weights @ effects / weights.sum()) ** 2)
    return float(special.chdtrc(len(estimates) - 1, q))


def _matrix(x: ArrayLike, names: Sequence[str]) -> Floats:
    matrix = np.asarray(x, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(names) or not np.isfinite(matrix).all():
        raise StatisticsError(
            f"features must be finite and of shape [units, {len(names)}], not {matrix.shape}"
        )
    return matrix


def _rules(tree: "DecisionTreeRegressor", names: Sequence[str]) -> dict[int, str]:
    """Describe each leaf by its conditions: ``{3: "age <= 30 and visits > 2"}``."""
    grown: Any = tree.tree_
    rules: dict[int, str] = {}
    stack: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    while stack:
        node, path = stack.pop()
        left, right = int(grown.children_left[node]), int(grown.children_right[node])
        if left == right:
            rules[node] = " and ".join(path) or "all"
            continue
        name, threshold = names[int(grown.feature[node])], float(grown.threshold[node])
        stack.append((left, (*path, f"{name} <= {threshold:g}")))
        stack.append((right, (*path, f"{name} > {threshold:g}")))
    return rules
