"""A lock that counts its uses, so that background work can see whether requests need it."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager


class CountedLock(AbstractContextManager[None]):
    """A lock for requests; background work takes `inner`, which is not counted."""

    def __init__(self) -> None:
        """Begin with none."""
        self.inner = threading.Lock()
        self.uses = 0  # grows with each use; two at once may count as one

    def __enter__(self) -> None:
        """Acquire the lock."""
        self.uses += 1
        self.inner.acquire()

    def __exit__(self, *raised: object) -> None:
        """Release the lock."""
        self.inner.release()
