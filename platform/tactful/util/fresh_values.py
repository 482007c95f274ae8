"""Values that are expensive to compute, kept for a short time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from tactful.errors import StorageError

T = TypeVar("T")

_WAIT_S = 5.0


class StillComputing(StorageError):
    """Another thread computes a value of the same kind, and has not finished in time."""


class FreshValues(Generic[T]):
    """Computes one value at a time, and keeps each until it is old."""

    def __init__(
        self, oldest_ms: int, clock: Callable[[], int], *, wait_s: float = _WAIT_S
    ) -> None:
        """Keep values for `oldest_ms` by a clock, epoch milliseconds.

        A caller waits `wait_s` for another one's computation, so that few callers hold the threads
        that serve requests.
        """
        self._oldest_ms = oldest_ms
        self._clock = clock
        self._wait_s = wait_s
        self._computing = threading.Lock()
        self._values: dict[Hashable, tuple[int, T]] = {}

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Return the value of a key, computed unless a fresh one is known.

        Raises:
            StillComputing: if another thread computes for too long.
        """
        known = self._values.get(key)
        if known is not None and self._is_fresh(known[0]):
            return known[1]
        if not self._computing.acquire(timeout=self._wait_s):
            raise StillComputing("the numbers are being computed: try again in some seconds")
        try:
            values = {it: entry for it, entry in self._values.items() if self._is_fresh(entry[0])}
            if key not in values:
                value = compute()
                # A value counts as new when it is complete: computing may take longer than it lasts
                values[key] = self._clock(), value
            self._values = values
            return values[key][1]
        finally:
            self._computing.release()

    def _is_fresh(self, at: int) -> bool:
        return 0 <= self._clock() - at < self._oldest_ms
