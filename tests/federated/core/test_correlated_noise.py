"""Correlated noise against brute force: its sensitivity, what it adds, and what it cancels."""

import itertools
import math

import numpy as np
import pytest

from tactful_federated.core.correlated_noise import BandedRoot, CorrelatedNoise, NoiseMemory
from tactful_federated.errors import WeightsError
from tactful_privacy.errors import ParameterError

SCALE = 1 << 10


def matrix(root: BandedRoot, rounds: int) -> np.ndarray:
    whole = np.zeros((rounds, rounds), dtype=np.int64)
    for band, coefficient in enumerate(root.coefficients):
        whole += coefficient * np.eye(rounds, k=-band, dtype=np.int64)
    return whole


@pytest.mark.parametrize(("rounds", "bands", "times"), [(12, 4, 3), (10, 3, 3), (9, 1, 2)])
def test_sensitivity_is_worst_of_patterns_and_signs(rounds: int, bands: int, times: int) -> None:
    root = BandedRoot(bands)
    c = matrix(root, rounds)
    worst = 0
    for count in range(1, times + 1):
        for joined in itertools.combinations(range(rounds), count):
            if any(b - a < bands for a, b in itertools.pairwise(joined)):
                continue
            for signs in itertools.product((1, -1), repeat=count):
                moved = c[:, list(joined)] @ np.array(signs)
                worst = max(worst, int(moved @ moved))
    assert worst == root.sensitivity_squared(times, 1)
    assert root.sensitivity_squared(times, 7) == 49 * worst


def test_closer_participation_than_the_bands_would_cost_more() -> None:
    """The bound on separation is needed: the planted pattern breaks the sensitivity."""
    root = BandedRoot(4)
    moved = matrix(root, 12)[:, [0, 1]].sum(axis=1)
    assert int(moved @ moved) > root.sensitivity_squared(2, 1)


def test_without_noise_every_estimate_is_the_sum_itself() -> None:
    root, random = BandedRoot(5), np.random.default_rng(1)
    noise, memory = CorrelatedNoise(root, 0), NoiseMemory.empty(6)
    for _ in range(40):
        total = random.integers(-(1 << 30), 1 << 30, 6)
        estimate, memory = noise.release(total, memory)
        assert np.allclose(estimate, total, rtol=0, atol=1e-3)
        assert memory.totals.shape[0] <= 4


@pytest.mark.parametrize("bands", [1, 6])
def test_whitened_noise_has_the_planned_width_whatever_the_sums(bands: int) -> None:
    """C (estimates - sums) is Z: white, with sigma; measured, not derived."""
    rounds, size, sigma = 16, 3_000, 40_000.0
    root, random = BandedRoot(bands), np.random.default_rng(2)
    noise = CorrelatedNoise(root, int(sigma**2), entropy=np.random.default_rng(3).bytes)
    memory, gaps = NoiseMemory.empty(size), []
    for _ in range(rounds):
        total = random.integers(-(1 << 20), 1 << 20, size)
        estimate, memory = noise.release(total, memory)
        gaps.append(estimate - total)
    z = matrix(root, rounds) @ np.stack(gaps)
    assert z.std() / sigma == pytest.approx(1, abs=0.01)
    correlation = np.corrcoef(z) - np.eye(rounds)
    assert np.abs(correlation).max() < 4.5 / math.sqrt(size)
    if bands > 1:  # the noise that is added is not white: that is the point
        assert np.vdot(gaps[0], gaps[1]) < -0.3 * np.vdot(gaps[0], gaps[0])


def test_prefix_errors_are_those_of_the_matrix_and_of_simulation() -> None:
    root, rounds = BandedRoot(8), 30
    c = matrix(root, rounds) / SCALE
    exact = np.sqrt(np.square(np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(c)).sum(axis=1))
    assert np.allclose(root.prefix_errors(rounds), exact, rtol=1e-9)
    noise = CorrelatedNoise(root, (500 * SCALE) ** 2, entropy=np.random.default_rng(5).bytes)
    memory, prefix = NoiseMemory.empty(4_000), np.zeros(4_000)
    for t in range(rounds):
        estimate, memory = noise.release(np.zeros(4_000, np.int64), memory)
        prefix += estimate
        assert prefix.std() / 500 == pytest.approx(exact[t], rel=0.05)


def test_more_bands_reduce_the_noise_of_prefix_sums() -> None:
    def error(bands: int) -> float:
        root = BandedRoot(bands)
        width = math.sqrt(root.norm_squared) / SCALE
        return width * float(np.sqrt(np.square(root.prefix_errors(400)).mean()))

    errors = [error(bands) for bands in (1, 4, 16, 64)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 3 * errors[-1]


def test_a_sum_that_does_not_fit_is_refused() -> None:
    noise = CorrelatedNoise(BandedRoot(2), 0)
    with pytest.raises(WeightsError):
        noise.release(np.zeros(3, np.int64), NoiseMemory.empty(2))
    with pytest.raises(WeightsError):
        noise.release(np.zeros(2, np.float64), NoiseMemory.empty(2))
    with pytest.raises(ParameterError):
        CorrelatedNoise(BandedRoot(2), 3)
