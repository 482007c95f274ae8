"""A thread of its own for searches of the catalogue."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from tactful.schemas.problems import ProblemError

T = TypeVar("T")
Index = TypeVar("Index")


class SearchThread(Generic[Index]):
    """Searches items, one search after the other, while the event loop and other threads go on.

    The common threads would all wait for a search that builds the index.
    """

    def __init__(self, index: Index, *, queue: int = sys.maxsize) -> None:
        """Search by `index`, which only the thread uses; `queue` searches may wait."""
        self._index = index
        self._queue = queue
        self._calls = 0  # waiting, and one that runs
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="item-search")

    async def run(self, find: Callable[[Index], T]) -> T:
        """Return what `find` returns, called in the thread.

        Raises:
            ProblemError: if too many searches wait.
        """
        self.check()
        self._calls += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, find, self._index)
        finally:
            self._calls -= 1

    def check(self) -> None:
        """Raise `ProblemError` if too many searches wait."""
        if self._calls > self._queue:
            raise ProblemError("overloaded", "too many searches wait: send it again", retry_after=1)

    def close(self) -> None:
        """End the thread after the searches that wait."""
        self._executor.shutdown()
