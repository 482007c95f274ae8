"""Updates on the grid: never longer than the bound, exactly, and never a crash."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.core.fixed_point import FixedPoint
from tactful_federated.errors import SettingsError, WeightsError
from tactful_federated.model.vectors import Vector

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


def exact_norm_squared(vector: np.ndarray) -> int:
    return sum(int(v) ** 2 for v in vector)


@given(
    st.lists(FLOATS, min_size=1, max_size=40),
    st.floats(1e-6, 1e6),
    st.integers(1, 1 << 20),
)
def test_norm_on_the_grid_never_exceeds_the_bound(
    values: list[float], norm: float, units: int
) -> None:
    grid = FixedPoint(norm, units)
    encoded = grid.encode(np.array(values, dtype=np.float32))
    assert exact_norm_squared(encoded) <= units**2
    assert grid.holds(encoded)


@given(st.lists(st.floats(-0.25, 0.25, width=32), min_size=1, max_size=20))
def test_what_rounding_takes_is_below_one_unit_a_coordinate(values: list[float]) -> None:
    grid = FixedPoint(2.0, 1 << 20)
    update = np.array(values, dtype=np.float32)
    gap = update.astype(np.float64) - grid.decode(grid.encode(update))
    assert np.abs(gap).max() <= 2.0 / (1 << 20)
    assert (np.abs(grid.decode(grid.encode(update))) <= np.abs(update)).all()


def test_an_update_of_zero_is_an_update() -> None:
    # flwr's wrapper divides by the norm, and one idle device ends the run.
    zero: Vector = np.zeros(5, dtype=np.float32)
    assert FixedPoint(1.0, 100).encode(zero).tolist() == [0] * 5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(WeightsError):
        FixedPoint(1.0, 100).encode(np.array([0.0, bad], dtype=np.float32))


def test_decoding_is_the_inverse_on_the_grid() -> None:
    grid = FixedPoint(0.75, 3 * 1024)
    assert Fraction(float(grid.decode(np.array([1024]))[0])) == Fraction(1, 4)


@pytest.mark.parametrize(("norm", "units"), [(0.0, 1), (np.inf, 1), (1.0, 0), (1.0, 1 << 25)])
def test_settings_out_of_range_are_refused(norm: float, units: int) -> None:
    with pytest.raises(SettingsError):
        FixedPoint(norm, units)
