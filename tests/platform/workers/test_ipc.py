"""Questions between processes: answered in any order, refused as they were, ended at once."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest

from tactful.schemas.problems import ProblemError
from tactful.workers.ipc import (
    Asker,
    Caller,
    Forward,
    Frames,
    Hello,
    Reach,
    Read,
    Seen,
    answer,
    decode_question,
    refusal,
)


def test_answers_find_their_questions_whatever_their_order() -> None:
    async def talk() -> list[Any]:
        ours, theirs = socket.socketpair()
        asked: list[tuple[int, bytes]] = []
        other = Frames(lambda number, payload: asked.append((number, payload)))
        await asyncio.get_running_loop().create_unix_connection(lambda: other, sock=theirs)
        caller = Caller(lambda: None)
        await caller.open(ours)
        waiting = [asyncio.create_task(caller.ask(Reach(n), int)) for n in range(20)]
        while len(asked) < 20:
            await asyncio.sleep(0)
        for number, payload in reversed(asked):
            question = decode_question(payload)
            assert isinstance(question, Reach)
            other.send(number, answer(question.position))
        found = await asyncio.gather(*waiting)
        other.close()
        caller.close()
        return found

    assert asyncio.run(talk()) == [*range(20)]


def test_a_question_survives_the_way_and_a_refusal_is_the_same_problem() -> None:
    forward = Forward("PUT", "/v1/items", {"a": "é"}, b"q=1", {b"x": b"\xff"}, True, False, b"\x00")
    seen = Seen({"a": 1.0, "b": {"x": 2.0}, "c": [("i", 3)]}, None, "0:1")
    ours, theirs = socket.socketpair()

    def reply() -> None:
        head = theirs.recv(1 << 16)
        assert decode_question(head[12:]) == forward
        payloads = (
            answer(seen),
            refusal(ProblemError("invalid", "why", field="$.after", retry_after=3, close=True)),
        )
        for number, payload in enumerate(payloads):
            frame = len(payload).to_bytes(4, "little") + number.to_bytes(8, "little") + payload
            for begin in range(0, len(frame), 7):  # cut anywhere
                theirs.sendall(frame[begin : begin + 7])

    thread = threading.Thread(target=reply)
    thread.start()
    asker = Asker(ours)
    found = asker.ask(forward, Seen)
    assert found.values == {"a": 1.0, "b": {"x": 2.0}, "c": [["i", 3]]}
    assert (found.offset, found.position) == (None, "0:1")
    with pytest.raises(ProblemError) as refused:
        asker.ask(Hello(), bytes)
    assert (refused.value.kind.code, refused.value.detail) == ("invalid", "why")
    assert (refused.value.field, refused.value.retry_after) == ("$.after", 3)
    assert refused.value.close
    thread.join()


def test_an_answer_that_came_too_late_is_passed_over() -> None:
    ours, theirs = socket.socketpair()
    asker = Asker(ours, timeout_s=0.05)
    with pytest.raises(ProblemError) as late:
        asker.ask(Read("user", "u", 1), int)
    assert late.value.kind.code == "not_ready"
    for number in range(2):
        payload = answer(number)
        theirs.sendall(len(payload).to_bytes(4, "little") + number.to_bytes(8, "little") + payload)
    assert asker.ask(Read("user", "u", 1), int) == 1


def test_who_waits_for_a_process_that_died_is_told_at_once() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(ProblemError, match="does not answer"):
        Asker(ours).ask(Hello(), bytes)

    async def talk() -> None:
        ours, theirs = socket.socketpair()
        lost = asyncio.Event()
        caller = Caller(lost.set)
        await caller.open(ours)
        waiting = asyncio.create_task(caller.ask(Hello(), bytes))
        await asyncio.sleep(0)
        theirs.close()
        with pytest.raises(ProblemError, match="does not answer"):
            await waiting
        await lost.wait()
        # And whoever asks afterwards.
        with pytest.raises(ProblemError, match="does not answer"):
            await caller.ask(Hello(), bytes)

    asyncio.run(talk())
