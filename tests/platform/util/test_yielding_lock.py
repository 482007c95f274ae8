"""Work in the background never keeps a lock from those who answer."""

from __future__ import annotations

import threading
import time

import pytest

from tactful.util.yielding_lock import YieldingLock

_PARTS = 100


def test_who_waits_has_the_lock_before_the_next_parts_are_through() -> None:
    lock, waiting = threading.Lock(), threading.Event()
    order: list[str] = []

    def answer() -> None:
        waiting.set()
        with lock:
            order.append("answer")

    politely = YieldingLock(lock)
    answering = threading.Thread(target=answer)
    with politely:
        answering.start()
        waiting.wait(60)
        time.sleep(0.05)
    for _ in range(_PARTS):
        with politely:
            order.append("part")
    answering.join(60)
    assert order.count("part") == _PARTS
    assert "answer" in order[:-1]


def test_the_lock_is_free_after_an_error() -> None:
    lock = threading.Lock()
    with pytest.raises(ValueError, match="planted"), YieldingLock(lock):
        raise ValueError("planted")
    assert not lock.locked()
