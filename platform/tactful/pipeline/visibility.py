"""How far the log shows in features by now, and who waits for more of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from tactful.pipeline.online_features import SharedFeatures
from tactful.schemas.positions import Offsets, reaches
from tactful.schemas.problems import ProblemError

_MARKS_S = 0.003


class VisibilityTracker:
    """Offsets up to which everything shows: here, and in what workers keep of people."""

    def __init__(
        self, applied: Callable[[], Offsets], shared: SharedFeatures | None = None
    ) -> None:
        """Nobody waits yet.

        Args:
            applied: how far the engine of this process has applied the log.
            shared: where the features of people are, if not in the engine.
        """
        self._applied = applied
        self._shared = shared
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[tuple[Offsets, asyncio.Future[None]]] = []
        self._marks: Offsets = {}
        self._watching: asyncio.Task[None] | None = None

    @property
    def offsets(self) -> Offsets:
        """By partition."""
        applied = self._applied()
        if self._shared is None:
            return applied
        return {n: min(at, self._marks.get(n, 0)) for n, at in applied.items()}

    async def reach(self, wanted: Offsets, timeout: float) -> bool:
        """Wait until everything up to some offsets shows; whether it does in `timeout` seconds."""
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
        """Tell those who wait; called in the engine thread."""
        if self._waiters and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._wake)

    async def look_at_marks(self) -> None:
        """Ask how far workers are, where they keep what is known of people."""
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
        """Look how far the workers are, as long as somebody waits for them."""
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
