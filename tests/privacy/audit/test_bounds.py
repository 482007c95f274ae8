"""The lower bound: never above the truth more often than it says, and close to it with data."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tactful_privacy.audit import checks
from tactful_privacy.audit.checks import prove_loss
from tactful_privacy.mechanisms._exact import clopper_pearson


@given(st.integers(0, 60), st.integers(1, 60), st.sampled_from([1e-6, 0.01, 0.2]))
def test_limits_are_where_the_tail_of_the_binomial_reaches_alpha(
    successes: int, trials: int, alpha: float
) -> None:
    successes = min(successes, trials)
    low, high = clopper_pearson(successes, trials, alpha)
    assert 0 <= low <= successes / trials <= high <= 1
    if successes:
        assert math.isclose(stats.binom.sf(successes - 1, trials, low), alpha, rel_tol=1e-6)
    if successes < trials:
        assert math.isclose(stats.binom.cdf(successes, trials, high), alpha, rel_tol=1e-6)


@pytest.fixture(autouse=True)
def cached_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same limits are asked for again and again."""
    monkeypatch.setattr(checks, "clopper_pearson", functools.cache(clopper_pearson))


def answers(
    epsilon: float, trials: int, generator: np.random.Generator
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Randomised response of privacy loss epsilon, beside scores that say nothing."""
    truth = math.exp(epsilon) / (1 + math.exp(epsilon))

    def scores(p: float) -> dict[str, np.ndarray]:
        useless = {f"useless {n}": generator.normal(size=trials) for n in range(5)}
        return {"answer": generator.random(trials) < p} | useless

    return scores(truth), scores(1 - truth)


@pytest.mark.slow
def test_the_bound_exceeds_the_truth_no_more_often_than_alpha() -> None:
    generator = np.random.default_rng(12)
    above = sum(
        prove_loss(*answers(1.0, 900, generator), alpha=0.2).epsilon > 1 for _ in range(120)
    )
    assert stats.binomtest(above, 120, 0.2, alternative="greater").pvalue > 1e-3


@pytest.mark.slow
def test_planted_bound_from_selection_data_is_caught() -> None:
    """Without a split, many useless scores prove a loss where there is none."""
    generator = np.random.default_rng(13)

    def unsplit() -> float:
        with_, without = (generator.normal(size=(100, 90)) > 0 for _ in range(2))
        limits = [clopper_pearson(int(c), 90, 0.1)[0] for c in with_.sum(axis=1)]
        others = [clopper_pearson(int(c), 90, 0.1)[1] for c in without.sum(axis=1)]
        return max(low / high for low, high in zip(limits, others, strict=True))

    def split() -> float:
        with_, without = ({f"{n}": generator.normal(size=90) for n in range(20)} for _ in range(2))
        return prove_loss(with_, without, alpha=0.2).epsilon

    assert np.mean([unsplit() > 1 for _ in range(40)]) > 0.6
    assert np.mean([split() > 0 for _ in range(40)]) < 0.3


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 3.0])
def test_the_bound_approaches_the_truth(epsilon: float) -> None:
    generator = np.random.default_rng(14)
    bound = prove_loss(*answers(epsilon, 200_000, generator), alpha=1e-6)
    assert 0.9 * epsilon < bound.epsilon < epsilon
    assert bound.event.startswith("answer")


def test_delta_is_allowed_for() -> None:
    """A leak that happens in 1 of 100 cases is a loss without delta, none at delta 0.02."""
    leaking, silent = np.zeros(50_000), np.zeros(50_000)
    leaking[::100] = 1
    scores = {"leak": leaking}, {"leak": silent}
    assert prove_loss(*scores, alpha=1e-6).epsilon > 2.5
    assert prove_loss(*scores, alpha=1e-6, delta=0.02).epsilon == 0
    same = {"x": np.ones(300)}
    assert prove_loss(same, same, alpha=1e-6).epsilon == 0


def test_both_limits_of_three_events_share_alpha() -> None:
    seen = np.ones(3000, np.bool_)
    limit = (0.06 / 6) ** (1 / 2000)  # of the 2,000 outputs that certify
    proved = prove_loss({"seen": seen}, {"seen": ~seen}, alpha=0.06).epsilon
    assert math.isclose(proved, math.log(limit / (1 - limit)), rel_tol=1e-9)
