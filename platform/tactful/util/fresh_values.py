"""Values that are expensive to compute, kept for a short time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FreshValues(Generic[T]):
    """Computes one value at a time, and keeps each until it is old."""

    def __init__(self, oldest_ms: int, clock: Callable[[], int]) -> None:
        """Keep values for `oldest_ms` by a clock, epoch milliseconds."""
        self._oldest_ms = oldest_ms
        self._clock = clock
        self._computing = threading.Lock()
        self._values: dict[Hashable, tuple[int, T]] = {}

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of a key, computed unless a fresh one is known; other callers wait."""
        with self._computing:
            now = self._clock()
            self._values = {
                other: (at, value)
                for other, (at, value) in self._values.items()
                if 0 <= now - at < self._oldest_ms
            }
            if key not in self._values:
                self._values[key] = now, compute()
            return self._values[key][1]
