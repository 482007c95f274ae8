"""Shamir's secret sharing of 32-byte secrets.

Shamir, "How to share a secret", CACM 1979: the secret is the value at 0 of a random polynomial over
a prime field. `threshold` shares determine it, fewer reveal nothing. The field is slightly larger
than 2^256, so a key is one element. Available libraries share 16 bytes at a time and interpolate
each secret separately; here the coefficients for equal holders are computed once, since a server
opens hundreds of secrets at the same points.

Shares are a Reed-Solomon code: with more of them than the threshold, `decode` finds the wrong ones.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import zip_longest
from typing import Final

from tactful_federated.errors import SecureSumError

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33

_PRIME: Final = (1 << 256) + 297


def split(
    secret: bytes, threshold: int, holders: int, random: Callable[[int], bytes]
) -> list[bytes]:
    """Return the shares of 32 bytes for holders 1, 2, ..., each of 33 bytes.

    `threshold` of them, 1 to `holders`, determine the secret; `random` must be cryptographically
    secure.

    Raises:
        SecureSumError: The secret or the threshold has the wrong size.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise SecureSumError(
            f"cannot share {len(secret)} bytes among {holders} holders with threshold {threshold}"
        )
    # 64 bits more than the prime, so the remainder is uniform up to 2^-64.
    polynomial = [
        int.from_bytes(random(SHARE_BYTES + 8), "big") % _PRIME for _ in range(threshold - 1)
    ]
    polynomial.append(int.from_bytes(secret, "big"))
    # Horner's rule; the last coefficient is the value at 0.
    shares = []
    for x in range(1, holders + 1):
        value = 0
        for coefficient in polynomial:
            value = (value * x + coefficient) % _PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


@lru_cache(maxsize=32)  # the holders rarely differ between the secrets of a sum
def lagrange_weights(holders: tuple[int, ...], at: int = 0) -> tuple[int, ...]:
    """Return the Lagrange coefficients of holders for the value at a point.

    Raises:
        SecureSumError: A holder is repeated or below 1.
    """
    if len(set(holders)) != len(holders) or any(x < 1 for x in holders):
        raise SecureSumError("holders of shares must be distinct and counted from 1")
    weights = []
    for x in holders:
        above, below = 1, 1
        for other in holders:
            if other != x:  # weight of x = product of (other - at) / (other - x)
                above = above * (other - at) % _PRIME
                below = below * (other - x) % _PRIME
        weights.append(above * pow(below, -1, _PRIME) % _PRIME)
    return tuple(weights)


def join(shares: Mapping[int, bytes], weights: Sequence[int]) -> bytes:
    """Return the secret from shares by holder and the weights in the same order.

    Raises:
        SecureSumError: The shares do not belong to one secret of 32 bytes.
    """
    values = (int.from_bytes(share, "big") for share in shares.values())
    secret = sum(w * v for w, v in zip(weights, values, strict=True)) % _PRIME
    if secret >> (8 * SECRET_BYTES):
        raise SecureSumError("the opened shares do not belong to one secret")
    return secret.to_bytes(SECRET_BYTES, "big")


@dataclass
class Opening:
    """Result of `open_secrets`.

    Attributes:
        secrets: Secret by dealer.
        failed: Dealers whose shares fit no right secret; the opening ended with them.
        wrong: Number of wrong shares by holder.
    """

    secrets: dict[int, bytes] = field(default_factory=dict)
    failed: list[int] = field(default_factory=list)
    wrong: Counter[int] = field(default_factory=Counter)


def most_wrong(shares: int, threshold: int) -> int:
    """Return the number of wrong shares of a secret that `open_secrets` corrects.

    If all of n members opened, it is a sixth of n or more.
    """
    return (shares - threshold + 1) // 2


def open_secrets(
    shares: Mapping[int, Mapping[int, bytes]],
    threshold: int,
    is_right: Callable[[int, bytes], bool],
) -> Opening:
    """Reconstruct secrets from shares by dealer and holder, of which some may be wrong.

    Each dealer needs `threshold` shares; `is_right` checks the secret of a dealer against its
    commitment. After a failed dealer the others are tried only until one succeeds or until there
    are more failed dealers than errors that can be corrected.
    """
    opening, suspects = Opening(), set[int]()
    for dealer, held in shares.items():
        secret, wrong = open_secret(held, threshold, partial(is_right, dealer), suspects)
        suspects |= wrong
        if secret is None:
            opening.failed.append(dealer)
        else:
            opening.secrets[dealer] = secret
        if opening.failed and (
            opening.secrets or len(opening.failed) > most_wrong(len(held), threshold)
        ):
            return opening
    _count_wrong(shares, threshold, opening)
    return opening


def open_secret(
    held: Mapping[int, bytes],
    threshold: int,
    is_right: Callable[[bytes], bool],
    suspects: Container[int] = frozenset(),
) -> tuple[bytes | None, set[int]]:
    """Reconstruct one secret from `threshold` or more shares by holder, of which some may be wrong.

    Args:
        held: Shares by holder.
        threshold: Number of shares that determine the secret.
        is_right: Checks the secret against its commitment.
        suspects: Holders that sent wrong shares before.

    Returns:
        Secret, None if too many shares are wrong, and the holders of wrong ones if they were
        needed to find it.
    """
    # First without holders that sent wrong shares before: almost always right, and fast.
    chosen = sorted(sorted(held, key=lambda holder: holder in suspects)[:threshold])
    secret = _join({holder: held[holder] for holder in chosen})
    if secret is not None and is_right(secret):
        return secret, set()
    return _recover(held, threshold, is_right)


