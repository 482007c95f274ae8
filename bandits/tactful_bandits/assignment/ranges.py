"""Map weights and coverage to one range of buckets for each arm.

An arm's range starts where the arms before it end *at full coverage*, and coverage stretches it
from there. Raising coverage therefore only adds units: every unit that has an arm keeps it through
all steps of a ramp. The functions follow the published GrowthBook specification, including its
tolerance of bad input; `tactful_bandits.Experiment` rejects such input beforehand.
"""

from bisect import bisect_left
from collections.abc import Sequence

from tactful_bandits.assignment.hashing import BUCKETS

Range = tuple[float, float]
"""A half-open interval ``[start, end)`` within [0, 1]."""


def equal_weights(arms: int) -> tuple[float, ...]:
    """Return equal weights that sum to 1, or an empty tuple without arms."""
    return (1 / arms,) * arms if arms > 0 else ()


def bucket_ranges(
    arms: int, coverage: float, weights: Sequence[float] | None = None
) -> tuple[Range, ...]:
    """Compute the consecutive bucket ranges of the arms.

    Args:
        arms: Number of arms.
        coverage: Share of the units that takes part; clipped to [0, 1].
        weights: Share of each arm among those that take part. Equal weights replace them where
            they are absent, too many or few, or do not sum to 1 within 0.01.

    Returns:
        One half-open range per arm.
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
    return range(_first_bucket_from(range_[0]), _first_bucket_from(range_[1]))


def _first_bucket_from(place: float) -> int:
    # The search compares the same quotients as `choose_range`. Arithmetic on `place` instead could
    # round and shift the edge by one bucket.
    return bisect_left(range(BUCKETS), place, key=lambda number: number / BUCKETS)
