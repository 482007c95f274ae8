"""Learn the gain of a coupon by user: a linear model, a forest, and the choice between them.

Only users who were drawn by a hash are learnt from: those who were offered a coupon to explore, and
those held out. The forest is an R-learner (Nie and Wager, Biometrika 108, 2021): expected spending
without regard to the coupon is subtracted first, then trees look for users among whom the rest
differs by the coupon. Trees are honest (Athey and Imbens, PNAS 113, 2016): one half of the users
chooses the splits, the other gives the gain in the leaves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.coupons.gain_model import Forest, Gain, GainModel
from tactful.coupons.report import CouponOutcomes
from tactful_bandits.analysis.comparison import Interval, difference, fixed_horizon_interval
from tactful_bandits.analysis.samples import Mean
from tactful_bandits.analysis.uplift_curves import RankingComparison, compare_rankings

Floats = NDArray[np.float64]

LEAST_USERS = 1_000
"""Drawn users below which no forest is fitted: splits would be chosen by a quarter of them."""

_FOLDS = 5
_DEPTH = 5
_SMALLEST = 10  # drawn users in a leaf, in each half
_FIFTHS = 5


@dataclass(frozen=True, eq=False)
class DrawnUsers:
    """Users whose coupon was decided by a hash."""

    features: Floats  # ``[users, features]``
    offered: Floats  # 1 with a coupon, 0 for the held out, ``[users]``
    value: Floats  # margin of what they spent, ``[users]``
    chance: Floats  # probability of a coupon for a drawn user at that time, ``[users]``

    def part(self, of: NDArray[np.bool_]) -> DrawnUsers:
        """Return some of the users."""
        return DrawnUsers(self.features[of], self.offered[of], self.value[of], self.chance[of])


@dataclass(frozen=True)
class GainGroup:
    """A fifth of the users by expected gain, and its measured one."""

    expected: float  # mean expected gain, of models that were learnt from other users
    measured: float  # mean of the offered minus mean of the held out
    interval: Interval  # of `measured`


@dataclass(frozen=True)
class GainFit:
    """Fitted models and the reasons for the chosen one."""

    chosen: GainModel
    linear: GainModel
    forest: GainModel | None  # None with too few users
    # Linear model first, forest second, on users that neither was learnt from
    comparison: RankingComparison | None
    groups: tuple[GainGroup, ...]  # of the chosen kind, from the lowest expected gain


def drawn_users(outcomes: CouponOutcomes, *, margin: float) -> DrawnUsers | None:
    """Return the users who were drawn; None without both groups.

    The chance of a coupon is the logged one, or for older decisions the share of the offered. Users
    whose coupon was impossible, because the budget was spent, are left out.
    """
    drawn = (outcomes.explored | ~outcomes.treated) & (outcomes.propensity != 0)
    if not drawn.any():
        return None
    offered = outcomes.explored[drawn].astype(np.float64)
    share = float(offered.mean())
    if not 0 < share < 1:
        return None
    chance = outcomes.propensity[drawn]
    known = (chance > 0) & (chance < 1)
    return DrawnUsers(
        outcomes.features[drawn],
        offered,
        margin * outcomes.spent[drawn],
        np.where(known, chance, share),
    )


def choose_gain(
    users: DrawnUsers,
    names: tuple[str, ...],
    *,
    campaign: str,
    margin: float,
    at: int,
    seed: int = 0,
    groups: int = 24,
    trees: int = 8,
) -> GainFit:
    """Fit a linear model and a forest, and choose between them.

    The forest is chosen only if both its areas, under the uplift and under the Qini curve, are
    larger on users that neither model was learnt from, each with a bootstrap interval above 0.

    Args:
        users: Drawn users.
        names: Names of their features.
        campaign: Name of the campaign.
        margin: Profit from a unit of revenue, noted in the models.
        at: Time of the fit, epoch milliseconds.
        seed: Seed of folds, halves and trees.
        groups: Groups of trees, each with another random half of the users.
        trees: Trees in each group.
    """
    about: dict[str, Any] = {"campaign": campaign, "features": names, "fitted_at": at}
    about |= {"margin": margin, "users": len(users.value)}

    def linear_of(some: DrawnUsers) -> GainModel:
        return GainModel(kind="linear", weights=_linear(some, names), **about)

    def forest_of(some: DrawnUsers, number: int) -> GainModel:
        rng = np.random.default_rng([seed, number])
        return GainModel(kind="forest", forest=_forest(some, rng, groups, trees), **about)

    linear = linear_of(users)
    folds = np.random.default_rng(seed).permutation(len(users.value)) % _FOLDS
    scores = np.zeros((2, len(users.value)))
    with_forest = bool(names) and len(users.value) >= LEAST_USERS and _both_arms(users, folds)
    for fold in range(_FOLDS):
        own = folds == fold
        rest = users.part(~own)
        scores[0, own] = Gain(linear_of(rest)).of_all(users.features[own])
        if with_forest:
            scores[1, own] = Gain(forest_of(rest, fold + 1)).of_all(users.features[own])
    if not with_forest:
        return GainFit(linear, linear, None, None, _groups(users, scores[0]))
    forest = forest_of(users, 0)
    ranks = [_ranks_by_fold(row, folds) for row in scores]
    comparison = compare_rankings(users.value, users.offered, *ranks, seed=seed)
    better = comparison.second_is_better
    return GainFit(
        forest if better else linear,
        linear,
        forest,
        comparison,
        _groups(users, scores[int(better)]),
    )


def _linear(users: DrawnUsers, names: tuple[str, ...]) -> dict[str, float]:
    """Fit the weights of a linear gain: an R-learner whose both regressions are linear.

    Gains are compared with the price of money, so discounts are not subtracted. The penalty of a
    weight is one user.
    """
    x = np.column_stack([np.ones(len(users.value)), users.features])
    penalty = np.diag([0.0, *np.maximum(x[:, 1:].var(axis=0), 1e-12)])
    expected = x @ np.linalg.solve(x.T @ x + penalty, x.T @ users.value)
    treated = users.offered - users.chance
    moved = x * treated[:, None]
    share = float((treated**2).mean())
    weights = np.linalg.solve(moved.T @ moved + share * penalty, moved.T @ (users.value - expected))
    return dict(zip(("constant", *names), weights.tolist(), strict=True))


def _forest(users: DrawnUsers, rng: np.random.Generator, groups: int, trees: int) -> Forest:
    """Grow groups of honest trees, each group on a random half of the users."""
    rest = users.value - _expected_value(users, rng)
    treated = users.offered - users.chance
    columns, thresholds, leaves = [], [], []
    for _ in range(groups):
        half = rng.permutation(len(rest))[: len(rest) // 2]
        grow, judge = half[: len(half) // 2], half[len(half) // 2 :]
        booster = _grown(users.features[grow], rest[grow], treated[grow], trees, rng)
        prior = float((treated[judge] * rest[judge]).sum() / (treated[judge] ** 2).sum())
        shrinkage = _SMALLEST * float((treated**2).mean())
        for number, text in enumerate(booster.get_dump(dump_format="json")):
            if number == trees:
                break
            column, threshold = _complete(json.loads(text))
            leaf = _leaf_of(users.features[judge], column, threshold)
            above, below = (
                np.bincount(leaf, weights=values, minlength=2**_DEPTH)
                for values in (treated[judge] * rest[judge], treated[judge] ** 2)
            )
            columns.append(column.tolist())
            thresholds.append(threshold.astype(np.float64).tolist())
            leaves.append(((above + shrinkage * prior) / (below + shrinkage)).tolist())
    return Forest(
        depth=_DEPTH, groups=groups, columns=columns, thresholds=thresholds, leaves=leaves
    )


def _expected_value(users: DrawnUsers, rng: np.random.Generator) -> Floats:
    """Predict each user's value without the coupon's group, from the other half of the users."""
    import xgboost

    expected, second = np.zeros(len(users.value)), rng.permutation(len(users.value)) % 2 == 1
    for half in (second, ~second):
        data = xgboost.DMatrix(users.features[half], users.value[half])
        settings = {"max_depth": 3, "eta": 0.1, "min_child_weight": _SMALLEST, "nthread": 1}
        booster = xgboost.train(settings, data, 40)
        expected[~half] = booster.predict(xgboost.DMatrix(users.features[~half]))
    return expected


def _grown(x: Floats, rest: Floats, treated: Floats, trees: int, rng: np.random.Generator) -> Any:
    """Grow trees whose splits reduce ``Σ (rest - treated * gain)²``, the loss of the R-learner."""
    import xgboost

    weights = treated**2
    data = xgboost.DMatrix(x, rest / treated, weight=weights)
    settings = {
        "max_depth": _DEPTH,
        "num_parallel_tree": trees,
        "subsample": 0.6,
        "colsample_bynode": 0.7,
        "eta": 1.0,
        "lambda": 0.0,
        "min_child_weight": _SMALLEST * float(weights.mean()),
        "base_score": float((treated * rest).sum() / weights.sum()),
        "seed": int(rng.integers(2**31)),
        "nthread": 1,
    }
    return xgboost.train(settings, data, 1)


def _complete(root: dict[str, Any]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return columns and thresholds of a tree in level order; a missing split always goes left."""
    columns = np.zeros(2**_DEPTH - 1, np.intp)
    thresholds = np.full(2**_DEPTH - 1, np.finfo(np.float32).max, np.float32)
    pending = [(0, root)]
    while pending:
        place, node = pending.pop()
        if "leaf" in node:
            continue
        columns[place] = int(node["split"].removeprefix("f"))
        thresholds[place] = node["split_condition"]
        children = {child["nodeid"]: child for child in node["children"]}
        pending += [(2 * place + 1, children[node["yes"]]), (2 * place + 2, children[node["no"]])]
    return columns, thresholds


