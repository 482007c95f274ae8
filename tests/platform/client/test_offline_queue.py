"""The client's queue: what survives, what it refuses, and that nothing counts twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.support import Live, now_ms

from tactful.client import AsyncClient, Client, OfflineQueue
from tactful.errors import Busy, ConnectionFailed, NotAllowed, QueueError, QueueFull


def bodies(*numbers: int) -> list[bytes]:
    return [b'{"n":%d}' % number for number in numbers]


def oldest(queue: OfflineQueue, count: int = 9) -> Any:
    waiting = queue.oldest(count=count, max_bytes=1000)
    assert waiting is not None
    return waiting


def answering(answer: Callable[[list[Any]], httpx.Response], queue: OfflineQueue) -> Client:
    def handle(request: httpx.Request) -> httpx.Response:
        return answer(json.loads(request.content))

    transport = httpx.MockTransport(handle)
    return Client(transport=transport, queue=queue, retries=0, sleep=lambda _: None)


def taken(events: list[Any], **fields: Any) -> httpx.Response:
    answer = {"accepted": len(events), "duplicates": 0, "rejected": [], "position": 1}
    return httpx.Response(202, json=answer | fields)


def problem(status: int) -> httpx.Response:
    return httpx.Response(status, json={"title": "No", "status": status})


def test_it_keeps_the_order_and_gives_the_rest_to_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "queue"
    queue = OfflineQueue(path)
    assert queue.put(bodies(1, 2)) == 2
    queue.put(bodies(3))
    waiting = oldest(queue, 2)
    assert waiting.bodies == bodies(1, 2)
    queue.remove(waiting)
    queue.close()
    again = OfflineQueue(path)
    assert len(again) == 1
    again.put(bodies(4))
    waiting = oldest(again)
    assert waiting.bodies == bodies(3, 4)
    again.remove(waiting)
    assert again.oldest(count=9, max_bytes=1000) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_many_that_open_a_new_file_at_once_share_it(tmp_path: Path) -> None:
    def open_one(path: Path) -> None:
        queue = OfflineQueue(path)
        queue.put(bodies(1))
        queue.close()

    for turn in range(10):
        path = tmp_path / f"{turn}"
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(open_one, [path] * 6))
        assert len(OfflineQueue(path)) == 6


def test_a_batch_is_bounded_by_bytes_and_has_one_event_at_least() -> None:
    queue = OfflineQueue(None)
    queue.put([b"x" * 10, b"y" * 10, b"z" * 10])
    sizes = []
    while (waiting := queue.oldest(count=9, max_bytes=25)) is not None:
        sizes.append(len(waiting.bodies))
        queue.remove(waiting)
    assert sizes == [2, 1]
    queue.put([b"x" * 100])
    assert queue.oldest(count=9, max_bytes=25) is not None


def test_a_full_queue_takes_nothing_and_has_room_again_later(tmp_path: Path) -> None:
    queue = OfflineQueue(tmp_path / "queue", max_bytes=20)
    queue.put([b"x" * 15])
    with pytest.raises(QueueFull, match="flush"):
        queue.put([b"y" * 3, b"z" * 3])
    assert len(queue) == 1
    waiting = oldest(queue)
    queue.remove(waiting)
    queue.remove(waiting)  # another process was faster: it is not counted twice
    queue.put([b"y" * 20])
    with pytest.raises(QueueFull):
        queue.put([b"z"])


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    one, other = OfflineQueue(tmp_path / "queue"), OfflineQueue(tmp_path / "queue")
    one.put(bodies(1))
    other.put(bodies(2))
    waiting = oldest(one)
    assert waiting.bodies == bodies(1, 2)
    other.put(bodies(3))
    one.remove(waiting)
    assert len(other) == 1


@pytest.mark.parametrize("damage", ["no folder", "no queue", "cut off"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / ("absent/queue" if damage == "no folder" else "queue")
    if damage == "no queue":
        path.write_bytes(b"this is no queue" * 100)
    if damage == "cut off":
        OfflineQueue(path).close()
        path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(QueueError, match="queue cannot be used as queue"):
        OfflineQueue(path).put(bodies(1))


def test_a_client_without_a_queue_says_how_to_get_one() -> None:
    client = Client(transport=httpx.MockTransport(lambda _: taken([])))
    with pytest.raises(QueueError, match="OfflineQueue"):
        client.enqueue([{}])
    with pytest.raises(QueueError, match="OfflineQueue"):
        client.flush()


def test_what_waits_is_sent_in_order_with_the_ids_it_was_given() -> None:
    sent: list[Any] = []

    def answer(events: list[Any]) -> httpx.Response:
        sent.append(events)
        return taken(events, duplicates=1)

    client = answering(answer, OfflineQueue(None))
    assert client.enqueue([{"n": n} for n in range(700)]) == 700
    assert client.enqueue([{"n": 700, "event_id": "mine"}]) == 1
    done = client.flush()
    assert (done.accepted, done.duplicates, done.refused, done.stopped) == (701, 2, [], None)
    assert [len(batch) for batch in sent] == [500, 201]
    events = [event for batch in sent for event in batch]
    assert [event["n"] for event in events] == list(range(701))
    assert len({event["event_id"] for event in events}) == 701
    assert events[-1]["event_id"] == "mine"
    assert client.flush().accepted == 0


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (httpx.ConnectError("offline"), ConnectionFailed),
        (problem(503), Busy),
        (problem(401), NotAllowed),
        (problem(404), ValueError),
        (problem(400), ValueError),
    ],
)
def test_unanswered_stays(failure: httpx.Response | Exception, expected: type[Exception]) -> None:
    online = False
    sent: list[Any] = []

    def answer(events: list[Any]) -> httpx.Response:
        if online or len(sent) < 500:
            sent.extend(events)
            return taken(events)
        if isinstance(failure, Exception):
            raise failure
        return failure

    queue = OfflineQueue(None)
    client = answering(answer, queue)
    client.enqueue([{"n": n} for n in range(502)])
    done = client.flush()
    assert isinstance(done.stopped, expected)
    assert (done.accepted, len(queue)) == (500, 2)
    online = True
    done = client.flush()
    assert (done.accepted, done.stopped, len(queue)) == (2, None, 0)
    assert [event["n"] for event in sent] == list(range(502))


def test_an_impossible_event_does_not_hold_others_up(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[int] = []

    def answer(events: list[Any]) -> httpx.Response:
        if any(event["n"] == 3 for event in events):
            return problem(413)
        sent.extend(event["n"] for event in events)
        wrong = [index for index, event in enumerate(events) if event["n"] == 5]
        refused = [{"index": n, "code": "unknown_type", "message": "no"} for n in wrong]
        return taken(events, accepted=len(events) - len(refused), rejected=refused)

    client = answering(answer, OfflineQueue(None))
    client.enqueue([{"n": n, "user_id": "secret-user"} for n in range(8)])
    done = client.flush()
    assert done.stopped is None
    assert sorted(sent) == [0, 1, 2, 4, 5, 6, 7]
    refused = [(event["n"], why.code) for event, why in done.refused]
    assert refused == [(3, "too_large"), (5, "unknown_type")]
    assert "too_large" in caplog.text
    assert "secret-user" not in caplog.text


def test_the_async_client_has_the_same_queue(tmp_path: Path) -> None:
    async def run() -> tuple[int, int]:
        transport = httpx.MockTransport(lambda request: taken(json.loads(request.content)))
        queue = OfflineQueue(tmp_path / "queue")
        async with AsyncClient(transport=transport, queue=queue) as client:
            put = await client.enqueue([{"n": 1}])
            return put, (await client.flush()).accepted

    assert asyncio.run(run()) == (1, 1)


_VICTIM = """
import sys
from tactful.client import Client, OfflineQueue
client = Client(sys.argv[1], queue=OfflineQueue(sys.argv[2]), retries=0)
for number in range(100_000):
    client.enqueue([{"type": "view", "timestamp": int(sys.argv[3]), "user_id": "u"}])
    print(number, flush=True)
    if number % 3 == 0:
        client.flush()
