"""Chosen user ids cost the reader of JSON no more than others."""

import random
import time

import numpy as np
import pytest
from tests.streaming.streams import START, definitions

from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.state.store import MemoryState

COUNT = 2_000
MIX = 0x9E3779B97F4A7C15


def colliding_ids() -> list[str]:
    """Return ids of eight letters in one slot of the compiled reader's table, of any size.

    Its hash had no key and is undone: a last product below 2^32 is in slot 0.
    """
    undo = np.uint64(pow(MIX, -1, 1 << 64))
    products = np.random.default_rng(1).integers(0, 1 << 32, 8_000_000, np.uint64)
    value = products * undo
    value ^= value >> np.uint64(32)
    words = (value * undo) ^ np.uint64(8 * MIX % (1 << 64))
    texts = words.view(np.uint8).reshape(-1, 8)
    plain = ((texts > 0x20) & (texts < 0x7F) & (texts != 0x22) & (texts != 0x5C)).all(axis=1)
    ids = [row.tobytes().decode() for row in texts[plain]]
    return list(dict.fromkeys(ids))[:COUNT]


def cpu_s(ids: list[str]) -> float:
    """Return the least CPU time, of five, to apply an event of each user."""
    payloads = [
        b'{"kind":"event","event_id":"%d","type":"view","timestamp":%d,"user_id":"%s"}'
        % (number, START + number, user.encode())
        for number, user in enumerate(ids)
    ]
    records, times = [*enumerate(payloads)], []
    for _ in range(5):
        engine = Engine(definitions(), MemoryState(), EngineOptions(watermark_delay_ms=0))
        begin = time.process_time()
        assert engine.apply(records).applied == len(ids)
        times.append(time.process_time() - begin)
    return min(times)


@pytest.mark.slow
def test_hash_flooding() -> None:
    """Ids that made the removed reader 180 to 1,275 times as slow take the time of random ones."""
    chosen, rng = colliding_ids(), random.Random(1)
    assert len(chosen) == COUNT
    others = ["".join(rng.choices("abcdefghijklmnop", k=8)) for _ in chosen]
    assert cpu_s(chosen) < 4 * cpu_s(others)
