"""Splits a batch at window ends, for the results of events applied one by one.

A window is emitted when the watermark reaches its end, without later events of the batch. An event
that changes an emitted window makes it be emitted again at once. So each part of a batch ends with
such an event.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.definitions.model import CumulativeWindow, Feature, SessionWindow, Window

Times = NDArray[np.int64]


class BatchSplitter:
    """Splits batches for the windows of some features.

    Attributes:
        has_windows: whether one of the features has windows that end.
    """

    def __init__(self, features: Iterable[Feature], allowed_lateness_ms: int) -> None:
        """Prepare to split for the windows of `features`."""
        steps: set[int] = set()
        gaps: set[int] = set()
        for feature in features:
            if isinstance(feature.window, Window) and feature.aggregate != "last_n":
                steps.add(feature.window.slide_ms)
            elif isinstance(feature.window, CumulativeWindow):
                steps.add(feature.window.step_ms)
            elif isinstance(feature.window, SessionWindow):
                gaps.add(feature.window.gap_ms)
        # The end of a step is also the end of every step that divides it.
        self._steps = [s for s in sorted(steps) if not any(s % t == 0 for t in steps if t < s)]
        self._gap = min(gaps, default=None)
        self._emits_again = allowed_lateness_ms > 0
        self.has_windows = bool(steps or gaps)

    def split(self, timestamps: Times, watermarks: Times, before: int) -> list[tuple[int, int]]:
        """Return begin and end of each part.

        Args:
            timestamps: times of the events of a batch, epoch milliseconds.
            watermarks: watermark after each event.
            before: watermark before the first event.
        """
        count = len(timestamps)
        last = np.zeros(count, np.bool_)
        for step in self._steps:
            if self._emits_again:
                last |= timestamps // step < watermarks // step
            if int(watermarks[-1]) // step != before // step:
                number = watermarks // step
                last[0] |= number[0] != before // step
                last[1:] |= number[1:] != number[:-1]
        if self._emits_again and self._gap is not None:
            last |= timestamps + self._gap <= watermarks
        ends = (np.flatnonzero(last) + 1).tolist()
        if not ends or ends[-1] != count:
            ends.append(count)
        return list(zip([0, *ends[:-1]], ends, strict=True))
