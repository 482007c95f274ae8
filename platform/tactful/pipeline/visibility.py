"""Read-your-writes: the visible offsets, and requests that wait for others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from tactful.pipeline.online_features import SharedFeatures
from tactful.schemas.positions import Offsets, reaches
from tactful.schemas.problems import ProblemError

_MARKS_S = 0.003


class VisibilityTracker:
    """Tracks the offsets that features show, here and in the workers' online store."""

    def __init__(
        self, applied: Callable[[], Offsets], shared: SharedFeatures | None = None
    ) -> None:
        """Start without waiting requests.

        Args:
            applied: returns the offsets that this process's engine has applied.
            shared: features of users in the online store, if workers compute them.
        """
        self._applied = applied
        self._shared = shared
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[tuple[Offsets, asyncio.Future[None]]] = []
        self._marks: Offsets = {}
        self._watching: asyncio.Task[None] | None = None

    @property
    def offsets(self) -> Offsets:
        """Visible offsets by partition."""
        applied = self._applied()
        if self._shared is None:
            return applied
        return {n: min(at, self._marks.get(n, 0)) for n, at in applied.items()}

    async def reach(self, wanted: Offsets, timeout: float) -> bool:
        """Wait for offsets; return whether they are visible within `timeout` seconds."""
        if reaches(self.offsets, wanted):
            return True
        self._loop = asyncio.get_running_loop()
        reached: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((wanted, reached))
        if self._shared is not None and self._watching is None:
            self._watching = asyncio.create_task(self._watch_marks(self._shared))
        self._wake()
        try:
            async with asyncio.timeout(timeout):
                await reached
        except TimeoutError:
            return False
        return True

    def progressed(self) -> None:
        """Wake waiting requests; called in the engine thread."""
        if self._waiters and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._wake)

    async def read_marks(self) -> None:
        """Read the workers' offsets from the online store."""
        if self._shared is not None:
            await self._look(self._shared, self._applied())

    def _wake(self) -> None:
        offsets = self.offsets
        waiting: list[tuple[Offsets, asyncio.Future[None]]] = []
        for wanted, reached in self._waiters:
            if reached.done():
                continue
            if reaches(offsets, wanted):
                reached.set_result(None)
            else:
                waiting.append((wanted, reached))
        self._waiters = waiting

    async def _watch_marks(self, shared: SharedFeatures) -> None:
        """Read the workers' offsets while requests wait."""
        try:
            while self._waiters:
                await self._look(
                    shared, {number for wanted, _ in self._waiters for number in wanted}
                )
                self._wake()
                await asyncio.sleep(_MARKS_S)
        finally:
            self._watching = None

    async def _look(self, shared: SharedFeatures, partitions: Iterable[int]) -> None:
        with contextlib.suppress(ProblemError):
            marks = await asyncio.to_thread(shared.marks, list(partitions))
            self._marks = {**self._marks, **marks}
