"""What losses add up to: against brute force, closed forms, and mechanisms that might be worse."""

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.budget import Loss, epsilon_of_zcdp
from tactful_privacy.ledger.composition import compose, largest_belief, tightest

ONE = Fraction(1)


def laplace(scale: float, reach: int, shift: int = 0) -> NDArray[np.float64]:
    weights = np.exp(-np.abs(np.arange(-reach, reach + 1) - shift) / scale)
    return np.asarray(weights / weights.sum())


def delta_of(p: NDArray[np.float64], q: NDArray[np.float64], epsilon: float) -> float:
    return float(np.maximum(0, p - math.exp(epsilon) * q).sum())


@pytest.mark.parametrize(("epsilon", "sensitivity", "times"), [("1", 1, 3), ("1/2", 3, 2)])
def test_pld_is_never_below_brute_force_and_hardly_above(
    epsilon: str, sensitivity: int, times: int
) -> None:
    """All outputs of the composed mechanism are enumerated."""
    scale = sensitivity / Fraction(epsilon)
    reach = int(20 * scale)
    p, q = laplace(float(scale), reach), laplace(float(scale), reach, sensitivity)
    for _ in range(times - 1):
        p, q = (
            np.outer(p, laplace(float(scale), reach)).ravel(),
            np.outer(q, laplace(float(scale), reach, sensitivity)).ravel(),
        )
    loss = Loss(Fraction(epsilon), sensitivity=sensitivity)
    for delta in (Fraction(1, 100), Fraction(1, 10)):
        found = compose([(loss, times)], method="pld", delta=delta)
        assert delta_of(p, q, found.epsilon) <= float(delta) + 1e-7
        assert delta_of(p, q, found.epsilon - 0.01) > float(delta)


def partitions(n: int, largest: int) -> Iterator[tuple[int, ...]]:
    if n == 0:
        yield ()
    for part in range(min(n, largest), 0, -1):
        for rest in partitions(n - part, part):
            yield (part, *rest)


@pytest.mark.parametrize("scale", [0.7, 2.0, 6.0])
def test_the_whole_cap_in_one_cell_is_the_worst_way_to_spend_it(scale: float) -> None:
    """Then it is so over many days as well (Zhu, Dong, Wang, AISTATS 2022, th. 10).

    The distribution of the loss over several cells is the convolution of those of each cell.
    """
    cap = 5
    epsilons = np.linspace(-cap / scale, cap / scale, 41)
    worst = [delta_over_cells((cap,), scale, float(e)) for e in epsilons]
    for parts in partitions(cap, cap):
        for epsilon, bound in zip(epsilons, worst, strict=True):
            assert delta_over_cells(parts, scale, float(epsilon)) <= bound + 1e-12


def delta_over_cells(parts: tuple[int, ...], scale: float, epsilon: float) -> float:
    """Loss in units of 1/scale is an integer: |z - part| - |z|."""
    total = {0: 1.0}
    for part in parts:
        reach = int(40 * scale) + part
        p = laplace(scale, reach)
        one: dict[int, float] = {}
        for z, mass in zip(range(-reach, reach + 1), p.tolist(), strict=True):
            one[abs(z - part) - abs(z)] = one.get(abs(z - part) - abs(z), 0.0) + mass
        both: dict[int, float] = {}
        for (a, u), (b, v) in product(total.items(), one.items()):
            both[a + b] = both.get(a + b, 0.0) + u * v
        total = both
    return sum(m * max(0.0, 1 - math.exp(epsilon - v / scale)) for v, m in total.items())


def test_published_figures_of_a_month() -> None:
    """As docs/explanation/privacy.md states them."""
    for times, figure in ((7, 7.0), (30, 27.8), (365, 204.7)):
        found = compose([(Loss(ONE, sensitivity=20), times)], method="pld")
        assert round(found.epsilon, 1) == pytest.approx(figure)
    for times in (1, 30):
        worst = compose([(Loss(ONE), times)], method="pld").epsilon
        assert compose([(Loss(ONE, sensitivity=20), times)], method="pld").epsilon <= worst
        assert worst <= times + 1e-9