"""


@pytest.mark.slow
def test_a_killed_sender_loses_and_repeats_nothing(live: Live, tmp_path: Path) -> None:
    path, total = tmp_path / "queue", 0
    for lives in range(4):
        arguments = [sys.executable, "-c", _VICTIM, live.url, str(path), str(now_ms())]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            for _ in range(20 + 7 * lives):
                victim.stdout.readline()
            os.kill(victim.pid, signal.SIGKILL)
            told = victim.stdout.read().splitlines()
        total += 20 + 7 * lives + len(told)
    with Client(live.url, queue=OfflineQueue(path)) as client:
        done = client.flush()
        assert done.stopped is None
        # An event may be in the queue although nobody was told so: one for each life at most.
        end = client.events([{"type": "x.end", "timestamp": now_ms(), "user_id": "v"}])
        views = live.views("u", int(end.position))
        assert total <= views <= total + 4


def test_planted_event_without_an_id_counts_twice(live: Live, tmp_path: Path) -> None:
    queue = OfflineQueue(tmp_path / "queue")
    queue.put([json.dumps({"type": "view", "timestamp": now_ms(), "user_id": "u"}).encode()])
    waiting = oldest(queue, 1)
    with Client(live.url, queue=queue) as client:
        client.flush()
        queue.put(waiting.bodies)  # as after a crash between the answer and the removal
        client.flush()
        end = client.events([{"type": "x.end", "timestamp": now_ms(), "user_id": "v"}])
        assert live.views("u", int(end.position)) == 2
