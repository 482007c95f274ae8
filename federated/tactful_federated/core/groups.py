"""Groups of a cohort: several secure sums in one round, whose totals are added."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from tactful_federated.core.graph import Graph
from tactful_federated.errors import require

FEWEST_DEVICES: Final = 3
"""Smallest sum: with two devices, each would learn the vector of the other."""


class Groups(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Division of the cohort of a round into secure sums.

    Attributes:
        size: Most devices that are asked for one sum.
        fewest: Fewest devices of a sum; devices refuse to open a smaller one.
        graph: Sparse graph of each sum; unset: each member masks with every other.
    """

    size: int
    fewest: int
    graph: Graph | msgspec.UnsetType = msgspec.UNSET


def group_cohort(cohort: int, minimum_reports: int, size: int) -> Groups | None:
    """Return the division of a cohort into sums of at most `size` devices, None if it is one sum.

    The groups of a whole cohort differ by one device at most, and each needs its share of the
    minimum number of reports.

    Raises:
        SettingsError: A group would have too few devices for a secure sum.
    """
    if not size or size >= cohort:
        return None
    count = math.ceil(cohort / size)
    fewest = minimum_reports // count
    require(
        fewest >= FEWEST_DEVICES,
        f"{count} groups of at most {size} devices leave {fewest} of {minimum_reports} minimum"
        f" reports to each, and a secret sum needs {FEWEST_DEVICES}: raise the group size",
    )
    return Groups(math.ceil(cohort / count), fewest)


def divide(devices: Sequence[int], groups: Groups | None, seed: int) -> list[list[int]]:
    """Divide devices at random into groups of nearly equal size.

    If at least the minimum number of reports of a plan are given, each group has `fewest` devices
    or more.

    Args:
        devices: Devices of a round, at most its cohort.
        groups: Division of the cohort; None is one group.
        seed: Seed of the division, from a cryptographically secure source.
    """
    if groups is None:
        return [list(devices)]
    count = max(1, math.ceil(len(devices) / groups.size))
    order = np.random.default_rng(seed).permutation(len(devices))
    return [[devices[i] for i in order[first::count]] for first in range(count)]
