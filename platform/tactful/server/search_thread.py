"""A thread of its own for searches of the catalogue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from tactful.catalogue.item_search import ItemSearch
from tactful.catalogue.request_context import FeatureSource

T = TypeVar("T")


class SearchThread:
    """Searches items, one search after the other, while the event loop and other threads go on.

    The common threads would all wait for a search that builds the index.
    """

    def __init__(self, source: FeatureSource, reading: AbstractContextManager[object]) -> None:
        """Search the items of `source`; `reading` is held while the engine is read."""
        self._search = ItemSearch(source, reading)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="item-search")

    async def run(self, find: Callable[[ItemSearch], T]) -> T:
        """Return what `find` returns, called in the thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, find, self._search)

    def close(self) -> None:
        """End the thread after the searches that wait."""
        self._executor.shutdown()
