"""Uplift and Qini curves, against scikit-uplift and rankings whose worth is known."""

import numpy as np
import pytest

from tactful_bandits.analysis.uplift_curves import compare_rankings, uplift_curves
from tactful_bandits.errors import StatisticsError


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of scikit-learn, in scikit-uplift
@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_uplift(ties: bool) -> None:
    metrics = pytest.importorskip("sklift.metrics")
    rng = np.random.default_rng(4)
    for users in (40, 60, 900):
        treated, outcome = rng.integers(0, 2, users), rng.integers(0, 2, users)
        scores = rng.integers(0, 5, users) / 4 if ties else rng.normal(size=users)
        found = uplift_curves(outcome, treated, scores)
        for ours, theirs in (
            (found.uplift, metrics.uplift_curve(outcome, scores, treated)),
            (found.qini, metrics.qini_curve(outcome, scores, treated)),
        ):
            np.testing.assert_array_equal(found.users, theirs[0])
            np.testing.assert_allclose(ours, theirs[1], rtol=0, atol=1e-12)
        for area, score, perfect, curve in (
            (found.uplift_area, "uplift_auc_score", "perfect_uplift_curve", found.uplift),
            (found.qini_area, "qini_auc_score", "perfect_qini_curve", found.qini),
        ):
            x, y = getattr(metrics, perfect)(outcome, treated)
            best = np.trapezoid(y, x) - users * curve[-1] / 2
            ratio = getattr(metrics, score)(outcome, scores, treated)
            assert area * users**2 / best == pytest.approx(ratio, abs=1e-12)


@pytest.mark.slow
def test_the_order_by_true_effects_is_better_than_a_random_one() -> None:
    rng = np.random.default_rng(8)
    effect, treated = rng.normal(size=6000), rng.integers(0, 2, 6000)
    outcome = treated * effect + rng.normal(size=6000)
    by_chance = rng.normal(size=6000)
    assert compare_rankings(outcome, treated, by_chance, effect, seed=1).second_is_better
    assert not compare_rankings(outcome, treated, effect, by_chance, seed=1).second_is_better
    alike = compare_rankings(outcome, treated, effect, 2 * effect, seed=1)
    assert alike.qini_gain.low == alike.qini_gain.high == 0 and not alike.second_is_better


@pytest.mark.slow
def test_the_interval_covers_no_difference_as_often_as_stated() -> None:
    rng, wrong = np.random.default_rng(9), 0
    for seed in range(60):
        treated, outcome = rng.integers(0, 2, 300), rng.exponential(size=300)
        one, other = rng.normal(size=(2, 300))
        found = compare_rankings(outcome, treated, one, other, seed=seed, samples=60)
        wrong += not found.qini_gain.low <= 0 <= found.qini_gain.high
    assert wrong <= 9, "of 60, with a stated 5 %"


@pytest.mark.parametrize(
    ("outcome", "treated", "scores"),
    [
        ([1.0, 2.0], [0, 1], [1.0]),
        ([1.0, np.nan], [0, 1], [1.0, 2.0]),
        ([1.0, 2.0], [0, 2], [1.0, 2.0]),
        ([], [], []),
    ],
)
def test_data_that_cannot_be_judged_are_refused(
    outcome: list[float], treated: list[int], scores: list[float]
) -> None:
    with pytest.raises(StatisticsError):
        uplift_curves(outcome, treated, scores)
