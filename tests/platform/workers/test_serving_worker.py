"""What a worker does of itself from time to time."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tactful.config.settings import Settings
from tactful.util import malloc as heap
from tactful.workers import serving_worker
from tactful.workers.serving_worker import ServingWorker


class _Keeper:
    """Stands for all that a worker talks to and works with, and counts what is asked of it."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.counted_at = 0.0

    def refresh(self, reading: object) -> None:
        """Fails the first time, and counts what is popular every other time."""
        self.asked["refresh"] += 1
        if self.asked["refresh"] == 1:
            raise RuntimeError("the keeper is being replaced")
        self.counted_at += self.asked["refresh"] % 2

    def describe(self) -> dict[str, Any]:
        return {"champion": None, "items": 0}

    def tell(self, message: object) -> None:
        self.asked[type(message).__name__] += 1

    def ask(self, question: object, answer: object) -> list[Any]:
        self.asked[type(question).__name__] += 1
        return []


def test_it_follows_tells_counts_and_gives_memory_back_whatever_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper: Any = _Keeper()
    monkeypatch.setattr(serving_worker, "_REFRESH_S", 0.001)
    monkeypatch.setattr(serving_worker, "_COUNT_S", 0.001)
    monkeypatch.setattr(heap, "return_free_pages", lambda: keeper.asked.update(["tidied"]))
    worker = ServingWorker(
        Settings(), recommender=keeper, source=keeper, caller=keeper, refreshing=keeper
    )

    async def follow() -> None:
        following = asyncio.create_task(worker.follow())
        async with asyncio.timeout(30):
            while min(keeper.asked[each] for each in ("Count", "tidied")) < 3:
                await asyncio.sleep(0.001)
        following.cancel()

    asyncio.run(follow())
    assert set(keeper.asked) == {"Keys", "refresh", "Serves", "Count", "tidied"}
    assert min(keeper.asked.values()) >= 3
    # After the first that did not fail and each that counted, one of which may be under way.
    assert 0 <= 1 + keeper.counted_at - keeper.asked["tidied"] <= 1
