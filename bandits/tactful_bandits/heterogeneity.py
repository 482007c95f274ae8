"""For whom a change works: effects by segment, found honestly.

Somewhere among enough segments an effect is large by chance. Segments that were named beforehand
are corrected for their number here. Segments that are *searched for* are found in one half of the
units and judged in the other, which had no say in which were chosen (honest splits); an effect
reported for the half that chose it would be too large every time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from tactful_bandits.comparison import (
    Estimate,
    Interval,
    difference,
    fixed_horizon_interval,
    fixed_horizon_p_value,
)
from tactful_bandits.errors import StatisticsError
from tactful_bandits.multiplicity import holm
from tactful_bandits.samples import Mean, Sample, columns

if TYPE_CHECKING:
    from sklearn.tree import DecisionTreeRegressor


@dataclass(frozen=True, slots=True)
class SegmentEffect:
    """The effect in one segment.

    Attributes:
        name: Of the segment.
        share: Of all units.
        estimate: Treatment minus control within it.
        interval: For one look; all segments are covered together with the stated probability.
        p: Holm's adjusted p-value, over all segments.
    """

    name: str
    share: float
    estimate: Estimate
    interval: Interval
    p: float


@dataclass(frozen=True, slots=True)
class Heterogeneity:
    """Effects by segment, and whether they differ at all.

    Attributes:
        segments: In the order given.
        p: That the effects are all the same: Cochran's Q. Above alpha, the differences between the
            segments are no more than chance makes, and the overall effect is the best guess for
            each of them.
    """

    segments: tuple[SegmentEffect, ...]
    p: float


def segment_effects(
    segments: Mapping[str, tuple[Sample, Sample]], *, alpha: float = 0.05
) -> Heterogeneity:
    """Compare the arms within segments that were named beforehand.

    Args:
        segments: Control and treatment by segment, each unit in one segment, by what was known
            before it was assigned.
        alpha: Probability of any segment's interval missing its truth (Bonferroni).

    Returns:
        The effects, in the order given.

    Raises:
        StatisticsError: There is no segment, or `alpha` is out of range.

    Source: Cochran, "The combination of estimates from different experiments", Biometrics 10
    (1954).
    """
    if not segments:
        raise StatisticsError("at least one segment is needed")
    estimates = {name: difference(*pair) for name, pair in segments.items()}
    adjusted = holm([fixed_horizon_p_value(estimate) for estimate in estimates.values()])
    total = sum(estimate.units for estimate in estimates.values())
    effects = tuple(
        SegmentEffect(
            name,
            estimate.units / total,
            estimate,
            fixed_horizon_interval(estimate, alpha=alpha / len(estimates)),
            p,
        )
        for (name, estimate), p in zip(estimates.items(), adjusted, strict=True)
    )
    return Heterogeneity(effects, _cochran([each.estimate for each in effects]))


@dataclass(frozen=True, slots=True)
class Uplift:
    """Segments that were found in one half of the units, and their effects in the other.

    Attributes:
        heterogeneity: The effects, in the half that had no say in the segments; those with the
            largest first.
        features: Names of the columns.
    """

    heterogeneity: Heterogeneity
    features: tuple[str, ...]
    _tree: "DecisionTreeRegressor"
    _effects: Mapping[int, float]

    def predict(self, x: ArrayLike) -> NDArray[np.float64]:
        """Predict the effect on units as that of their segment.

        Args:
            x: Features, shape ``[units, features]``.

        Returns:
            One effect per unit, shape ``[units]``.
        """
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
    whose expectation given the features is the effect. Half of the units, drawn at random, grow the
    tree; the other half says what the effect is in each of its leaves.

    Args:
        x: What was known of the units before they were assigned, shape ``[units, features]``.
        treated: 1 for the treatment, 0 for the control, shape ``[units]``.
        outcome: The metric, one value per unit, shape ``[units]``.
        features: Names of the columns of `x`.
        treatment_share: Probability ``p`` that the draw gave the treatment, in (0, 1).
        seed: Of the split.
        segments: How many there may be, at least 2.
        smallest: Units that a segment needs in each half.
        alpha: Probability of any segment's interval missing its truth.

    Returns:
        The segments; a single one where no split was worth it.

    Raises:
        StatisticsError: Shapes differ, a value is out of range, or there are too few units.

    Source: Athey and Imbens, "Recursive partitioning for heterogeneous causal effects", PNAS 113
    (2016), arXiv 1504.01132.
    """
    from sklearn.tree import DecisionTreeRegressor  # slow to import, and only analysts search

    names = tuple(features)
    matrix = _matrix(x, names)
    w, y = columns(treated, outcome)
    if len(matrix) != len(w):
        raise StatisticsError(f"{len(matrix)} rows of features for {len(w)} units")
    if not np.isin(w, (0, 1)).all() or not np.isfinite(y).all():
        raise StatisticsError("treated must be 0 or 1, and every outcome a finite number")
    if not 0 < treatment_share < 1 or segments < 2 or smallest < 2:
        raise StatisticsError(
            "treatment_share must lie between 0 and 1, segments and smallest be at least 2"
        )
    if len(w) < 4 * smallest:
        raise StatisticsError(
            f"{len(w)} units are too few: two segments of {smallest} in each half need "
            f"{4 * smallest}"
        )
    grows = np.random.default_rng(seed).permutation(len(w)) < len(w) // 2
    weight = (w - treatment_share) / (treatment_share * (1 - treatment_share))
    transformed = (y - y[grows].mean()) * weight
    tree = DecisionTreeRegressor(
        max_leaf_nodes=segments, min_samples_leaf=smallest, random_state=seed
    ).fit(matrix[grows], transformed[grows])
    leaves = tree.apply(matrix[~grows])
    judged = {
        int(leaf): tuple(
            Mean.from_units(y[~grows][(leaves == leaf) & (w[~grows] == arm)]) for arm in (0, 1)
        )
        for leaf in np.unique(leaves)
    }
    rules = _rules(tree, names)
    found = segment_effects(
        {rules[leaf]: (pair[0], pair[1]) for leaf, pair in judged.items()}, alpha=alpha
    )
    ordered = sorted(found.segments, key=lambda each: -each.estimate.value)
    by_rule = {each.name: each.estimate.value for each in ordered}
    effects = {leaf: by_rule[rules[leaf]] for leaf in judged}
    return Uplift(Heterogeneity(tuple(ordered), found.p), names, tree, effects)


