"""Updates in fewer bytes: never longer than they were, right on average, and refused if forged."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tactful_federated.core.compression import (
    ENCODINGS,
    Encoding,
    compress,
    from_bytes,
    restore,
    to_bytes,
)
from tactful_federated.errors import SettingsError, WeightsError
from tactful_federated.model.vectors import clip_to_norm, l2_norm

UPDATES = arrays.arrays(
    np.float32, st.integers(0, 40), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=True)
)
TINY = np.full(3, np.finfo(np.float32).smallest_subnormal, np.float32)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(update=UPDATES)
@example(update=np.array([1e6, 1e-6, 0.0], np.float32))
@example(update=TINY)
@example(update=np.full(3, 1.5e-43, np.float32))  # one step of them is longer than a step of theirs
@example(update=np.full(3, 3e-36, np.float32))
def test_sent_updates_are_no_longer_than_clipped(encoding: Encoding, update: np.ndarray) -> None:
    values, scale = compress(update, encoding)
    assert values.dtype.name == encoding and values.shape == update.shape
    again = restore(values, scale)
    assert again.dtype == np.float32 and np.isfinite(again).all()
    assert l2_norm(again) <= l2_norm(update)
    assert not again[update == 0].any()
    assert np.array_equal(compress(update, encoding)[0], values)
    arrived = from_bytes(to_bytes(values), encoding)
    assert arrived.dtype == values.dtype and np.array_equal(arrived, values)


def test_values_travel_little_endian() -> None:
    values = np.array([1.0, -2.0], np.float32)
    for order in "<>=":
        assert to_bytes(values.astype(f"{order}f4")).hex() == "0000803f000000c0"
    assert from_bytes(bytes.fromhex("0000803f000000c0"), "float32").tolist() == [1.0, -2.0]
    with pytest.raises(WeightsError, match="7 bytes are not a whole number of float32 values"):
        from_bytes(bytes(7), "float32")
    with pytest.raises(WeightsError, match="not one of float32"):
        from_bytes(bytes(8), "float64")


def test_a_real_update_keeps_its_direction() -> None:
    drawn = np.random.default_rng(1).standard_t(4, 20_000).astype(np.float32)
    update = clip_to_norm(drawn, 2.0)
    cases: tuple[tuple[Encoding, int, float], ...] = (("float16", 2, 1e-3), ("int8", 1, 0.1))
    for encoding, bytes_each, error in cases:
        values, scale = compress(update, encoding)
        assert values.nbytes == bytes_each * update.size
        assert l2_norm(restore(values, scale) - update) < error * l2_norm(update)


def test_one_byte_is_right_on_average() -> None:
    """4,000 devices whose updates differ in one value: a mean beyond 5 standard errors fails."""
    update = np.linspace(-0.03, 0.05, 50).astype(np.float32)
    total, count = np.zeros(update.size), 4_000
    for number in range(count):
        mine = update.copy()
        mine[0] = -0.03 - 1e-6 * number  # or all would round the same way
        values, scale = compress(mine, "int8")
        total += restore(values, scale)
    step = 0.05 / 127
    off = np.abs(total / count - update)[1:]
    # Taking back the norm shrinks by far less than a step.
    assert off.max() < 5 * step / np.sqrt(count) / 2 + 0.02 * step


def test_forged_updates_are_refused() -> None:
    with pytest.raises(SettingsError, match="float16"):
        compress(TINY, "bfloat16")  # type: ignore[arg-type]
    for scale in (np.nan, np.inf, -1.0):
        with pytest.raises(WeightsError):
            restore(np.zeros(3, np.int8), scale)
