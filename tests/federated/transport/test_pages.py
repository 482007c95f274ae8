"""Pages over HTTP: enrolled ones take part beside other devices, all else is refused."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.federated.secure_population import AUTHORITY, session, wire

from tactful_federated.errors import SecureSumError
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.messages import (
    Enrolment,
    answer_text,
    encode,
    enrol_page,
    poll_text,
)
from tactful_federated.secagg.server import Payloads, SecureSumServer, sum_in_secret
from tactful_federated.transport.page_server import PageApp, round_routes
from tactful_federated.transport.pages import (
    Answer,
    JoinedTransports,
    PageTransport,
    Poll,
    Question,
)

SHOP, NOW = "https://shop.example", 1_790_000_000.0
WEIGHTS = np.arange(4, dtype=np.float32)


class FakePage:
    def __init__(self, authority: Ed25519PrivateKey = AUTHORITY) -> None:
        self.identity = Ed25519PrivateKey.generate()
        self.enrolment = enrol_page(authority, self.identity.public_key().public_bytes_raw())
        self._encoded = encode(self.enrolment)

    @property
    def device(self) -> int:
        return self.enrolment.device

    def poll(self, time_ms: int = int(1000 * NOW)) -> bytes:
        signature = self.identity.sign(poll_text(self._encoded, time_ms))
        return encode(Poll(self._encoded, time_ms, signature))

    def answer(self, ticket: bytes, data: bytes) -> bytes:
        signature = self.identity.sign(answer_text(self._encoded, ticket, data))
        return encode(Answer(self._encoded, ticket, data, signature))


def transport(timeout: float = 30.0, monotonic: Callable[[], float] = lambda: 0.0) -> PageTransport:
    return PageTransport(
        AUTHORITY.public_key(), timeout=timeout, now=lambda: NOW, monotonic=monotonic
    )


def read(data: bytes | None) -> Question:
    assert data is not None
    return msgspec.msgpack.decode(data, type=Question)


def requests(pages: PageTransport, *calls: tuple[str, str, bytes, str]) -> list[httpx.Response]:
    """Send method, path, body and origin of each request to the application, in order."""

    async def send() -> list[httpx.Response]:
        app = httpx.ASGITransport(PageApp(round_routes(pages), [SHOP]))
        async with httpx.AsyncClient(transport=app, base_url="http://pages") as client:
            return [
                await client.request(method, path, content=body, headers={"origin": origin})
                for method, path, body, origin in calls
            ]

    return asyncio.run(send())


def test_a_question_waits_for_the_page_and_comes_again_until_it_is_answered() -> None:
    pages, page = transport(), FakePage()
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(pages.exchange, 1, {page.device: b"question"}, WEIGHTS)
        while not pages._open:
            time.sleep(0.001)
        first, again = (read(asyncio.run(pages.poll(page.poll(), 0))) for _ in range(2))
        assert first == again
        assert (first.stage, first.data, first.weights) == (1, b"question", WEIGHTS.tobytes())
        pages.answer(page.answer(b"another ticket", b"wrong"))
        pages.answer(page.answer(first.ticket, b"right"))
        pages.answer(page.answer(first.ticket, b"late"))
        assert exchange.result(30) == {page.device: b"right"}
    assert asyncio.run(pages.poll(page.poll(), 0)) is None


def test_a_waiting_poll_gets_the_question_at_once() -> None:
    pages, page = transport(), FakePage()

    async def ask() -> bytes | None:
        waiting = asyncio.create_task(pages.poll(page.poll(), 30))
        while not pages._waiting:
            await asyncio.sleep(0)
        threading.Thread(
            target=pages.exchange, args=(2, {page.device: b"boxes"}, WEIGHTS), daemon=True
        ).start()
        question = await waiting
        pages.answer(page.answer(read(question).ticket, b"done"))
        return question

    assert read(asyncio.run(ask())).weights == b""


def test_pages_that_leave_or_stay_silent_are_left_out() -> None:
    pages, leaving, silent = transport(timeout=0.5), FakePage(), FakePage()
    questions = {leaving.device: b"question", silent.device: b"question"}
    with ThreadPoolExecutor(1) as pool:
        exchange = pool.submit(pages.exchange, 1, questions, WEIGHTS)
        while not pages._open and not exchange.done():
            time.sleep(0.001)
        if not exchange.done():
            question = asyncio.run(pages.poll(leaving.poll(), 0))
            if question:
                pages.answer(leaving.answer(read(question).ticket, b""))
        assert exchange.result(30) == {}


def test_pages_are_present_for_a_minute_after_a_request() -> None:
    clock = [0.0]
    pages, page = transport(monotonic=lambda: clock[0]), FakePage()
    assert pages.ids() == []
    asyncio.run(pages.poll(page.poll(), 0))
    clock[0] = 60.0
    assert pages.ids() == [page.device]
    clock[0] = 61.0
    assert pages.ids() == []


def forged(page: FakePage) -> Any:
    other = FakePage()
    enrolment = encode(page.enrolment)
    return encode(Poll(enrolment, 0, other.identity.sign(poll_text(enrolment, 0))))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        FakePage(Ed25519PrivateKey.generate()).poll(),
        FakePage().poll(int(1000 * NOW) + 121_000),
        FakePage().poll(int(1000 * NOW) - 121_000),
        encode(Poll(b"", 0, b"")),
        forged(FakePage()),
    ],
)
def test_strangers_and_recorded_polls_are_refused(body: bytes) -> None:
    pages = transport()
    with pytest.raises(SecureSumError):
        asyncio.run(pages.poll(body, 0))
    with pytest.raises(SecureSumError):
        pages.answer(body)
    (answer,) = requests(pages, ("POST", "/v1/device/poll", body, SHOP))
    assert answer.status_code == 401
    assert answer.json()["time"] == 1000 * NOW
    assert pages.ids() == []


def test_only_pages_of_named_origins_reach_the_two_routes() -> None:
    pages, page = transport(), FakePage()
    late = page.answer(b"t" * 16, b"data")
    answers = requests(
        pages,
        ("OPTIONS", "/v1/device/poll", b"", SHOP),
        ("POST", "/v1/device/answer", late, SHOP),
        ("POST", "/v1/device/answer", late, "https://other.example"),
        ("POST", "/v1/device/answer", late, "null"),
        ("GET", "/v1/device/poll", b"", SHOP),
        ("POST", "/v1/fleet/poll", b"", SHOP),
        ("POST", "/v1/device/other", b"", SHOP),
        ("POST", "/v1/device/answer", b"x" * (4 * 2**20 + 1), SHOP),
        ("POST", "/v1/device/answer", b"x", SHOP),
    )
    assert [answer.status_code for answer in answers] == [
        204, 204, 403, 403, 405, 404, 404, 413, 401,
    ]  # fmt: skip
    assert answers[0].headers["access-control-allow-headers"] == "content-type"
    assert answers[1].headers["access-control-allow-origin"] == SHOP
    assert "access-control-allow-origin" not in answers[2].headers
    assert json.loads(answers[-1].content)["code"] == "not_enrolled"


class Half:
    """Some of the devices of a wire, as a transport of their own."""

    def __init__(self, numbers: list[int], ask: Callable[[int, Payloads], Payloads]) -> None:
        self._numbers, self._ask, self.asked = numbers, ask, set[int]()

    def ids(self) -> list[int]:
        return self._numbers

    def exchange(self, stage: int, questions: Payloads, weights: Vector) -> Payloads:
        self.asked |= set(questions)
        return self._ask(stage, questions)


def test_devices_of_two_transports_are_in_one_sum() -> None:
    carried, of = wire(7)
    halves = [Half([1, 2, 3], carried.ask), Half([4, 5, 6, 7], carried.ask)]
    joined = JoinedTransports(halves)
    assert list(joined.ids()) == [1, 2, 3, 4, 5, 6, 7]
    server = SecureSumServer(of, AUTHORITY.public_key())
    total = sum_in_secret(
        server,
        dict.fromkeys(joined.ids(), encode(session(8))),
        lambda stage, questions: joined.exchange(stage, questions, WEIGHTS),
    )
    assert total.values.tolist() == sum(carried.vectors.values()).tolist()  # type: ignore[union-attr]
    assert [half.asked for half in halves] == [{1, 2, 3}, {4, 5, 6, 7}]


def test_the_number_of_a_page_follows_from_its_key() -> None:
    identity = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    first, again = (enrol_page(AUTHORITY, identity) for _ in range(2))
    assert first == again and isinstance(first, Enrolment)
    with pytest.raises(SecureSumError):
        enrol_page(AUTHORITY, identity[:31])
