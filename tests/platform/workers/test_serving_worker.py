"""Periodic refresh of a serving worker."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from tactful.config.settings import Settings
from tactful.util import process_tuning
from tactful.workers import serving_worker
from tactful.workers.serving_worker import ServingWorker


class FakeState:
    """Recommender, source and clients in one; counts the calls."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.counted_at = 0.0

    def refresh(self, reading: object) -> None:
        """Fail the first time, and count what is popular every other time."""
        self.calls["refresh"] += 1
        if self.calls["refresh"] == 1:
            raise RuntimeError("the state server is being replaced")
        self.counted_at += self.calls["refresh"] % 2

    def describe(self) -> dict[str, Any]:
        return {"champion": None, "items": 0}

    def notify(self, message: object) -> None:
        self.calls[type(message).__name__] += 1

    def request(self, request: object, kind: object) -> list[Any]:
        self.calls[type(request).__name__] += 1
        return []


def test_refresh_reports_and_trims_despite_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, items, reports, metrics and freed memory follow, whatever fails."""
    state: Any = FakeState()
    monkeypatch.setattr(serving_worker, "_REFRESH_S", 0.001)
    monkeypatch.setattr(serving_worker, "_METRICS_S", 0.001)
    monkeypatch.setattr(
        process_tuning, "return_free_pages", lambda: state.calls.update(["trimmed"])
    )
    worker = ServingWorker(
        Settings(), recommender=state, source=state, client=state, refresh_client=state
    )

    async def refresh() -> None:
        refreshing = asyncio.create_task(worker.refresh())
        async with asyncio.timeout(30):
            while min(state.calls[name] for name in ("MetricsNotice", "trimmed")) < 3:
                await asyncio.sleep(0.001)
        refreshing.cancel()

    asyncio.run(refresh())
    assert set(state.calls) == {
        *("KeysRequest", "refresh", "ServedNotice", "MetricsNotice", "trimmed")
    }
    assert min(state.calls.values()) >= 3
    # After the first that did not fail and each that counted, one of which may be under way.
    assert 0 <= 1 + state.counted_at - state.calls["trimmed"] <= 1
