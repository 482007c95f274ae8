"""Periods made to agree: the least squares solution, its exact intervals, better than sums."""

import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from tactful_privacy.analysis.consistency import consistent
from tactful_privacy.counting.mixtures import NoiseTerms, half_width_of_mixture
from tactful_privacy.counting.released import ReleasedPane
from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

KEYS = ("milk", "tea")


def pane(
    name: str, start: int, length: int, values: dict[str, int], sensitivity: int = 10
) -> ReleasedPane:
    return ReleasedPane(
        statistic=name,
        start=start,
        end=start + length,
        values=values,
        half_width=0,
        confidence=0.95,
        epsilon=Fraction(1),
        delta=0.0,
        cap=5,
        sensitivity=sensitivity,
    )


def calendar(
    rng: random.Random, lengths: tuple[int, ...], sensitivities: tuple[int, ...], periods: int = 1
) -> tuple[list[list[ReleasedPane]], list[dict[int, dict[str, int]]]]:
    """Released levels and the true counts of each, finest first."""
    end = periods * lengths[-1]
    true = {start: {key: rng.randrange(60) for key in KEYS} for start in range(0, end, lengths[0])}
    levels, counts = [], []
    for length, sensitivity in zip(lengths, sensitivities, strict=True):
        noise = DiscreteLaplace(sensitivity, 1, entropy=rng.randbytes)
        exact = {
            start: {
                key: sum(true[at][key] for at in range(start, start + length, lengths[0]))
                for key in KEYS
            }
            for start in range(0, end, length)
        }
        counts.append(exact)
        level = []
        for start, values in exact.items():
            drawn = noise.sample(len(KEYS)).tolist()
            noisy = {key: n + z for (key, n), z in zip(values.items(), drawn, strict=True)}
            level.append(pane(str(length), start, length, noisy, sensitivity))
        levels.append(level)
    return levels, counts


