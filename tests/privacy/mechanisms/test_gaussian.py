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
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian

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
