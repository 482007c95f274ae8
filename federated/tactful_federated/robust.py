"""A sum that a few poisoned devices cannot drag away: coordinate-wise trimming.

Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018.
It reads single updates, so it is for servers that are trusted with them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import require
from tactful_federated.fixed_point import IntegerVector

_COLUMNS = 1 << 12


def trimmed_sum(updates: NDArray[np.int32], trimmed: int) -> IntegerVector:
    """Sum, at each coordinate, of what is left without the largest and the smallest values.

    Privacy: as a function of one value and with all others fixed, such a sum is that value, cut off
    at two bounds, and a constant. So zeroing one device's update changes no coordinate by more than
    the update has there, and the sum's sensitivity is the bound on an update's norm, exactly as
    without trimming: the noise of a plan and its promise hold unchanged. It takes that the number
    of rows is fixed; a device that is silent has a row of zeros.

    What it costs is signal. Of n values n - 2 `trimmed` are added, under the same noise; and what
    fewer devices than `trimmed` learn, such as a rare category, is taken for poison.

    Args:
        updates: On the grid, `[rows, parameters]`.
        trimmed: Values left out at either end, 0 or more, fewer than half of the rows.

    Returns:
        int64 of shape (parameters,).

    Raises:
        SettingsError: Nothing would be left.
    """
    rows, size = updates.shape
    require(0 <= 2 * trimmed < rows, f"of {rows} updates {trimmed} cannot go at either end")
    total = np.empty(size, dtype=np.int64)
    for first in range(0, size, _COLUMNS):
        part = updates[:, first : first + _COLUMNS]
        if trimmed:
            part = np.partition(part, (trimmed, rows - trimmed - 1), axis=0)
        part[trimmed : rows - trimmed].sum(
            axis=0, dtype=np.int64, out=total[first : first + _COLUMNS]
        )
    return total
