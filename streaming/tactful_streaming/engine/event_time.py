"""Event time of an engine: how far its events have come, and the watermark behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

LEAP_MS: Final = 86_400_000
"""Most that one event of a loaded history moves event time by."""

WITNESSES: Final = 3
"""Events in a row that lie further ahead than `LEAP_MS` before event time follows them."""


class EventTime:
    """The newest time that was reached, and the watermark; both never go back.

    Histories hold stray dates: one event with the wrong year would make all others late. So an
    event that was received more than `LEAP_MS` after its time, and that lies more than `LEAP_MS`
    ahead of the others, moves nothing until `WITNESSES` in a row do; the earliest of these counts.
    The first event and what is received as it happens move event time at once.
    """

    def __init__(self, delay: int) -> None:
        """Begin at 0; the watermark stays `delay` milliseconds behind."""
        self.newest = 0
        self.watermark = 0
        self.ahead: list[int] = []  # times of the latest events in a row that are too far ahead
        self._delay = delay

    def resume(self, newest: int, watermark: int, ahead: Sequence[int] = ()) -> None:
        """Continue from a stored state."""
        self.newest = newest
        self.watermark = max(watermark, newest - self._delay, 0)
        self.ahead = [*ahead]

    def advance(self, reached: int, received: int | None = None) -> None:
        """Take in the time that an event or a tick moves event time to, and its receipt."""
        if self._is_leap(reached, received):
            self.ahead.append(reached)
            if len(self.ahead) < WITNESSES:
                return
            reached = min(self.ahead)
        self.ahead.clear()
        if reached > self.newest:
            self.newest = reached
            self.watermark = max(self.watermark, reached - self._delay)

    def advance_all(
        self,
        reached: NDArray[np.int64],
        received: NDArray[np.int64],  # times of receipt, -1 where there is none
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Take in many events; return the newest time and the watermark after each."""
        before = np.maximum.accumulate(np.concatenate([[self.newest], reached[:-1]]))
        loaded = received - reached > LEAP_MS
        if not self.ahead and not (loaded & (reached - before > LEAP_MS) & (before > 0)).any():
            newest = np.maximum(before, reached)
            watermarks = np.maximum(newest - self._delay, self.watermark)
            self.newest, self.watermark = int(newest[-1]), int(watermarks[-1])
            return newest, watermarks
        times = []
        for time, receipt in zip(reached.tolist(), received.tolist(), strict=True):
            self.advance(time, receipt)
            times.append((self.newest, self.watermark))
        columns = np.array(times, np.int64).reshape(-1, 2)
        return columns[:, 0], columns[:, 1]

    def _is_leap(self, reached: int, received: int | None) -> bool:
        is_loaded = received is not None and received - reached > LEAP_MS
        return is_loaded and 0 < self.newest < reached - LEAP_MS
