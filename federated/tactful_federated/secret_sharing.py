"""Secrets of 32 bytes in shares, any `threshold` of which give the secret, and fewer nothing.

Shamir, "How to share a secret", CACM 1979: the secret is the value at 0 of a random polynomial over
a prime field. The field is a little wider than 256 bits, so a key is one element. The libraries
at hand share 16 bytes at a time and interpolate each secret anew; a server opens hundreds of
secrets at the same points, so their coefficients are computed once here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tactful_federated.errors import SecureSumError

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33

_PRIME: Final = (1 << 256) + 297


def split(
    secret: bytes, threshold: int, holders: int, random: Callable[[int], bytes]
) -> list[bytes]:
    """Return the shares of holders 1, 2, ..., each of 33 bytes.

    Args:
        secret: 32 bytes.
        threshold: Shares that give the secret, 1 to `holders`.
        holders: Number of shares.
        random: Cryptographically secure bytes.

    Raises:
        SecureSumError: The secret or the threshold has the wrong size.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= holders:
        raise SecureSumError(
            f"{len(secret)} bytes cannot be shared among {holders} with threshold {threshold}"
        )
    # 64 more bits than the prime has, so that the remainder is uniform up to 2^-64.
    polynomial = [
        int.from_bytes(random(SHARE_BYTES + 8), "big") % _PRIME for _ in range(threshold - 1)
    ]
    polynomial.append(int.from_bytes(secret, "big"))
    shares = []
    for x in range(1, holders + 1):
        value = 0
        for coefficient in polynomial:
            value = (value * x + coefficient) % _PRIME
        shares.append(value.to_bytes(SHARE_BYTES, "big"))
    return shares


def weights_at_zero(holders: Sequence[int]) -> list[int]:
    """Return Lagrange's coefficients for the value at 0 from the values at these holders.

    Raises:
        SecureSumError: A holder is repeated or below 1.
    """
    if len(set(holders)) != len(holders) or any(x < 1 for x in holders):
        raise SecureSumError("shares of distinct holders, counted from 1, are needed")
    weights = []
    for x in holders:
        above, below = 1, 1
        for other in holders:
            if other != x:
                above = above * other % _PRIME
                below = below * (other - x) % _PRIME
        weights.append(above * pow(below, -1, _PRIME) % _PRIME)
    return weights


def join(shares: Mapping[int, bytes], weights: Sequence[int]) -> bytes:
    """Return the secret from shares by holder and the weights of the same holders, in that order.

    Raises:
        SecureSumError: The shares do not make a secret of 32 bytes.
    """
    values = (int.from_bytes(share, "big") for share in shares.values())
    secret = sum(w * v for w, v in zip(weights, values, strict=True)) % _PRIME
    if secret >> (8 * SECRET_BYTES):
        raise SecureSumError("shares that do not belong together were opened")
    return secret.to_bytes(SECRET_BYTES, "big")
