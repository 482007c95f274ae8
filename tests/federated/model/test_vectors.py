"""Clipping is exact on what is sent; foreign weights are refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tactful_federated.errors import WeightsError
from tactful_federated.model.vectors import check_vector, clip_to_norm

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
