"""Shares of secrets: any threshold of them, and nothing from fewer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.secret_sharing import _PRIME, join, split, weights_at_zero


def entropy(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_the_field_is_a_field() -> None:
    # Fermat to twelve bases, on a number fixed beforehand.
    assert all(pow(base, _PRIME - 1, _PRIME) == 1 for base in range(2, 14))
    assert pow(3, (_PRIME - 1) // 2, _PRIME) in (1, _PRIME - 1)
    assert _PRIME > 1 << 256


@given(st.binary(min_size=32, max_size=32), st.integers(1, 6), st.integers(0, 3), st.integers(0))
def test_any_threshold_of_the_shares_gives_the_secret(
    secret: bytes, threshold: int, more: int, seed: int
) -> None:
    holders = threshold + more
    shares = split(secret, threshold, holders, entropy(seed).bytes)
    for chosen in itertools.combinations(range(1, holders + 1), threshold):
        held = {x: shares[x - 1] for x in chosen}
        assert join(held, weights_at_zero(tuple(chosen))) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """With one share less, each candidate secret is explained by exactly one more share."""
    shares = split(bytes(range(32)), 3, 3, entropy(1).bytes)
    weights = weights_at_zero((1, 2, 3))
    for candidate in (bytes(32), b"\xff" * 32, bytes(range(32))):
        rest = sum(
            w * int.from_bytes(s, "big") for w, s in zip(weights[:2], shares[:2], strict=True)
        )
        third = (int.from_bytes(candidate, "big") - rest) * pow(weights[2], -1, _PRIME) % _PRIME
        held = {1: shares[0], 2: shares[1], 3: third.to_bytes(33, "big")}
        assert join(held, weights) == candidate


def test_shares_are_fresh_and_the_known_answer_holds() -> None:
    secret = b"s" * 32
    assert split(secret, 2, 2, entropy(1).bytes) != split(secret, 2, 2, entropy(2).bytes)
    line = split(bytes(31) + b"\x05", 2, 3, lambda n: bytes(n - 1) + b"\x07")
    assert [int.from_bytes(s, "big") for s in line] == [12, 19, 26]


def test_wrong_sizes_are_refused() -> None:
    for size, threshold, holders in ((31, 1, 1), (32, 0, 1), (32, 3, 2)):
        with pytest.raises(SecureSumError):
            split(b"x" * size, threshold, holders, entropy(1).bytes)


def test_spoilt_shares_are_refused_or_give_another_secret() -> None:
    shares = split(b"s" * 32, 2, 2, entropy(1).bytes)
    weights = weights_at_zero((1, 2))
    assert join({1: shares[1], 2: shares[0]}, weights) != b"s" * 32
    with pytest.raises(SecureSumError, match="do not belong to one secret"):
        join({1: (1 << 256).to_bytes(33, "big")}, [1])
    for holders in ([1, 1], [0, 1]):
        with pytest.raises(SecureSumError):
            weights_at_zero(tuple(holders))
