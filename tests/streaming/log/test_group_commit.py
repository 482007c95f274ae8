import asyncio
import errno
import functools
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import pytest

from tactful_streaming.errors import BackpressureError, LogError, LogWriteError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.group_commit import GroupCommit


class GatedLog:
    """A log, as far as a commit uses it, whose disk is as slow as the test wants."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.groups: list[int] = []
        self.gate = threading.Event()
        self.failure: Exception | None = None

    @property
    def end(self) -> int:
        return len(self.payloads)

    def append(self, payloads: Sequence[bytes]) -> int:
        assert self.gate.wait(120)
        if self.failure is not None:
            raise self.failure
        self.payloads += payloads
        self.groups.append(len(payloads))
        return len(self.payloads)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0.01)


@in_a_loop
async def test_every_caller_gets_its_own_offset(tmp_path: Path) -> None:
    with EmbeddedLog(tmp_path) as log:
        group = GroupCommit(log)

        async def client(name: int) -> None:
            for turn in range(20):
                batch = [b"%d.%d.%d" % (name, turn, i) for i in range(1 + (name + turn) % 4)]
                end = await group.append(batch)
                read = [payload for _, payload in log.read(end - len(batch), len(batch))]
                assert batch == read

        await asyncio.gather(*(client(name) for name in range(20)))
        await group.close()
        assert log.end == len(set(log.read(0, 10_000)))
        assert group.waiting_bytes == 0


@in_a_loop
async def test_requests_that_arrive_during_a_sync_share_the_next() -> None:
    log: Any = GatedLog()
    group = GroupCommit(log)
    first = asyncio.create_task(group.append([b"first"]))
    await settle()
    rest = [asyncio.create_task(group.append([b"%d" % i])) for i in range(50)]
    await settle()
    assert not first.done()
    log.gate.set()
    assert await first == 1
    assert [*range(2, 52)] == await asyncio.gather(*rest)
    assert log.groups == [1, 50]
    await group.close()


@in_a_loop
async def test_backpressure_refuses_before_memory_grows() -> None:
    log: Any = GatedLog()
    group = GroupCommit(log, max_waiting_bytes=1000)
    large = asyncio.create_task(group.append([b"x" * 5000]))
    await settle()
    with pytest.raises(BackpressureError) as caught:
        await group.append([b"y"])
    assert caught.value.retry_after >= 1
    log.gate.set()
    assert await large == 1
    assert await group.append([b"y"]) == 2
    await group.close()


@in_a_loop
async def test_a_failed_disk_fails_all_waiting_appends() -> None:
    log: Any = GatedLog()
    log.failure = LogWriteError(errno.ENOSPC, "No space left on device")
    group = GroupCommit(log)
    tasks = [asyncio.create_task(group.append([b"x"])) for _ in range(10)]
    await settle()
    log.gate.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, LogWriteError) for outcome in outcomes)
    assert log.payloads == []
    log.failure = None
    assert await group.append([b"x"]) == 1
    assert group.waiting_bytes == 0
    await group.close()


@in_a_loop
async def test_a_cancelled_append_does_not_disturb_others() -> None:
    log: Any = GatedLog()
    group = GroupCommit(log)
    gone = asyncio.create_task(group.append([b"gone"]))
    stays = asyncio.create_task(group.append([b"stays"]))
    await settle()
    gone.cancel()
    log.gate.set()
    assert await stays == 2
    await group.close()


@in_a_loop
async def test_one_oversized_record_fails_its_caller_only() -> None:
    log: Any = GatedLog()
    log.gate.set()
    group = GroupCommit(log)
    large = group.append([bytes(16 * 1024 * 1024 + 1)])
    outcomes = await asyncio.gather(group.append([b"a"]), large, return_exceptions=True)
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], LogError)
    assert await group.append([]) == 1
    await group.close()


@in_a_loop
async def test_close_writes_queued_appends() -> None:
    log: Any = GatedLog()
    group = GroupCommit(log)
    tasks = [asyncio.create_task(group.append([b"%d" % i])) for i in range(5)]
    await settle()
    closing = asyncio.create_task(group.close())
    await settle()
    with pytest.raises(LogError, match="closing"):
        await group.append([b"late"])
    log.gate.set()
    await closing
    assert await asyncio.gather(*tasks) == [1, 2, 3, 4, 5]
