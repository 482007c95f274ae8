"""The benchmark of ingestion compares servers that differ in the log, and only there."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.serving.ingest import KINDS, Load, MemoryLog, _send, _servers
from tactful_streaming.errors import OffsetError
from tactful_streaming.log.embedded_log import EmbeddedLog


def test_log_in_memory_reads_as_the_one_on_disk(tmp_path: Path) -> None:
    payloads = [b"one", b"two", b"", b"four"]
    with EmbeddedLog(tmp_path / "log") as kept:
        memory = MemoryLog()
        for log in (kept, memory):
            log.append(payloads[:1])
            assert log.append(payloads[1:]) == 4
        for offset, limit in itertools.product(range(5), range(6)):
            assert memory.read(offset, limit) == kept.read(offset, limit)
        assert (memory.begin, memory.end) == (kept.begin, kept.end)
        for log in (kept, memory):
            with pytest.raises(OffsetError):
                log.read(5, 1)


@pytest.mark.slow
def test_what_is_acknowledged_is_on_disk_where_the_figure_says_so(tmp_path: Path) -> None:
    load = Load("batch", batch=10, senders=2, requests=20)
    numbers = itertools.count()
    with _servers(tmp_path) as servers:
        for kind in KINDS:
            sent = _send(servers[kind], load, numbers)
            assert sent.events == 200
            assert len(sent.waits_s) == 20
            assert sent.applied_s >= sent.acknowledged_s > 0
            if kind == "memory":
                assert not (tmp_path / kind / "log").exists()
                continue
            with EmbeddedLog(tmp_path / kind / "log", read_only=True) as log:
                assert log.end == 200
