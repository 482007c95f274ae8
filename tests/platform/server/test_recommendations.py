"""Read-your-writes: waits end when writes are visible, here and with workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from tactful.schemas.problems import ProblemError
from tactful.server.recommendations import VisibilityTracker


def tracker(applied: dict[int, int], shared: Any = None) -> VisibilityTracker:
    applier: Any = SimpleNamespace(applied=applied)
    return VisibilityTracker(applier, shared)


def test_an_engine_thread_wakes_those_whose_offsets_are_reached() -> None:
    applied = {0: 3, 1: 5}
    visible = tracker(applied)

    def apply() -> None:
        applied[0] = 4
        visible.progressed()

    async def story() -> None:
        assert await visible.reach({0: 3, 1: 5}, 0.0)
        near, far = (asyncio.create_task(visible.reach({0: at}, 60)) for at in (4, 9))
        await asyncio.sleep(0)
        threading.Thread(target=apply).start()
        assert await near
        assert not far.done()
        far.cancel()
        assert not await visible.reach({0: 9}, 0.01)

    asyncio.run(story())
    visible.progressed()  # though the loop is closed


class Marks:
    """Workers that advance one record with each read, or cannot be read."""

    def __init__(self) -> None:
        self.asked: list[Sequence[int]] = []

    def marks(self, partitions: Sequence[int]) -> dict[int, int]:
        self.asked.append(partitions)
        if len(self.asked) == 2:
            raise ProblemError("not_ready", retry_after=1)
        return dict.fromkeys(partitions, len(self.asked))


def test_workers_are_asked_as_long_as_somebody_waits_for_them() -> None:
    marks: Any = Marks()
    visible = tracker({0: 9, 1: 9}, marks)
    assert visible.offsets == {0: 0, 1: 0}

    async def story() -> None:
        assert await visible.reach({1: 3}, 60)
        assert visible.offsets == {0: 0, 1: 3}
        before = len(marks.asked)
        await asyncio.sleep(0.05)
        assert len(marks.asked) == before
        await visible.read_marks()

    asyncio.run(story())
    assert marks.asked == [[1], [1], [1], [0, 1]]
    assert visible.offsets == {0: 4, 1: 4}