def _leaf_of(
    x: Floats, columns: NDArray[np.intp], thresholds: NDArray[np.float32]
) -> NDArray[np.intp]:
    narrow, rows = x.astype(np.float32), np.arange(len(x))
    node = np.zeros(len(x), np.intp)
    for _ in range(_DEPTH):
        node = 2 * node + 1 + (narrow[rows, columns[node]] >= thresholds[node])
    return node - len(columns)


def _both_arms(users: DrawnUsers, folds: NDArray[np.int_]) -> bool:
    """Return whether both arms have some users in each fold."""
    counts = [np.bincount(folds[users.offered == arm], minlength=_FOLDS) for arm in (0, 1)]
    return int(np.min(counts)) >= _FIFTHS


def _ranks_by_fold(scores: Floats, folds: NDArray[np.int_]) -> Floats:
    """Return each score's share of lower scores in its fold.

    Scores themselves would favour models without variation: a fold with large effects leaves small
    ones to the others, so its users would come last by the constant of their model.
    """
    ranks = np.zeros(len(scores))
    for fold in range(_FOLDS):
        own = folds == fold
        ranks[own] = np.searchsorted(np.sort(scores[own]), scores[own]) / own.sum()
    return ranks


def _groups(users: DrawnUsers, scores: Floats) -> tuple[GainGroup, ...]:
    """Compare both arms in each fifth of the users by their scores."""
    found = []
    for some in np.array_split(np.argsort(scores, kind="stable"), _FIFTHS):
        arms = [users.value[some][users.offered[some] == arm] for arm in (0, 1)]
        if min(map(len, arms)) < 2:
            continue
        effect = difference(Mean.from_units(arms[0]), Mean.from_units(arms[1]))
        found.append(
            GainGroup(float(scores[some].mean()), effect.value, fixed_horizon_interval(effect))
        )
    return tuple(found)
