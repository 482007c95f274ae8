"""Deliveries that several servers share: each action is sent once, by the holder of the lease."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platform.memory_log import MemoryLog

from tactful.config.server import ActionSettings
from tactful.metadata.lease import LEASE_MS, Lease, LeaseLost
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import leases, webhook_deliveries, webhook_positions
from tactful.pipeline.shared_deliveries import Sharing
from tactful.pipeline.webhooks import Webhooks
from tactful_streaming.contract.log_entries import Event, decode_entry, encode_entry
from tactful_streaming.sinks.webhook import Answer

import sqlalchemy as sa  # isort: skip


class Shop:
    """Several servers, a log, and a receiver that answers from a list, then with 200."""

    def __init__(self, metadata: MetadataStore, path: Path) -> None:
        self.metadata, self.path = metadata, path
        self.now = 1_700_000_000_000
        self.log = MemoryLog()
        self.answers: list[int] = []
        self.sent: list[str] = []
        self.during: list[Any] = []  # called while a request is under way
        self.suppressed: set[str] = set()

    def act(self, *numbers: int) -> None:
        self.log.append([encode_entry(action(number)) for number in numbers])

    def post(self, url: str, body: bytes, headers: Mapping[str, str], timeout: float) -> Answer:
        self.sent.append(headers["Idempotency-Key"])
        entry = decode_entry(body)
        assert isinstance(entry, Event) and entry.event_id == self.sent[-1]
        if self.during:
            self.during.pop()()
        return Answer(self.answers.pop(0) if self.answers else 200)

    def server(self, name: str) -> Webhooks:
        lease = Lease(self.metadata, name, clock=lambda: self.now, elapsed=lambda: self.now / 1000)
        return Webhooks(
            ActionSettings(webhook_url="http://127.0.0.1:9/", attempts=3),
            [self.log],
            ["x.coupon"],
            self.path,
            clock=lambda: self.now,
            post=self.post,
            suppressed=self.suppressed,
            sharing=Sharing(lease, "t"),
        )

    def work(self, server: Webhooks, *, acquire: bool = True) -> None:
        """Do one round of the thread."""
        assert server._sharing is not None
        if acquire:
            server._sharing.lease.acquire()
        if server._may_work():
            server._work()

    def rows(self) -> list[Any]:
        return [*self.metadata.fetch(sa.select(webhook_deliveries))]


def action(number: int, user: str = "u") -> Event:
    return Event(event_id=f"e{number}", type="x.coupon", timestamp=number, user_id=user)


@pytest.fixture
def shop(database: MetadataStore, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path)


def test_the_next_holder_goes_on_where_the_killed_one_was(shop: Shop) -> None:
    first, second = shop.server("a"), shop.server("b")
    shop.work(first)
    shop.work(second)
    shop.act(1, 2)
    shop.work(first)
    shop.work(second)
    shop.act(3)
    shop.now += LEASE_MS  # the first one was killed
    shop.work(second)
    assert shop.sent == ["e1", "e2", "e3"]
    assert second.positions == [3] and {row.state for row in shop.rows()} == {"sent"}


def test_a_failed_delivery_is_tried_again_by_the_next_holder(shop: Shop) -> None:
    first, second = shop.server("a"), shop.server("b")
    shop.work(first)
    shop.answers = [500]
    shop.act(1)
    shop.work(first)
    assert [(row.state, row.attempts) for row in shop.rows()] == [("waiting", 1)]
    shop.now += LEASE_MS
    shop.answers = [500]
    shop.work(second)
    shop.now += LEASE_MS
    shop.answers = [500]
    shop.work(first)
    assert [(row.state, row.attempts) for row in shop.rows()] == [("dead", 3)]
    shop.now += LEASE_MS
    shop.work(second)
    assert shop.sent == ["e1"] * 3


def test_a_suspended_server_sends_nothing_when_it_wakes(shop: Shop) -> None:
    first, second = shop.server("a"), shop.server("b")
    shop.work(first)
    shop.act(1, 2, 3)

    def suspended() -> None:
        shop.now += LEASE_MS
        shop.work(second)

    shop.during = [suspended]
    with pytest.raises(LeaseLost):
        shop.work(first)
    # Only the request that was under way comes again, under its id.
    assert shop.sent == ["e1", "e1", "e2", "e3"]
    shop.work(first, acquire=False)
    assert len(shop.sent) == 4


def test_an_action_that_several_servers_appended_is_sent_once(shop: Shop) -> None:
    server, other = shop.server("a"), shop.server("b")
    shop.work(server)
    shop.act(1, 1)
    shop.work(server)
    shop.act(1)
    shop.work(server)
    shop.now += LEASE_MS
    shop.act(1, 2)
    shop.work(other)
    assert shop.sent == ["e1", "e2"]


def test_hashes_of_sent_ids_are_deleted_in_the_end(shop: Shop) -> None:
    server = shop.server("a")
    shop.work(server)
    shop.act(1)
    shop.work(server)
    shop.now += 8 * 86_400_000
    shop.act(2)
    shop.work(server)
    assert len(shop.rows()) == 1 and shop.sent == ["e1", "e2"]


def test_the_database_holds_no_action(shop: Shop) -> None:
    server = shop.server("a")
    shop.work(server)
    shop.answers = [500, 500]
    shop.log.append([encode_entry(action(1, user="ada")), encode_entry(action(2, user="bob"))])
    shop.work(server)
    assert not {"ada", "bob", "e1", "e2"} & {value for row in shop.rows() for value in row}
    assert "ada" not in str(shop.rows())
    shop.suppressed.add("ada")  # erased while the delivery waits
    shop.now += LEASE_MS
    shop.work(shop.server("b"))
    assert shop.sent == ["e1", "e2", "e2"]
    assert {row.state for row in shop.rows()} == {"sent"}


def test_an_action_that_retention_dropped_is_dead(shop: Shop) -> None:
    server = shop.server("a")
    shop.work(server)
    shop.answers = [500]
    shop.act(1)
    shop.work(server)
    shop.log.begin = 1
    shop.now += LEASE_MS
    shop.work(shop.server("b"))
    assert [row.state for row in shop.rows()] == ["dead"] and shop.sent == ["e1"]


def test_a_topic_that_was_made_anew_is_read_from_its_end(shop: Shop) -> None:
    server = shop.server("a")
    shop.work(server)
    shop.act(1, 2)
    shop.work(server)
    shop.log.payloads.clear()
    shop.now += LEASE_MS
    other = shop.server("b")
    shop.work(other)
    shop.act(3)
    shop.work(other)
    assert shop.sent == ["e1", "e2", "e3"]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["work", "sleepy work", "act"]), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.integers(1, 2 * LEASE_MS)),
        st.tuples(st.just("fail"), st.integers(1, 2)),
    ),
    max_size=30,
)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=_STEPS)
def test_no_interleaving_loses_an_action_or_sends_it_twice(
    database: MetadataStore, tmp_path: Path, steps: Sequence[tuple[str, int]]
) -> None:
    def empty(connection: sa.Connection) -> None:
        for table in (webhook_deliveries, webhook_positions, leases):
            connection.execute(sa.delete(table))

    database.change(empty)
    shop = Shop(database, tmp_path)
    servers = [shop.server(name) for name in "abc"]
    shop.now += LEASE_MS
    shop.work(servers[0])
    acted, retried, interrupted = 0, 0, 0
    for action_, number in steps:
        if action_ == "act":
            acted += 1
            shop.act(*[acted] * (1 + number))
        elif action_ == "wait":
            shop.now += number
        elif action_ == "fail":
            shop.answers = [500] * number
        else:
            shop.during = []
            if action_ == "sleepy work":  # stopped in the middle of a request
                shop.during = [lambda: setattr(shop, "now", shop.now + LEASE_MS)]
            waiting = len(shop.answers)
            try:
                shop.work(servers[number])
            except LeaseLost:
                interrupted += 1
            retried += waiting - len(shop.answers)
    shop.answers, shop.during = [], []
    for _ in range(5):
        shop.now += 3_600_000
        shop.work(servers[0])
    counts = Counter(shop.sent)
    assert counts.keys() == {f"e{number}" for number in range(1, acted + 1)}
    assert sum(counts.values()) - acted <= retried + interrupted
