"""Interval and clock of a loop that waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Polling:
    """Interval and clock of a loop that waits.

    Attributes:
        interval: Seconds between two polls, above 0.
        monotonic: Returns seconds of a clock that never goes back.
        sleep: Waits for a number of seconds.
    """

    interval: float = 1.0
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