def _cochran(estimates: Sequence[Estimate]) -> float:
    if len(estimates) < 2 or any(each.standard_error == 0 for each in estimates):
        return 1.0
    weights = np.array([each.standard_error**-2 for each in estimates])
    effects = np.array([each.value for each in estimates])
    q = float(weights @ (effects - weights @ effects / weights.sum()) ** 2)
    return float(special.chdtrc(len(estimates) - 1, q))


def _matrix(x: ArrayLike, names: Sequence[str]) -> NDArray[np.float64]:
    matrix = np.asarray(x, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(names) or not np.isfinite(matrix).all():
        raise StatisticsError(
            f"features must be finite and of shape [units, {len(names)}], not {matrix.shape}"
        )
    return matrix


def _rules(tree: "DecisionTreeRegressor", names: Sequence[str]) -> dict[int, str]:
    """Say in words which units a leaf holds."""
    grown: Any = tree.tree_
    rules: dict[int, str] = {}
    waiting: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    while waiting:
        node, path = waiting.pop()
        left, right = int(grown.children_left[node]), int(grown.children_right[node])
        if left == right:
            rules[node] = " and ".join(path) or "all"
            continue
        name, threshold = names[int(grown.feature[node])], float(grown.threshold[node])
        waiting.append((left, (*path, f"{name} <= {threshold:g}")))
        waiting.append((right, (*path, f"{name} > {threshold:g}")))
    return rules
