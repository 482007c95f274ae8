"""Enrolment of pages over HTTP: one key for an account, a limit for an hour, no strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.federated.secure_population import AUTHORITY

from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.messages import Enrolment, decode, is_enrolled
from tactful_federated.transport.page_enrolment import (
    AlreadyEnrolledError,
    EnrolmentRateError,
    PageEnrolments,
    enrolment_route,
)
from tactful_federated.transport.page_server import PageApp

SHOP = "https://shop.example"
HOUR_S = 3600.0


def key() -> bytes:
    return Ed25519PrivateKey.generate().public_key().public_bytes_raw()


class Clock:
    seconds = 10.5 * HOUR_S

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def register(tmp_path: Path, clock: Clock) -> Iterator[PageEnrolments]:
    with closing(PageEnrolments(tmp_path / "pages.db", AUTHORITY, per_hour=3, now=clock)) as pages:
        yield pages


def test_an_account_gets_one_certified_key_and_the_same_again(register: PageEnrolments) -> None:
    first = key()
    enrolled = register.enrol(b"ann", first)
    enrolment = decode(enrolled, Enrolment)
    assert enrolment.identity == first and is_enrolled(enrolment, AUTHORITY.public_key())
    assert register.enrol(b"ann", first) == enrolled
    with pytest.raises(AlreadyEnrolledError):
        register.enrol(b"ann", key())
    with pytest.raises(AlreadyEnrolledError):
        register.enrol(b"bob", first)
    assert register.enrol(b"bob", key()) != enrolled
    with pytest.raises(SecureSumError):
        register.enrol(b"eve", first[:31])


def test_the_register_outlives_its_process_and_holds_no_account(tmp_path: Path) -> None:
    path, page = tmp_path / "pages.db", key()
    with closing(PageEnrolments(path, AUTHORITY, per_hour=9)) as register:
        register.enrol(b"ann@shop.example", page)
    again = PageEnrolments(path, AUTHORITY, per_hour=9)
    with closing(again), pytest.raises(AlreadyEnrolledError):
        again.enrol(b"ann@shop.example", key())
    assert b"ann" not in path.read_bytes()


def test_an_hour_has_its_limit_and_repetitions_do_not_count(
    register: PageEnrolments, clock: Clock
) -> None:
    page = key()
    for _ in range(5):
        register.enrol(b"ann", page)
    register.enrol(b"bob", key())
    register.enrol(b"cem", key())
    with pytest.raises(EnrolmentRateError) as refused:
        register.enrol(b"dan", key())
    assert refused.value.seconds == HOUR_S / 2
    assert register.enrol(b"ann", page)
    clock.seconds += refused.value.seconds
    assert register.enrol(b"dan", key())


def test_the_route_answers_each_refusal_by_its_status(register: PageEnrolments) -> None:
    page, app = key(), PageApp(enrolment_route(register, "X-Account"), [SHOP])

    async def send(*calls: tuple[dict[str, str], bytes]) -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://pages") as client:
            return [
                await client.post(
                    "/v1/device/enrol", content=body, headers={"origin": SHOP, **headers}
                )
                for headers, body in calls
            ]

    ann = {"x-account": "ann"}
    answers = asyncio.run(
        send(
            (ann, page),
            (ann, key()),
            (ann, b""),
            ({}, key()),
            ({"x-account": "  "}, key()),
            ({"x-account": "a" * 1025}, key()),
            ({**ann, "origin": "https://other.example"}, page),
            ({"x-account": "bob"}, key()),
            ({"x-account": "cem"}, key()),
            ({"x-account": "dan"}, key()),
        )
    )
    statuses = [answer.status_code for answer in answers]
    assert statuses == [200, 409, 400, 401, 401, 400, 403, 200, 200, 429]
    assert decode(answers[0].content, Enrolment).identity == page
    assert answers[1].json() == {"code": "already_enrolled"}
    assert answers[-1].headers["retry-after"] == "1800"
    assert answers[0].headers["access-control-allow-origin"] == SHOP
