"""Shamir's secret sharing of 32-byte secrets.

Shamir, "How to share a secret", CACM 1979: the secret is the value at 0 of a random polynomial over
a prime field. `threshold` shares determine it, fewer reveal nothing. The field is slightly larger
than 2^256, so a key is one element. Available libraries share 16 bytes at a time and interpolate
each secret separately; here the coefficients for equal holders are computed once, since a server
opens hundreds of secrets at the same points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
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


@lru_cache(maxsize=8)  # the holders rarely differ between the secrets of a sum
def weights_at_zero(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Return the Lagrange coefficients of holders for the value at 0.

    Raises:
        SecureSumError: A holder is repeated or below 1.
    """
    if len(set(holders)) != len(holders) or any(x < 1 for x in holders):
        raise SecureSumError("holders of shares must be distinct and counted from 1")
    weights = []
    for x in holders:
        above, below = 1, 1
        for other in holders:
            if other != x:  # weight of x = product of other / (other - x)
                above = above * other % _PRIME
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
