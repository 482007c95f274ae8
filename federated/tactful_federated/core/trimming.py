"""Coordinate-wise trimmed sums, robust against a few poisoned devices.

Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018.
It reads single updates, so the server must be trusted with them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tactful_federated.core.fixed_point import IntegerVector
from tactful_federated.errors import require

_BLOCK = 1 << 12


def trimmed_sum(updates: NDArray[np.int32], trimmed: int) -> IntegerVector:
    """Sum each coordinate without its largest and smallest values.

    Privacy: as a function of one value, with all others fixed, the trimmed sum is that value,
    clamped between two bounds, plus a constant. Zeroing the update of one device therefore changes
    no coordinate by more than the value of the update there, and the sensitivity of the sum is the
    bound on the norm of an update, exactly as without trimming: the noise of a plan and its
    guarantee are unchanged. This requires a fixed number of rows; the row of a silent device is
    zero.

    Trimming costs signal: only n - 2 `trimmed` of n values are added, under the same noise, and a
    change that fewer than `trimmed` devices learn (a rare category) is removed.

    Args:
        updates: Updates on the grid, `[rows, parameters]`.
        trimmed: Values removed at each end, 0 or more, fewer than half of the rows.

    Returns:
        int64 of shape (parameters,).

    Raises:
        SettingsError: No value would be left.
    """
    rows, size = updates.shape
    require(
        0 <= 2 * trimmed < rows,
        f"cannot trim {trimmed} of {rows} updates at each end: give fewer than half",
    )
    total = np.empty(size, dtype=np.int64)
    for first in range(0, size, _BLOCK):
        columns = updates[:, first : first + _BLOCK]
        if trimmed:
            columns = np.partition(columns, (trimmed, rows - trimmed - 1), axis=0)
        columns[trimmed : rows - trimmed].sum(
            axis=0, dtype=np.int64, out=total[first : first + _BLOCK]
        )
    return total
