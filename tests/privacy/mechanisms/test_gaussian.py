"""Discrete Gaussian noise: what its table promises, computed another way, and what it draws."""

import itertools
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import exp_bounds
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian, WideGaussian

SETTINGS = [(1, "1/2"), (5, "0.05"), (25, "1/100"), ("7/2", "3"), (1, "1/20000")]


def ideal(sigma_squared: Fraction, highest: int) -> list[Decimal]:
    """P(Z = 0), P(Z = 1), ... of the ideal distribution to 60 digits."""
    with localcontext() as context:
        context.prec = 60
        variance = Decimal(sigma_squared.numerator) / Decimal(sigma_squared.denominator)
        reach = highest + 3 * math.isqrt(math.ceil(sigma_squared)) + 10
        side = [(-(Decimal(k) ** 2) / (2 * variance)).exp() for k in range(reach + 1)]
        whole = 2 * sum(side) - side[0]
        return [value / whole for value in side]


def distance(noise: DiscreteGaussian, sigma_squared: Fraction) -> Decimal:
    """Total variation distance of the table from the ideal distribution of a variance."""
    side = ideal(sigma_squared, noise._table.highest)
    apart = Decimal(0)
    with localcontext() as context:
        context.prec = 60
        for k, value in enumerate(side):
            share = noise.probability(k)
            gap = abs(Decimal(share.numerator) / Decimal(share.denominator) - value)
            apart += gap if k == 0 else 2 * gap
    return apart / 2


@pytest.mark.parametrize(("sensitivity_squared", "rho"), SETTINGS)
def test_table_is_within_its_stated_error(sensitivity_squared: int | str, rho: str) -> None:
    """The table lies within the stated distance of the ideal; sigma one percent low does not."""
    noise = DiscreteGaussian(sensitivity_squared, rho)
    assert noise.table_error < Fraction(1, 10**14)
    assert float(distance(noise, noise.sigma_squared)) <= float(noise.table_error)
    planted = DiscreteGaussian(sensitivity_squared, Fraction(rho) / Fraction("0.99") ** 2)
    assert float(distance(planted, noise.sigma_squared)) > 1e-4 > 1e9 * float(planted.table_error)


@pytest.mark.parametrize("order", [1.5, 2, 8, 32])
def test_renyi_divergence_of_the_table_is_what_zcdp_allows(order: float) -> None:
    """Of order a at most a * rho; the far tail, which the table error covers, is left out."""
    noise = DiscreteGaussian(25, "1/8")  # sigma 10, a change of 5
    reach = range(-40, 41)
    total = sum(
        float(noise.probability(k)) ** order * float(noise.probability(k - 5)) ** (1 - order)
        for k in reach
    )
    assert math.log(total) / (order - 1) <= order * 0.125 * (1 + 1e-12)


