"""Shares of secrets: any threshold of them, and nothing from fewer."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.messages import threshold_of
from tactful_federated.secagg.secret_sharing import (
    _PRIME,
    decode,
    join,
    lagrange_weights,
    most_wrong,
    open_secrets,
    split,
)


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
        assert join(held, lagrange_weights(tuple(chosen))) == secret


def test_fewer_shares_fit_every_secret() -> None:
    """With one share less, each candidate secret is explained by exactly one more share."""
    shares = split(bytes(range(32)), 3, 3, entropy(1).bytes)
    weights = lagrange_weights((1, 2, 3))
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
    weights = lagrange_weights((1, 2))
    assert join({1: shares[1], 2: shares[0]}, weights) != b"s" * 32
    with pytest.raises(SecureSumError, match="do not belong to one secret"):
        join({1: (1 << 256).to_bytes(33, "big")}, [1])
    for holders in ([1, 1], [0, 1]):
        with pytest.raises(SecureSumError):
            lagrange_weights(tuple(holders))


def test_the_published_example_is_decoded() -> None:
    """Reed-Solomon (7, 3) over GF(7), from the article on Berlekamp and Welch in Wikipedia."""
    received = dict(enumerate([1, 5, 3, 6, 3, 2, 2]))  # sent: 1 6 3 6 1 2 2
    assert decode(received, 3, 7) == [1, 2, 3]


@given(st.dictionaries(st.integers(0, 6), st.integers(0, 6)), st.integers(1, 3))
def test_decoding_agrees_with_trying_every_polynomial(points: dict[int, int], terms: int) -> None:
    errors = (len(points) - terms) // 2
    near = []
    for candidate in itertools.product(range(7), repeat=terms):
        values = {x: sum(c * x**i for i, c in enumerate(candidate)) % 7 for x in points}
        if errors >= 0 and sum(values[x] != y for x, y in points.items()) <= errors:
            near.append(list(candidate))
    decoded = decode(points, terms, 7)
    assert len(near) == (decoded is not None)
    if decoded is not None:
        assert decoded + [0] * (terms - len(decoded)) == near[0]


@given(st.integers(3, 18), st.data())
def test_a_sixth_of_liars_is_corrected_and_named(count: int, data: st.DataObject) -> None:
    threshold, seed = threshold_of(count), entropy(count)
    most = most_wrong(count, threshold)
    assert count // 6 <= most
    secrets = {dealer: seed.bytes(32) for dealer in range(1, count + 1)}
    shares = {
        dealer: dict(enumerate(split(secret, threshold, count, seed.bytes), 1))
        for dealer, secret in secrets.items()
    }
    liars = data.draw(st.sets(st.integers(1, count), max_size=most))
    lies: dict[int, set[int]] = {}
    for liar in liars:
        lies[liar] = data.draw(st.sets(st.integers(1, count), min_size=1))
        for dealer in lies[liar]:
            shares[dealer][liar] = data.draw(st.sampled_from([bytes(33), b"\xff" * 33]))
    opening = open_secrets(shares, threshold, lambda dealer, secret: secret == secrets[dealer])
    assert opening.secrets == secrets and not opening.failed
    assert opening.wrong == {liar: len(dealers) for liar, dealers in lies.items()}


def test_a_dealer_of_shares_of_no_secret_is_named() -> None:
    secrets = {dealer: bytes([dealer]) * 32 for dealer in range(1, 8)}
    shares = {
        dealer: dict(enumerate(split(secret, 5, 7, entropy(1).bytes), 1))
        for dealer, secret in secrets.items()
    }
    shares[4] = {holder: entropy(holder).bytes(33) for holder in shares[4]}
    opening = open_secrets(shares, 5, lambda dealer, secret: secret == secrets[dealer])
    assert opening.failed == [4] and opening.secrets
    for held in shares.values():  # and if nothing fits, nobody is
        held.update({holder: bytes(33) for holder in (1, 2, 3)})
    opening = open_secrets(shares, 5, lambda dealer, secret: secret == secrets[dealer])
    assert not opening.secrets and len(opening.failed) == 2