def _join(shares: Mapping[int, bytes]) -> bytes | None:
    try:
        return join(shares, lagrange_weights(tuple(shares)))
    except SecureSumError:
        return None


def _recover(
    shares: Mapping[int, bytes], threshold: int, is_right: Callable[[bytes], bool]
) -> tuple[bytes | None, set[int]]:
    """Return a secret of which some shares are wrong, None if too many are, and their holders."""
    values = {holder: int.from_bytes(share, "big") % _PRIME for holder, share in shares.items()}
    # An odd number of spare shares corrects one error more: leave out each in turn.
    odd = (len(values) - threshold) % 2
    for excluded in (None, *(values if odd else ())):
        points = {x: y for x, y in values.items() if x != excluded}
        polynomial = decode(points, threshold)
        if polynomial is None or polynomial[0] >> (8 * SECRET_BYTES):
            continue
        secret = polynomial[0].to_bytes(SECRET_BYTES, "big")
        if is_right(secret):
            wrong = {x for x, y in values.items() if _evaluate(polynomial, x, _PRIME) != y}
            return secret, wrong
    return None, set()


def _count_wrong(
    shares: Mapping[int, Mapping[int, bytes]], threshold: int, opening: Opening
) -> None:
    """Count the wrong shares of each holder, by one decoding of all secrets.

    A random combination of the secrets is shared by the same combination of their shares, and a
    holder of a wrong share has a wrong combination, up to a probability of 2^-120.
    """
    factors = {dealer: int.from_bytes(os.urandom(16), "big") for dealer in shares}
    holders = set[int].intersection(*(set(held) for held in shares.values()))
    points = {
        holder: sum(factors[d] * int.from_bytes(h[holder], "big") for d, h in shares.items())
        % _PRIME
        for holder in sorted(holders)
    }
    secrets = ((factors[d], int.from_bytes(s, "big")) for d, s in opening.secrets.items())
    points[0] = sum(factor * secret for factor, secret in secrets) % _PRIME  # known to be right
    polynomial = decode(points, threshold)
    if polynomial is None:
        return
    right = [x for x, y in points.items() if x and _evaluate(polynomial, x, _PRIME) == y]
    for holder in holders.difference(right):
        weights = lagrange_weights(tuple(right[:threshold]), holder)
        for held in shares.values():
            values = (int.from_bytes(held[x], "big") for x in right[:threshold])
            value = sum(w * v for w, v in zip(weights, values, strict=True)) % _PRIME
            opening.wrong[holder] += value != int.from_bytes(held[holder], "big")


def decode(points: Mapping[int, int], terms: int, prime: int = _PRIME) -> list[int] | None:
    """Return the polynomial with fewer than `terms` coefficients through almost all points.

    The coefficients are by ascending degree. Up to ``(points - terms) // 2`` values may be wrong;
    None if more are. (Gao, "A new algorithm for decoding Reed-Solomon codes", 2003.)
    """
    if len(points) < terms:
        return None
    # Newton's interpolation: `through` has the values, `zeros` the roots of the points so far.
    through, zeros = [0], [1]
    for x, y in points.items():
        factor = y - _evaluate(through, x, prime)
        factor = factor * pow(_evaluate(zeros, x, prime), -1, prime) % prime
        through = _plus(through, zeros, factor, prime)
        zeros = _plus([0, *zeros], zeros, -x, prime)
    # Euclid's algorithm, stopped halfway: remainder = polynomial * error locator.
    earlier, remainder, previous, locator = zeros, through, [0], [1]
    while 2 * (len(remainder) - 1) >= len(points) + terms:
        quotient, rest = _divide(earlier, remainder, prime)
        product = [0] * (len(quotient) + len(locator) - 1)
        for i, a in enumerate(quotient):
            for j, b in enumerate(locator):
                product[i + j] += a * b
        earlier, remainder = remainder, rest
        previous, locator = locator, _plus(previous, product, -1, prime)
    polynomial, rest = _divide(remainder, locator, prime)
    return None if any(rest) or len(polynomial) > terms else polynomial


def _evaluate(polynomial: Sequence[int], x: int, prime: int) -> int:
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * x + coefficient) % prime
    return value


def _plus(a: Sequence[int], b: Sequence[int], factor: int, prime: int) -> list[int]:
    """Return a + factor * b without leading zeros."""
    total = [(x + factor * y) % prime for x, y in zip_longest(a, b, fillvalue=0)]
    while len(total) > 1 and not total[-1]:
        total.pop()
    return total


def _divide(a: Sequence[int], b: Sequence[int], prime: int) -> tuple[list[int], list[int]]:
    """Return quotient and remainder of polynomials without leading zeros."""
    rest, quotient, inverse = list(a), [0] * max(1, len(a) - len(b) + 1), pow(b[-1], -1, prime)
    for shift in range(len(a) - len(b), -1, -1):
        quotient[shift] = factor = rest[shift + len(b) - 1] * inverse % prime
        for i, coefficient in enumerate(b):
            rest[shift + i] = (rest[shift + i] - factor * coefficient) % prime
    return quotient, _plus(rest, [0], 0, prime)