@pytest.mark.parametrize("spread", [(2,), (1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("epsilon", ["0", "1/2", "1", "2"])
def test_no_spread_of_a_change_over_cells_exceeds_delta(
    spread: tuple[int, ...], epsilon: str
) -> None:
    """The joint distribution of several cells, in full, on a small table."""
    noise = DiscreteGaussian(4, 4)  # sigma^2 = 1/2: a table of some 13 values
    factor = float(Fraction(exp_bounds(Fraction(epsilon), 128)[0], 1 << 128))
    moved = sum(c * c for c in spread)
    assert moved <= 4
    p = {k: float(noise.probability(k)) for k in range(-8, 13)}
    excess = sum(
        max(
            0.0,
            math.prod(p[k] for k in y)
            - factor * math.prod(p.get(k - c, 0.0) for k, c in zip(y, spread, strict=True)),
        )
        for y in itertools.product(range(-4, 6), repeat=len(spread))
    )
    assert excess <= float(noise.delta(epsilon))
    assert noise.delta_in_one_cell(epsilon) <= noise.delta(epsilon)


def test_delta_agrees_with_a_search_over_orders() -> None:
    noise = DiscreteGaussian(25, "1/50")
    orders = np.linspace(1.01, 200, 200_000)
    bound = (
        (orders - 1) * (orders * 0.02 - 1)
        + (orders - 1) * np.log(orders - 1)
        - orders * np.log(orders)
    )
    assert math.isclose(float(noise.delta(1)), math.exp(bound.min()), rel_tol=1e-3)
    assert float(noise.delta(1)) >= float(noise.delta_in_one_cell(1)) > 0


@given(
    st.fractions(Fraction(1, 20), 400, max_denominator=100),
    st.fractions(Fraction(1, 20), 5, max_denominator=100),
)
@settings(max_examples=40, deadline=None)
def test_table_falls_from_the_centre_and_is_complete(
    sensitivity_squared: Fraction, rho: Fraction
) -> None:
    """The table falls from the centre and omits almost no mass."""
    noise = DiscreteGaussian(sensitivity_squared, rho)
    side = noise._table.weights[noise._table.highest :].tolist()
    assert side == sorted(side, reverse=True)
    assert 0 < noise.table_error < Fraction(1, 10**16)


@pytest.mark.parametrize(("sensitivity_squared", "rho"), SETTINGS)
def test_draws_agree_with_the_table(sensitivity_squared: int | str, rho: str) -> None:
    noise = DiscreteGaussian(sensitivity_squared, rho, entropy=np.random.default_rng(4).bytes)
    draws = noise.sample(200_000)
    step = max(1, math.isqrt(math.ceil(noise.sigma_squared)) // 8)
    edges = step * np.arange(-12, 13)
    cumulative = noise._table.cumulative / float(noise._table.total)
    inside = np.clip(edges - noise._table.lowest, -1, len(cumulative) - 1)
    below = np.where(inside < 0, 0.0, cumulative[inside])
    expected = np.diff(below, prepend=0, append=1) * len(draws)
    observed = np.bincount(np.searchsorted(edges, draws, side="left"), minlength=len(edges) + 1)
    kept = expected > 50
    rest = (observed[~kept].sum(), expected[~kept].sum())
    pairs = np.vstack([np.column_stack([observed[kept], expected[kept]]), rest])
    pairs = pairs[pairs[:, 1] > 1]
    pairs[:, 1] *= pairs[:, 0].sum() / pairs[:, 1].sum()
    assert stats.chisquare(pairs[:, 0], pairs[:, 1]).pvalue > 1e-3


@pytest.mark.slow
def test_draws_agree_with_opendp() -> None:
    """OpenDP cannot be seeded: false alarm rate 1e-9."""
    import opendp.prelude as dp

    dp.enable_features("contrib")
    n, sigma = 20_000, 5.0
    noise = DiscreteGaussian(25, "1/2")
    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")
    theirs = np.array(dp.m.make_gaussian(*space, scale=sigma)([0] * n))
    table = np.array(
        [
            np.bincount(np.clip(draws, -12, 12) + 12, minlength=25)
            for draws in (noise.sample(n), theirs)
        ]
    )
    assert stats.chi2_contingency(table).pvalue > 1e-9


@pytest.mark.parametrize(("n", "confidence"), [(1, "0.95"), (10, "0.95"), (60, "0.99")])
def test_interval_of_a_sum_is_the_normal_one(n: int, confidence: str) -> None:
    noise = DiscreteGaussian(25, "1/200")
    normal = stats.norm.ppf((1 + float(confidence)) / 2) * 50 * math.sqrt(n)
    assert abs(noise.interval_of_sum(n, confidence) - normal) < 1


def test_parameters_out_of_range_are_refused() -> None:
    wrong: Any
    for wrong in (0, -1, 1.0):
        with pytest.raises(ParameterError, match="sensitivity_squared"):
            DiscreteGaussian(wrong, 1)
    for wrong in (0, "nan", 0.5):
        with pytest.raises(ParameterError, match="rho"):
            DiscreteGaussian(1, wrong)
    with pytest.raises(ParameterError, match="sigma"):
        DiscreteGaussian(1, Fraction(1, 10**11))
    for wrong in ("-1", "41", 0.5):
        with pytest.raises(ParameterError, match="epsilon"):
            DiscreteGaussian(1, 1).delta(wrong)


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


def test_every_part_adds_its_error_once() -> None:
    """Two widths with the same coarse table, one with a fine part more."""
    one = 10_000 * 16**2 + 64**2
    errors = [WideGaussian(sigma_squared).error for sigma_squared in (one, one * 16**2 + 64**2)]
    table = DiscreteGaussian(1, Fraction(1, 2 * 10_000)).table_error
    # Each part is smoothed at an error of 2^-300: two parts, then three.
    assert errors[0] - table - (errors[1] - errors[0]) == Fraction(1, 2**300)


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


@pytest.mark.slow
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
