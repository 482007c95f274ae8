"""Deterministic bucketing with the published hash of the GrowthBook SDKs.

A unit (a user id) falls into one of 10,000 buckets that depend only on a seed and on the unit.
FNV-1a runs over UTF-16 code units, as JavaScript's ``charCodeAt`` yields them: a character outside
the basic plane counts as its two surrogates. Hashing UTF-8 bytes instead would agree for ASCII
ids only, and move every other user between arms as soon as two languages share an experiment.

Sources: Fowler, Noll, Vo and Eastlake, "The FNV Non-Cryptographic Hash Algorithm" (IETF
draft-eastlake-fnv); GrowthBook SDK specification, hash versions 1 and 2.
"""

import struct

from tactful_bandits.errors import DefinitionError

BUCKETS = 10_000
"""Number of buckets of version 2; the smallest share of traffic is one bucket, 0.01 %."""

_OFFSET_BASIS = 0x811C9DC5


def fnv1a_32(text: str, state: int = _OFFSET_BASIS) -> int:
    """Hash text with 32-bit FNV-1a over its UTF-16 code units.

    Args:
        text: Text to hash; a lone surrogate, as JSON may carry, counts as itself.
        state: The hash of the preceding text. FNV-1a reads left to right, hence
            ``fnv1a_32(b, fnv1a_32(a)) == fnv1a_32(a + b)``: a fixed prefix is hashed once.

    Returns:
        An integer in [0, 2**32).
    """
    # Literals instead of named constants: this loop is the whole cost of an assignment.
    for unit in _code_units(text):
        state = (state ^ unit) * 0x01000193 & 0xFFFFFFFF
    return state


def bucket_number(prefix: int, unit: str) -> int:
    """Return the version 2 bucket of a unit, given the hash of its seed.

    Args:
        prefix: ``fnv1a_32(seed)``.
        unit: Id of the unit to assign.

    Returns:
        An integer in [0, BUCKETS).
    """
    # The second pass over the decimal digits spreads the last character of the id, which FNV-1a
    # alone leaves in the low bits.
    return fnv1a_32(str(fnv1a_32(unit, prefix))) % BUCKETS


def bucket(seed: str, unit: str, *, version: int = 2) -> float:
    """Return the position in [0, 1) of a unit under a seed.

    Args:
        seed: Separates experiments: two seeds give independent positions.
        unit: Id of the unit to assign, commonly a user id.
        version: 2 has 10,000 buckets. 1 has 1,000 and is kept only to agree with published
            vectors: its buckets are correlated between experiments, never randomise with it.

    Returns:
        A multiple of 1/10,000 (version 2) or of 1/1,000 (version 1).

    Raises:
        DefinitionError: The version is unknown.
    """
    if version == 2:
        return bucket_number(fnv1a_32(seed), unit) / BUCKETS
    if version == 1:
        return fnv1a_32(unit + seed) % 1000 / 1000
    raise DefinitionError(f"hash version must be 1 or 2, not {version!r}")


def _code_units(text: str) -> bytes | tuple[int, ...]:
    if text.isascii():
        return text.encode("ascii")
    encoded = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(encoded) // 2}H", encoded)
