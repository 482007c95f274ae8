"""Clipping is exact on what is sent; foreign weights are refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tactful_federated.errors import SettingsError, WeightsError
from tactful_federated.model.vectors import FixedPoint, Vector, check_vector, clip_to_norm

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
_vectors = arrays(
    np.float32, st.integers(1, 40), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


def exact_norm(vector: np.ndarray) -> float:
    return math.sqrt(math.fsum(float(x) ** 2 for x in vector))


@given(_vectors, st.floats(1e-3, 1e3))
def test_clipped_norm_never_exceeds_the_bound(vector: np.ndarray, norm: float) -> None:
    clipped = clip_to_norm(vector, norm)
    length = exact_norm(vector)
    assert clipped.dtype == np.float32
    assert exact_norm(clipped) <= norm * (1 + 1e-15)
    if length <= norm:
        assert np.array_equal(clipped, vector)
    else:
        assert exact_norm(clipped) >= norm * (1 - 1e-6)
        np.testing.assert_allclose(clipped, vector * (norm / length), rtol=1e-5, atol=1e-30)


def test_rounding_up_is_caught() -> None:
    # Scaled and rounded once, a third of such vectors exceed the bound by a rounding error.
    random, exceeded = np.random.default_rng(0), 0
    for _ in range(200):
        vector = random.normal(size=50).astype(np.float32)
        once = (vector.astype(np.float64) / exact_norm(vector)).astype(np.float32)
        exceeded += exact_norm(once) > 1.0
        assert exact_norm(clip_to_norm(vector, 1.0)) <= 1.0 or exact_norm(vector) <= 1.0
    assert exceeded > 20


def test_poison_and_foreign_weights_are_refused() -> None:
    for poison in (math.nan, math.inf, -math.inf):
        with pytest.raises(WeightsError, match="not finite"):
            clip_to_norm(np.array([1.0, poison], dtype=np.float32), 1.0)
    for vector, complaint in (
        (np.zeros(3, dtype=np.float64), "float64"),
        (np.zeros(4, dtype=np.float32), r"of \(4,\)"),
        (np.zeros((3, 1), dtype=np.float32), r"of \(3, 1\)"),
        (np.array([0, np.nan, 0], dtype=np.float32), "not finite"),
    ):
        with pytest.raises(WeightsError, match=complaint):
            check_vector(vector, 3)


@given(st.lists(FLOATS, min_size=1, max_size=40), st.floats(1e-6, 1e6), st.integers(1, 1 << 20))
def test_norm_on_the_grid_stays_in_bounds(values: list[float], norm: float, units: int) -> None:
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
