"""Inter-process requests: order of responses, problems, time-outs, lost ends."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from tactful.metadata.key_cache import ApiKey
from tactful.schemas.problems import ProblemError
from tactful.workers import ipc
from tactful.workers.ipc import AsyncClient, BlockingClient, FeaturesResponse, PositionRequest


def test_responses_in_any_order_match_their_requests() -> None:
    async def talk() -> list[Any]:
        ours, theirs = socket.socketpair()
        received: list[tuple[int, bytes]] = []
        other = ipc.FrameProtocol(lambda number, payload: received.append((number, payload)))
        await asyncio.get_running_loop().create_unix_connection(lambda: other, sock=theirs)
        client = AsyncClient(lambda: None)
        await client.open(ours)
        waiting = [asyncio.create_task(client.request(PositionRequest(n), int)) for n in range(20)]
        while len(received) < 20:
            await asyncio.sleep(0)
        for number, payload in reversed(received):
            request = ipc.decode_request(payload)
            assert isinstance(request, PositionRequest)
            other.send(number, ipc.encode_response(request.position))
        responses = await asyncio.gather(*waiting)
        other.close()
        client.close()
        return responses

    assert asyncio.run(talk()) == [*range(20)]


def test_a_request_and_a_problem_arrive_unchanged() -> None:
    key = ApiKey("0f3a9c21", frozenset({"admin"}), "é", 5, None)
    place, headers = ("PUT", "/v1/items", {"a": "é"}, b"q=1"), {b"x": b"\xff"}
    forward = ipc.ForwardRequest(*place, headers, key, b"\x00")
    features = FeaturesResponse({"a": 1.0, "b": {"x": 2.0}, "c": [("i", 3)]}, None, "0:1")
    ours, theirs = socket.socketpair()

    def reply() -> None:
        head = theirs.recv(1 << 16)
        assert ipc.decode_request(head[12:]) == forward
        problem = ProblemError("invalid", "why", field="$.after", retry_after=3, close=True)
        payloads = (ipc.encode_response(features), ipc.encode_problem(problem))
        for number, payload in enumerate(payloads):
            frame = len(payload).to_bytes(4, "little") + number.to_bytes(8, "little") + payload
            for begin in range(0, len(frame), 7):  # split at arbitrary places
                theirs.sendall(frame[begin : begin + 7])

    thread = threading.Thread(target=reply)
    thread.start()
    client = BlockingClient(ours)
    response = client.request(forward, FeaturesResponse)
    assert response.values == {"a": 1.0, "b": {"x": 2.0}, "c": [["i", 3]]}
    assert (response.offset, response.position) == (None, "0:1")
    with pytest.raises(ProblemError) as refused:
        client.request(ipc.ConfigRequest(), bytes)
    assert (refused.value.kind.code, refused.value.detail) == ("invalid", "why")
    assert (refused.value.field, refused.value.retry_after) == ("$.after", 3)
    assert refused.value.close
    thread.join()


def test_a_late_response_is_skipped() -> None:
    ours, theirs = socket.socketpair()
    client = BlockingClient(ours, timeout_s=0.05)
    with pytest.raises(ProblemError) as late:
        client.request(ipc.FeaturesRequest("user", "u", 1), int)
    assert late.value.kind.code == "not_ready"
    for number in range(2):
        payload = ipc.encode_response(number)
        theirs.sendall(len(payload).to_bytes(4, "little") + number.to_bytes(8, "little") + payload)
    assert client.request(ipc.FeaturesRequest("user", "u", 1), int) == 1


def test_requests_fail_at_once_when_the_other_process_ends() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(ProblemError, match="does not answer"):
        BlockingClient(ours).request(ipc.ConfigRequest(), bytes)

    async def talk() -> None:
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()
        client = AsyncClient(lost.set)
        await client.open(ours)
        waiting = asyncio.create_task(client.request(ipc.ConfigRequest(), bytes))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(ProblemError, match="does not answer"):
            await waiting
        await lost.wait()
        with pytest.raises(ProblemError, match="does not answer"):
            await client.request(ipc.ConfigRequest(), bytes)

    asyncio.run(talk())