@pytest.mark.parametrize(
    ("lengths", "sensitivities", "periods"),
    [
        ((1, 4), (10, 10), 2),
        ((1, 3, 12), (15, 5, 30), 2),
        ((5,), (10,), 3),
        ((1, 2, 4, 8), (9,) * 4, 1),
    ],
)
def test_estimates_are_the_weighted_least_squares_solution(
    lengths: tuple[int, ...], sensitivities: tuple[int, ...], periods: int
) -> None:
    """The oracle solves the normal equations of all releases at once."""
    levels, _ = calendar(random.Random(1), lengths, sensitivities, periods)
    leaves = len(levels[0])
    rows, weights, seen = [], [], []
    for level, sensitivity in zip(levels, sensitivities, strict=True):
        for it in level:
            row = np.zeros(leaves)
            row[it.start // lengths[0] : it.end // lengths[0]] = 1
            rows.append(row)
            weights.append(1 / float(DiscreteLaplace(sensitivity, 1).variance) ** 0.5)
            seen.append([it.values[key] for key in KEYS])
    design = np.array(rows) * np.array(weights)[:, None]
    solution = np.linalg.lstsq(design, np.array(seen) * np.array(weights)[:, None], rcond=None)[0]
    wanted = np.array(rows) @ solution
    solved = consistent(levels)
    found = [[it.values[key] for key in KEYS] for level in solved for it in level]
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    for period in solved[-1]:
        parts = [it for it in solved[0] if period.start <= it.start < period.end]
        for key in KEYS:
            assert sum(it.values[key] for it in parts) == pytest.approx(period.values[key])


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say() -> None:
    """300 seeded calendars at 95 %: fewer than 265 covered of one estimate has probability 1e-5.

    Errors of the longest period: below those of its own release, and these below those of sums.
    """
    rng = random.Random(3)
    covered, squares = np.zeros(3), np.zeros(3)
    for _ in range(300):
        levels, true = calendar(rng, (1, 4, 8), (15, 15, 15))
        found = consistent(levels)
        for n, (level, exact) in enumerate(zip(found, true, strict=True)):
            it = level[0]
            covered[n] += abs(it.values["tea"] - exact[it.start]["tea"]) <= it.half_width
        sums = sum(it.values["tea"] for it in levels[0])
        estimates = (found[2][0].values["tea"], levels[2][0].values["tea"], sums)
        squares += np.square(np.subtract(estimates, true[2][0]["tea"]))
    assert (covered >= 265).all()
    assert (covered <= 299).any(), "they are not so wide that nothing is ever missed"
    assert squares[0] < squares[1] < squares[2]


@pytest.mark.parametrize(("parts", "sensitivity"), [(24, 10), (60, 10), (4, 10)])
def test_consistent_period_beats_parts_and_own_release(parts: int, sensitivity: int) -> None:
    """A period is more precise than the sum of its parts and than its own release."""
    levels, _ = calendar(random.Random(4), (1, parts), (sensitivity, sensitivity))
    fine, top = consistent(levels)
    own = DiscreteLaplace(sensitivity, 1)
    assert top[0].half_width < own.interval()
    assert fine[0].half_width < own.interval()
    # Had the whole epsilon gone to the parts, their noise would be half; still the sum is worse
    # wherever a period has more than a handful of parts.
    if parts > 4:
        assert top[0].half_width < DiscreteLaplace(sensitivity // 2, 1).interval_of_sum(parts)


def test_levels_that_do_not_cover_each_other_are_refused() -> None:
    levels, _ = calendar(random.Random(6), (1, 4), (10, 10))
    fine, top = levels
    for wrong in (
        [fine[:-1], top],
        [fine[1:], top],
        [[*fine, pane("1", 4, 1, fine[0].values)], top],
    ):
        with pytest.raises(ParameterError, match="cover"):
            consistent(wrong)
    with pytest.raises(ParameterError, match="none are given"):
        consistent([fine, []])
    with pytest.raises(ParameterError, match="same keys"):
        consistent([fine, [pane("4", 0, 4, {"milk": 3})]])
    with pytest.raises(ParameterError, match="different statistics"):
        consistent([[*fine[:-1], pane("1", 3, 1, fine[0].values, 99)], top])


@pytest.mark.parametrize("n", [1, 3, 40])
def test_whole_weights_give_the_interval_of_a_sum(n: int) -> None:
    noise = DiscreteLaplace(5, 1)
    found = half_width_of_mixture([NoiseTerms(1.0, n, 5, Fraction(1))])
    exact = noise.interval_of_sum(n)
    deviation = (n * float(noise.variance)) ** 0.5
    # Smoothed, the sum reaches the confidence within the last of the whole numbers.
    assert exact <= found < exact + 0.5 + deviation / 40


@pytest.mark.parametrize("confidence", ["0.5", "0.95", "0.999"])
def test_fractional_weights_agree_with_all_pairs_of_draws(confidence: str) -> None:
    first, second = DiscreteLaplace(2, 1), DiscreteLaplace(1, 1)
    weights = (0.3, -1.7)
    mass = sorted(
        (abs(weights[0] * x + weights[1] * y), float(first.probability(x) * second.probability(y)))
        for x, y in itertools.product(range(-60, 61), range(-40, 41))
    )
    inside = 0.0
    exact = next(h for h, p in mass if (inside := inside + p) >= float(confidence))
    found = half_width_of_mixture(
        [NoiseTerms(0.3, 1, 2, Fraction(1)), NoiseTerms(-1.7, 1, 1, Fraction(1))], confidence
    )
    covered = sum(p for h, p in mass if h <= found)
    assert covered >= float(confidence)
    assert exact <= found < exact + 0.6


def test_a_long_sum_approaches_the_normal_one() -> None:
    parts = [NoiseTerms(0.01, 1_440, 15, Fraction(1)), NoiseTerms(0.5, 24, 15, Fraction(1))]
    deviation = sum(part.variance for part in parts) ** 0.5
    found = half_width_of_mixture(parts)
    assert found == pytest.approx(stats.norm.ppf(0.975) * deviation, rel=0.03)


def test_no_noise_has_no_interval() -> None:
    with pytest.raises(ParameterError, match="no noise"):
        half_width_of_mixture([NoiseTerms(0.0, 3, 5, Fraction(1))])
    with pytest.raises(ParameterError, match="too near 1"):
        half_width_of_mixture([NoiseTerms(1.0, 3, 5, Fraction(1))], "0.9999999")
