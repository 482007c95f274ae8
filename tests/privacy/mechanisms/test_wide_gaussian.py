"""Wide Gaussian noise: the distribution it has, computed another way, and what it draws."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian, WideGaussian


@pytest.mark.parametrize("sigma_squared", [1024, 128**2, 128**2 + 1, 10**9, 10**14])
def test_draws_follow_a_normal_distribution(sigma_squared: int) -> None:
    noise = WideGaussian(sigma_squared, entropy=np.random.default_rng(7).bytes)
    draws = noise.sample(60_000)
    # Half a unit of jitter makes integers comparable with a continuous distribution.
    jitter = np.random.default_rng(8).random(60_000) - 0.5
    found = stats.kstest((draws + jitter) / math.sqrt(sigma_squared), "norm")
    assert found.pvalue > 0.01
    assert draws.std() == pytest.approx(math.sqrt(sigma_squared), rel=0.015)
    assert noise.error < Fraction(1, 10**15)


def test_planted_width_five_percent_low_is_noticed() -> None:
    noise = WideGaussian(Fraction(10**9) * 95**2 / 100**2, entropy=np.random.default_rng(7).bytes)
    assert stats.kstest(noise.sample(60_000) / math.sqrt(10**9), "norm").pvalue < 1e-6


def test_a_coarse_and_a_fine_gaussian_make_a_discrete_gaussian() -> None:
    """The claim behind the levels, on a small scale and by convolution of whole tables."""
    step, fine, coarse = 8, Fraction(32) ** 2, Fraction(48)
    reach = 400
    total: dict[int, float] = {}
    low = {k: math.exp(-(k**2) / (2 * float(fine))) for k in range(-reach, reach + 1)}
    for h in range(-60, 61):
        weight = math.exp(-(h**2) / (2 * float(coarse)))
        for k, w in low.items():
            total[step * h + k] = total.get(step * h + k, 0.0) + weight * w
    variance = float(step**2 * coarse + fine)
    ratios = [total[n] / math.exp(-(n**2) / (2 * variance)) for n in range(-150, 151)]
    assert max(ratios) / min(ratios) - 1 < 1e-12


def test_too_narrow_a_fine_gaussian_would_show() -> None:
    """The check above can fail: a fine part of one step's width leaves ripples."""
    step, fine, coarse = 8, 4.0**2, 48.0
    ratios = []
    for n in range(-50, 51):
        whole = sum(
            math.exp(-(h**2) / (2 * coarse) - (n - step * h) ** 2 / (2 * fine))
            for h in range(-80, 81)
        )
        ratios.append(whole / math.exp(-(n**2) / (2 * (step**2 * coarse + fine))))
    assert max(ratios) / min(ratios) - 1 > 1e-3


def test_rounding_a_continuous_gaussian_gives_the_discrete_one() -> None:
    """The claim behind `covered`: discrete noise is post-processed continuous noise."""
    sigma_squared, tau_squared = 100.0, 16.0
    x = np.linspace(-90, 90, 72_001)
    density = np.exp(-(x**2) / (2 * (sigma_squared - tau_squared)))
    near = np.arange(-140, 141)
    weights = np.exp(-((near[:, None] - x[None, :]) ** 2) / (2 * tau_squared))
    found = (weights / weights.sum(axis=0) * density).sum(axis=1)
    found /= found.sum()
    want = np.exp(-(near**2) / (2 * sigma_squared))
    want /= want.sum()
    assert np.abs(found - want).max() < 1e-12


def test_draws_are_fresh_and_shift_with_entropy_only() -> None:
    one = WideGaussian(10**12, entropy=np.random.default_rng(3).bytes).sample(50)
    again = WideGaussian(10**12, entropy=np.random.default_rng(3).bytes).sample(50)
    assert (one == again).all()
    real = WideGaussian(10**12)
    assert all(
        (a != b).any() for a, b in itertools.combinations([real.sample(8) for _ in "abc"], 2)
    )


def test_narrow_noise_is_the_table_itself() -> None:
    entropy = np.random.default_rng(5).bytes
    table = DiscreteGaussian(1, Fraction(1, 200), entropy=np.random.default_rng(5).bytes)
    assert (WideGaussian(100, entropy=entropy).sample(100) == table.sample(100)).all()


@pytest.mark.parametrize("wrong", [48, 0, -1, 10**31, 1.5])
def test_what_is_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ParameterError):
        WideGaussian(wrong)
    with pytest.raises(ParameterError):
        WideGaussian(100).sample(-1)
