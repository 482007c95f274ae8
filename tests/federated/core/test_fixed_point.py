"""Updates on the grid: never longer than the bound, exactly, and never a crash."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.core.fixed_point import FixedPoint
from tactful_federated.errors import SettingsError, WeightsError
from tactful_federated.model.vectors import Vector

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.lists(FLOATS, min_size=1, max_size=40), st.floats(1e-6, 1e6), st.integers(1, 1 << 20))
def test_norm_on_the_grid_never_exceeds_the_bound(
    values: list[float], norm: float, units: int
) -> None:
    grid = FixedPoint(norm, units)
    encoded = grid.encode(np.array(values, dtype=np.float32))
    assert sum(int(v) ** 2 for v in encoded) <= units**2
    assert grid.holds(encoded)


@given(st.lists(st.floats(-0.25, 0.25, width=32), min_size=1, max_size=20))
def test_what_rounding_takes_is_below_one_unit_a_coordinate(values: list[float]) -> None:
    grid = FixedPoint(2.0, 1 << 20)
    update = np.array(values, dtype=np.float32)
    gap = update.astype(np.float64) - grid.decode(grid.encode(update))
    assert np.abs(gap).max() <= 2.0 / (1 << 20)
    assert (np.abs(grid.decode(grid.encode(update))) <= np.abs(update)).all()


def test_zeros_are_an_update_and_decoding_is_the_inverse() -> None:
    # flwr's wrapper divides by the norm, and one idle device ends the run.
    zero: Vector = np.zeros(5, dtype=np.float32)
    assert FixedPoint(1.0, 100).encode(zero).tolist() == [0] * 5
    assert float(FixedPoint(0.75, 3 * 1024).decode(np.array([1024]))[0]) == 0.25


def test_infinite_values_and_settings_out_of_range_are_refused() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(WeightsError):
            FixedPoint(1.0, 100).encode(np.array([0.0, bad], dtype=np.float32))
    for norm, units in ((0.0, 1), (np.inf, 1), (1.0, 0), (1.0, 1 << 25)):
        with pytest.raises(SettingsError):
            FixedPoint(norm, units)
