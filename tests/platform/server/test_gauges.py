"""Gauges of a server."""

from __future__ import annotations

import re
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tactful.metrics.registry import Metrics
from tactful.server.gauges import add_gauges


class Engine:
    """Engine with a size that may be read under the lock only."""

    watermark = 0
    missing = ()

    def __init__(self, nbytes: int, lock: threading.Lock) -> None:
        self._nbytes = nbytes
        self._lock = lock

    @property
    def nbytes(self) -> int:
        assert self._lock.locked()
        return self._nbytes


@pytest.mark.parametrize(
    ("size", "told"), [(0, 0), (490, 0), (7 * 2**20 - 490, 7), (7 * 2**20 + 490, 7), (2**30, 1024)]
)
def test_the_size_of_the_state_is_rounded(size: int, told: int) -> None:
    metrics, lock = Metrics(CollectorRegistry()), threading.Lock()
    backend: Any = SimpleNamespace(
        engine=Engine(size, lock),
        waiting_bytes=lambda: 0,
        problem=lambda: None,
        spooled=lambda: 0,
        rules=None,
        copied=None,
    )
    platform: Any = SimpleNamespace(
        metrics=metrics,
        lock=lock,
        backend=backend,
        engine=backend.engine,
        applier=SimpleNamespace(lag=0),
        recommendations=SimpleNamespace(admission=SimpleNamespace(waiting=0)),
        resources=SimpleNamespace(webhooks=None, installation=SimpleNamespace(clock=lambda: 0)),
    )
    add_gauges(platform)
    (value,) = re.findall(
        r"^tactful_engine_state_bytes (\S+)$", metrics.render().decode(), re.MULTILINE
    )
    assert float(value) == told * 2**20