losses = st.builds(
    Loss,
    st.integers(1, 30).map(lambda n: Fraction(n, 10)),
    sensitivity=st.none() | st.integers(1, 20),
)


@given(st.lists(st.tuples(losses, st.integers(0, 5)), min_size=1, max_size=3))
@settings(max_examples=12, deadline=None)
def test_methods_agree_with_addition_and_with_each_other(spent: list[tuple[Loss, int]]) -> None:
    added = sum((loss.epsilon * times for loss, times in spent), Fraction(0))
    pure = compose(spent, method="pure")
    assert Fraction(pure.epsilon) >= added
    assert pure.epsilon == pytest.approx(float(added))
    composed = tightest(spent)
    assert composed.epsilon <= pure.epsilon
    doubled = tightest([(loss, 2 * times) for loss, times in spent])
    assert composed.epsilon <= doubled.epsilon + 1e-9


def test_gaussian_zcdp_and_pld_match_the_exact_epsilon() -> None:
    """rho-zCDP is looser than the exact curve of the continuous Gaussian, which PLD meets."""
    rho, delta = Fraction(1, 8), Fraction(1, 10**6)
    loss = Loss(Fraction(4), delta, rho=rho)
    sigma = 1 / math.sqrt(2 * float(rho))
    found = compose([(loss, 1)], method="pld", delta=delta)
    exact = exact_gaussian_delta(sigma, found.epsilon)
    assert exact == pytest.approx(float(delta), rel=0.01)
    assert found.epsilon < compose([(loss, 1)], method="zcdp", delta=delta).epsilon
    nine = compose([(loss, 9)], method="pld", delta=delta)
    assert exact_gaussian_delta(sigma / 3, nine.epsilon) == pytest.approx(float(delta), rel=0.01)


def exact_gaussian_delta(sigma: float, epsilon: float) -> float:
    """Balle and Wang, ICML 2018, th. 8."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    a, b = 1 / (2 * sigma), epsilon * sigma
    return phi(a - b) - math.exp(epsilon) * phi(-a - b)


def test_zcdp_conversion_is_above_the_renyi_accountant() -> None:
    """The zCDP conversion is never below the library's Renyi accountant."""
    accountant = pytest.importorskip("dp_accounting.rdp")
    events = pytest.importorskip("dp_accounting.dp_event")
    for rho in (Fraction(1, 1000), Fraction(1, 10), Fraction(2)):
        ours = epsilon_of_zcdp(rho, Fraction(1, 10**6))
        rdp = accountant.RdpAccountant()
        rdp.compose(events.GaussianDpEvent(1 / math.sqrt(2 * float(rho))))
        theirs = rdp.get_epsilon(1e-6)
        assert theirs <= ours <= 1.35 * theirs


def test_wrong_questions_are_refused() -> None:
    loss = Loss(ONE, Fraction(1, 10))
    for method in ("pure", "zcdp"):  # do not apply
        with pytest.raises(ParameterError):
            compose([(Loss(ONE, Fraction(1, 10**6)), 1)], method=method)
    with pytest.raises(ParameterError, match="delta"):
        compose([(loss, 1)], method="approximate", delta=0)
    with pytest.raises(ParameterError, match="method"):
        compose([(loss, 1)], method="hope")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="prior"):
        largest_belief(1.0, 0.0)


def test_belief_grows_by_the_odds() -> None:
    assert largest_belief(0.0, 0.3) == pytest.approx(0.3)
    assert largest_belief(math.log(3)) == pytest.approx(0.75)
    assert largest_belief(math.log(2), 0.01) == pytest.approx(2 / 101)
    assert largest_belief(800.0) == 1.0
