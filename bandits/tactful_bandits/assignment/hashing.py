"""Deterministic buckets of units by the hash of the GrowthBook SDKs, and the ranges of arms.

A unit (a user id) falls into one of 10,000 buckets that depend only on a seed and on the unit.
FNV-1a runs over UTF-16 code units, as JavaScript's ``charCodeAt`` yields them: a character outside
the basic plane counts as its two surrogates. Hashing UTF-8 bytes instead would agree for ASCII
ids only, and move every other user between arms as soon as two languages share an experiment.

Each arm owns one range of buckets. It starts where the arms before it end *at full coverage*, and
coverage stretches it from there. Raising coverage therefore only adds units: every unit that has an
arm keeps it through all steps of a ramp. The ranges follow the published GrowthBook specification,
including its tolerance of bad input; `tactful_bandits.Experiment` rejects such input beforehand.

Sources: Fowler, Noll, Vo and Eastlake, "The FNV Non-Cryptographic Hash Algorithm" (IETF
draft-eastlake-fnv); GrowthBook SDK specification, hash versions 1 and 2.
"""

import struct
from bisect import bisect_left
from collections.abc import Sequence

from tactful_bandits.errors import DefinitionError

BUCKETS = 10_000
"""Number of buckets of version 2; the smallest share of traffic is one bucket, 0.01 %."""

Range = tuple[float, float]
"""A half-open interval ``[start, end)`` within [0, 1]."""

_OFFSET_BASIS = 0x811C9DC5


def fnv1a_32(text: str, state: int = _OFFSET_BASIS) -> int:
    """Hash text with 32-bit FNV-1a over its UTF-16 code units, to an integer in [0, 2**32).

    A lone surrogate, as JSON may carry, counts as itself. FNV-1a reads left to right, hence
    ``fnv1a_32(b, fnv1a_32(a)) == fnv1a_32(a + b)``: a fixed prefix is hashed once.
    """
    # Literals instead of named constants: this loop is the whole cost of an assignment.
    for unit in _code_units(text):
        state = (state ^ unit) * 0x01000193 & 0xFFFFFFFF
    return state


def bucket_number(prefix: int, unit: str) -> int:
    """Return the version 2 bucket of a unit, in [0, BUCKETS), given ``fnv1a_32(seed)``."""
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

    Raises:
        DefinitionError: The version is unknown.
    """
    if version == 2:
        return bucket_number(fnv1a_32(seed), unit) / BUCKETS
    if version == 1:
        return fnv1a_32(unit + seed) % 1000 / 1000
    raise DefinitionError(f"hash version must be 1 or 2, not {version!r}")


def equal_weights(arms: int) -> tuple[float, ...]:
    """Return equal weights that sum to 1, or an empty tuple without arms."""
    return (1 / arms,) * arms if arms > 0 else ()


def bucket_ranges(
    arms: int, coverage: float, weights: Sequence[float] | None = None
) -> tuple[Range, ...]:
    """Compute the consecutive bucket ranges of the arms, for a coverage clipped to [0, 1].

    Weights are shares among the units that take part. Equal ones replace them where they are
    absent, too many or few, or do not sum to 1 within 0.01.
    """
    coverage = min(max(coverage, 0.0), 1.0)
    if weights is None or len(weights) != arms or not 0.99 <= sum(weights) <= 1.01:
        weights = equal_weights(arms)
    ranges = []
    start = 0.0
    for weight in weights:
        ranges.append((start, start + coverage * weight))
        start += weight
    return tuple(ranges)


def choose_range(place: float, ranges: Sequence[Range]) -> int | None:
    """Return the index of the first range that contains a position in [0, 1), or None."""
    for index, (start, end) in enumerate(ranges):
        if start <= place < end:
            return index
    return None


def buckets_within(range_: Range) -> range:
    """List the version 2 buckets whose position ``n / 10,000`` lies within a range."""
    # The search compares the same quotients as `choose_range`. Arithmetic on the ends instead could
    # round and shift them by one bucket.
    numbers = range(BUCKETS)
    first, after = (bisect_left(numbers, end, key=lambda n: n / BUCKETS) for end in range_)
    return range(first, after)


def _code_units(text: str) -> bytes | tuple[int, ...]:
    if text.isascii():
        return text.encode("ascii")
    encoded = text.encode("utf-16-le", "surrogatepass")
    return struct.unpack(f"<{len(encoded) // 2}H", encoded)
