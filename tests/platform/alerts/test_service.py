"""The engine over a real database: one evaluator, restarts, silences, messages with retries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.platform.webhook_receiver import Shop, receiving

from tactful.alerts.rules import AlertFile
from tactful.alerts.service import AlertService
from tactful.alerts.sources import Sources
from tactful.metadata.audit import AuditTrail
from tactful.metadata.lease import Lease
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.schemas.alert_routes import AlertRoute
from tactful.schemas.alerts import AlertRule, NewSilence

LEASE_MS = 45_000


class Shopfloor:
    """A clock, one gauge, and a database."""

    def __init__(self, path: Path) -> None:
        self.now = 1_700_000_000_000
        self.lag = 0.0
        self.metadata: MetadataStore = open_metadata(path / "metadata.db", clock=self.clock)

    def clock(self) -> int:
        return self.now

    def server(self, name: str = "a", routes: list[dict[str, Any]] | None = None) -> AlertService:
        rule = {
            "name": "lag",
            "kind": "threshold",
            "summary": "behind",
            "value": {"metric": "lag"},
            "above": 10,
            "clear": 5,
            "for": "30s",
            "clear_for": "0s",
        }
        file = AlertFile(
            rules=[msgspec.convert(rule, AlertRule)],
            routes=msgspec.convert(routes or [], list[AlertRoute]),
        )
        sources = Sources(lambda: [("lag", {}, self.lag)])
        return AlertService(
            self.metadata,
            file,
            sources,
            lease=self.lease(name),
            clock=self.clock,
            runbook="http://x/",
        )

    def lease(self, name: str) -> Lease:
        return Lease(
            self.metadata,
            name,
            clock=self.clock,
            elapsed=lambda: self.now / 1000,
            lease_ms=LEASE_MS,
        )

    def run(self, service: AlertService, lag: float, times: int = 1) -> bool:
        for _ in range(times):
            self.now += 15_000
            self.lag = lag
            service._lease.acquire()
            evaluated = service.run()
        return evaluated


@pytest.fixture
def floor(tmp_path: Path) -> Iterator[Shopfloor]:
    shopfloor = Shopfloor(tmp_path)
    yield shopfloor
    shopfloor.metadata.close()


def _states(service: AlertService) -> list[str]:
    return [alert.state for alert in service.store.page("all", limit=10)]


def test_an_alert_opens_once_and_clears(floor: Shopfloor) -> None:
    server = floor.server()
    floor.run(server, 20, times=2)
    assert _states(server) == []
    floor.run(server, 20, times=5)
    assert _states(server) == ["open"] and server.store.count_open() == 1
    floor.run(server, 1)
    alert = server.store.page("cleared", limit=10)[0]
    assert alert.cleared_at == floor.now and alert.message == "behind: 20, above 10"
    assert alert.runbook == "http://x/#lag"


def test_a_restart_while_an_alert_is_open_opens_no_second_one(floor: Shopfloor) -> None:
    floor.run(floor.server("a"), 20, times=4)  # killed: nothing is closed
    floor.now += LEASE_MS
    after = floor.server("b")
    floor.run(after, 20, times=4)
    assert _states(after) == ["open"]
    floor.run(after, 1)
    assert _states(after) == ["cleared"]


def test_a_pending_alert_survives_a_stop(floor: Shopfloor) -> None:
    first = floor.server("a")
    floor.run(first, 20, times=2)
    first.close()
    first._lease.release()
    second = floor.server("b")
    assert floor.run(second, 20)  # 30 s since the first scrape above the level
    assert _states(second) == ["open"]


def test_one_of_two_servers_evaluates_and_the_other_takes_over(floor: Shopfloor) -> None:
    first, second = floor.server("a"), floor.server("b")
    assert floor.run(first, 0) and not floor.run(second, 0)
    floor.now += LEASE_MS
    assert floor.run(second, 0) and not floor.run(first, 0)


def test_a_suspended_server_neither_writes_nor_sends_when_it_wakes(floor: Shopfloor) -> None:
    with receiving() as shop:
        first = floor.server("a", [_route(shop)])
        second = floor.server("b", [_route(shop)])
        floor.run(first, 20, times=2)

        def suspended(*_: object) -> list[Any]:
            """Another server takes the lease and sends the message meanwhile."""
            floor.now += LEASE_MS
            floor.run(second, 20, times=3)
            return []

        first.store.silences = suspended  # type: ignore[method-assign]
        assert not floor.run(first, 20)
        assert _states(second) == ["open"] and len(shop.attempts) == 1
        first.outbox.deliver(first.routes, floor.now)
        assert len(shop.attempts) == 1


def trail(floor: Shopfloor) -> list[tuple[str, str, str]]:
    """Authors, actions and targets of the audit trail, newest first."""
    entries, _ = AuditTrail(floor.metadata, clock=floor.clock).entries()
    return [(entry.actor, entry.action, entry.target) for entry in entries]


def test_acknowledging_names_who_did_it_and_stops_further_messages(floor: Shopfloor) -> None:
    with receiving() as shop:
        server = floor.server(routes=[_route(shop)])
        floor.run(server, 20, times=3)
        assert server.store.acknowledge(1, by="key 1234abcd", note="on it")
        assert not server.store.acknowledge(99, by="key 1234abcd", note="")
        alert = server.store.find(1)
        assert alert is not None and alert.acknowledged_by == "key 1234abcd"
        (change,) = trail(floor)
        assert change == ("key 1234abcd", "alert.acknowledge", "1")
        assert len(shop.attempts) == 1


def test_a_silence_holds_messages_back_until_it_ends(floor: Shopfloor) -> None:
    with receiving() as shop:
        server = floor.server(routes=[_route(shop)])
        new = NewSilence(rule="la*", minutes=2, reason="a migration")
        silence = server.store.silence(new, by="key a")
        floor.run(server, 20, times=4)
        assert server.store.page("open", limit=1)[0].silenced and shop.attempts == []
        assert server.store.end_silence(silence.id, by="key a")
        assert not server.store.end_silence(silence.id, by="key a")
        floor.run(server, 20)
        assert len(shop.attempts) == 1


def test_messages_wait_for_the_end_of_quiet_hours_or_for_nothing(floor: Shopfloor) -> None:
    # 22:13 UTC is 1,700,000,000 s after the epoch.
    with receiving() as shop:
        quiet = {"from": "22:00", "to": "07:00", "zone": "UTC"}
        server = floor.server(routes=[_route(shop) | {"quiet": quiet}])
        floor.run(server, 20, times=4)
        floor.run(server, 1)  # it cleared in the night: nobody is told of it in the morning
        floor.run(server, 20, times=4)
        assert shop.attempts == []
        floor.now += 9 * 3_600_000
        floor.run(server, 20)
        assert [_event(body) for _, body in shop.attempts] == ["opened"]


def test_a_failed_message_is_repeated_with_its_key_and_seen_meanwhile(floor: Shopfloor) -> None:
    with receiving(500, 503) as shop:
        server = floor.server(routes=[_route(shop)])
        floor.run(server, 20, times=3)
        assert server.outbox.failing == 1
        failed = server.store.page("open", limit=1)[0].undelivered
        assert failed == ["shop/1 webhook: answered with status 500"]
        floor.run(server, 20, times=4)
        assert len({head["Idempotency-Key"] for head, _ in shop.attempts}) == 1
        assert len(shop.attempts) == 3 and server.outbox.failing == 0
        assert server.store.page("open", limit=1)[0].undelivered == []
        floor.run(server, 1)
        assert [_event(body) for _, body in shop.attempts][-1] == "cleared"


def test_an_edited_rule_counts_at_the_next_evaluation(floor: Shopfloor) -> None:
    server = floor.server()
    rule = server.rules()[0]
    server.store.put_rule(msgspec.structs.replace(rule, above=100.0), by="key a")
    floor.run(server, 20, times=4)
    assert _states(server) == []
    assert server.store.edited_rules()["lag"].changed_by == "key a"
    assert server.store.delete_rule("lag", by="key b")
    floor.run(server, 20, times=4)
    assert _states(server) == ["open"]
    assert [change[:2] for change in trail(floor)] == [
        ("key b", "alert.delete_rule"),
        ("key a", "alert.put_rule"),
    ]


@pytest.mark.parametrize("seen", [1, 5])
def test_a_write_that_fails_is_made_up_for(
    floor: Shopfloor, monkeypatch: pytest.MonkeyPatch, seen: int
) -> None:
    server = floor.server()
    floor.run(server, 20, times=2)
    written: Callable[..., Any] = Lease.write

    def fail(*_: object) -> None:
        raise OSError("the database went away")

    monkeypatch.setattr(Lease, "write", fail)
    for _ in range(seen):
        with pytest.raises(OSError):
            floor.run(server, 20)
    monkeypatch.setattr(Lease, "write", written)
    floor.run(server, 20)
    assert _states(server) == ["open"]


def _route(shop: Shop) -> dict[str, Any]:
    url = f"http://127.0.0.1:{shop.server_port}/"
    return {"name": "shop", "sinks": [{"kind": "webhook", "url": url}]}


def _event(body: bytes) -> str:
    event: str = msgspec.json.decode(body)["event"]
    return event


def test_the_totals_of_another_server_are_no_growth(tmp_path: Path) -> None:
    floor = Shopfloor(tmp_path)
    rule = {
        "name": "errors",
        "kind": "threshold",
        "summary": "errors",
        "value": {"metric": "errors_total", "change": "increase"},
        "above": 5,
        "for": "0s",
    }

    def server(name: str, rows: list[tuple[str, dict[str, str], float]]) -> AlertService:
        file = AlertFile(rules=[msgspec.convert(rule, AlertRule)])
        sources = Sources(lambda: rows)
        lease = floor.lease(name)
        return AlertService(
            floor.metadata, file, sources, lease=lease, clock=floor.clock, runbook="http://x/"
        )

    floor.run(server("a", [("errors_total", {"route": "x"}, 3.0)]), 0, times=2)
    floor.now += LEASE_MS
    rows = [("errors_total", {"route": "x"}, 900.0), ("errors_total", {"route": "y"}, 70.0)]
    other = server("b", rows)
    floor.run(other, 0, times=2)
    assert other.store.count_open() == 0
    rows.append(("errors_total", {"route": "z"}, 6.0))  # a series that appears has grown
    floor.run(other, 0)
    assert other.store.count_open() == 1
    floor.metadata.close()
