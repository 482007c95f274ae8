"""A forest as a server evaluates it: by one thread, or by that and its companion."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tactful.forest import BinnedForest, Floats
from tactful.forest_kernel import load_for_c, load_kernel

if TYPE_CHECKING:
    from tactful.companion import Companion


class ServedForest:
    """A forest, and the machine code that evaluates it."""

    def __init__(self, forest: BinnedForest, kernels: Path | None) -> None:
        """Load the machine code, or compile it, which takes long.

        Args:
            forest: what is evaluated.
            kernels: where compiled code is kept; None leaves it to numba.
        """
        self._forest = forest
        self._kernel = load_kernel(kernels)
        self._code = load_for_c(kernels).address
        self._base = np.array([forest.base], np.float32)
        placed = ((array.ctypes.data, len(array)) for array in forest.arrays)
        self._words = (self._base.ctypes.data, *chain.from_iterable(placed))

    def margins(self, features: Floats, companion: Companion | None = None) -> Floats:
        """Margin of each row, as `BinnedForest.margins`.

        Args:
            features: shape (n, columns), NaN for missing; fastest when the columns are contiguous.
            companion: evaluates some of the rows meanwhile; None where there is none.
        """
        share = None if companion is None else partial(self._begin, companion)
        return self._forest.margins(features, self._kernel, share)

    def _begin(
        self, companion: Companion, columns: Floats, margins: Floats
    ) -> Callable[[], object]:
        words = (
            *(columns.ctypes.data, len(columns), columns.strides[0] // columns.itemsize),
            *(margins.ctypes.data, len(margins), *self._words),
        )
        return partial(companion.finish, companion.begin(self._code, words, columns, margins, self))
