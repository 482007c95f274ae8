"""Where a batch has to be cut so that windows fire as if events came one by one.

A window fires when the watermark reaches its end, with what has come until then: later events of
the batch must not be in it. An event that changes a window which has fired makes it fire again, at
once. So a batch is applied in pieces that end with such events.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.definitions.model import CumulativeWindow, Feature, SessionWindow, Window

Times = NDArray[np.int64]


class BatchSplitter:
    """Finds the pieces for the windows of some features.

    Attributes:
        has_windows: whether any of them has windows that end.
    """

    def __init__(self, features: Iterable[Feature], allowed_lateness_ms: int) -> None:
        """Prepare for the windows of `features`."""
        steps: set[int] = set()
        gaps: set[int] = set()
        for feature in features:
            if isinstance(feature.window, Window) and feature.aggregate != "last_n":
                steps.add(feature.window.slide_ms)
            elif isinstance(feature.window, CumulativeWindow):
                steps.add(feature.window.step_ms)
            elif isinstance(feature.window, SessionWindow):
                gaps.add(feature.window.gap_ms)
        # Where a multiple of another step ends a window, the other one does, too.
        self._steps = [s for s in sorted(steps) if not any(s % t == 0 for t in steps if t < s)]
        self._gap = min(gaps, default=None)
        self._refires = allowed_lateness_ms > 0
        self.has_windows = bool(steps or gaps)

    def split(self, timestamps: Times, watermarks: Times, before: int) -> list[tuple[int, int]]:
        """Begin and end of each piece.

        Args:
            timestamps: of the events of a batch, epoch milliseconds.
            watermarks: after each of them.
            before: watermark before the first of them.
        """
        count = len(timestamps)
        cut = np.zeros(count, np.bool_)
        for step in self._steps:
            if self._refires:
                cut |= timestamps // step < watermarks // step
            if int(watermarks[-1]) // step != before // step:
                number = watermarks // step
                cut[0] |= number[0] != before // step
                cut[1:] |= number[1:] != number[:-1]
        if self._refires and self._gap is not None:
            cut |= timestamps + self._gap <= watermarks
        ends = (np.flatnonzero(cut) + 1).tolist()
        if not ends or ends[-1] != count:
            ends.append(count)
        return list(zip([0, *ends[:-1]], ends, strict=True))
