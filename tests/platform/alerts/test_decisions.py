"""Decisions of the audit trail reach a real receiver once: two servers, restarts, routes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from tests.platform.webhook_receiver import Shop, receiving

from tactful.alerts.decisions import READ_AGAIN_MS
from tactful.alerts.rules import PACKAGED, AlertFile, read_alerts
from tactful.alerts.service import AlertService
from tactful.alerts.sources import Sources
from tactful.experiments.definitions import GuardrailDefinition, RolloutDefinition
from tactful.experiments.store import Judged, RolloutStore
from tactful.metadata.audit import note_change
from tactful.metadata.lease import Lease
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.schemas.alert_routes import AlertRoute
from tactful.schemas.alerts import AlertRule, DecisionRule, NewSilence
from tactful.util.clock import now_ms
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.rollouts.lifecycle import (
    Rollout,
    StageObservations,
    judge_rollout,
    roll_back,
    start_rollout,
)

_HOUR = 3_600_000
_RULES = [rule for rule in read_alerts(PACKAGED).rules if isinstance(rule, DecisionRule)]
_KILL = msgspec.convert(
    {"name": "kill", "kind": "decision", "summary": "A switch is off", "actions": ["switch.off"]},
    AlertRule,
)


LEASE_MS = 45_000


class Shopfloor:
    """A clock, a database with rollouts, and servers that send to one receiver."""

    def __init__(self, metadata: MetadataStore, shop: Shop) -> None:
        self.now = 1_700_000_000_000
        self.shop, self.metadata = shop, metadata
        self.rollouts = RolloutStore(self.metadata, clock=self.clock)

    def clock(self) -> int:
        return self.now

    def server(self, name: str = "a", *rules: AlertRule, **route: Any) -> AlertService:
        return make_server(self.metadata, self.clock, self.shop.server_port, name, rules, route)

    def run(self, *services: AlertService, times: int = 1) -> None:
        for _ in range(times):
            self.now += 15_000
            for service in services:
                service._lease.acquire()
                service.run()

    def begin(self, key: str, **about: Any) -> None:
        change = {"objective": {"relevance": 1.0, "price": 0.3}}
        definition = RolloutDefinition(key=key, change=change, **about)
        self.rollouts.apply(definition, by="ann", reason="try")
        self.rollouts.move(key, start_rollout, by="ann", reason="go")

    def change(self, action: str, target: str, detail: str = "") -> None:
        self.metadata.change(
            lambda connection: note_change(connection, self.now, "ann", action, target, detail)
        )

    def arrived(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(body) for _, body in self.shop.attempts]

    def rules_sent(self) -> list[str]:
        return [message["rule"] for message in self.arrived()]


def make_server(
    metadata: MetadataStore,
    clock: Callable[[], int],
    port: int,
    name: str,
    rules: tuple[AlertRule, ...] = (),
    route: dict[str, Any] | None = None,
) -> AlertService:
    plain = {"name": "shift", "sinks": [{"kind": "webhook", "url": f"http://127.0.0.1:{port}/"}]}
    routes = msgspec.convert([plain | (route or {})], list[AlertRoute])
    file = AlertFile(rules=[*_RULES, *rules], routes=routes)
    sources = Sources(lambda: [])
    lease = Lease(metadata, name, clock=clock, elapsed=lambda: clock() / 1000, lease_ms=LEASE_MS)
    return AlertService(metadata, file, sources, lease=lease, clock=clock, runbook="http://x/")


@pytest.fixture
def shop() -> Iterator[Shop]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def floor(sqlite: MetadataStore, shop: Shop) -> Shopfloor:
    return Shopfloor(sqlite, shop)


@pytest.mark.slow
def test_a_rollback_arrives_once_with_its_reason_and_without_its_author(
    database: MetadataStore, shop: Shop
) -> None:
    floor = Shopfloor(database, shop)
    server = floor.server()
    floor.run(server)
    floor.begin("cheaper")
    floor.rollouts.move("cheaper", roll_back, by="ann", reason="worse lists")
    floor.run(server, times=4)
    (message,) = floor.arrived()
    assert (message["event"], message["rule"]) == ("decision", "decision_rolled_back")
    assert message["message"] == (
        "A rollout was rolled back: cheaper (by hand); reason: worse lists; "
        "share of the users with the change: 0"
    )
    assert "ann" not in str(message) and message["labels"] == {"name": "cheaper"}
    (alert,) = server.store.page("all", limit=9)
    assert alert.state == "cleared" and server.store.count_open() == 0


@pytest.mark.parametrize(
    ("action", "rule"),
    [
        ("flag.kill", "flag_killed"),
        ("flag.revive", "flag_revived"),
        ("bandit.stop", "bandit_stopped"),
    ],
)
def test_kills_of_flags_and_bandits_are_decisions(floor: Shopfloor, action: str, rule: str) -> None:
    server = floor.server()
    floor.run(server)
    floor.change(action, "结账", "payments fail")
    floor.run(server, times=2)
    (message,) = floor.arrived()
    assert message["rule"] == f"decision_{rule}"
    assert "结账 (by hand); reason: payments fail" in message["message"]


def test_two_servers_and_a_takeover_send_it_once(floor: Shopfloor) -> None:
    first, second = floor.server("a"), floor.server("b")
    floor.run(first, second)
    floor.begin("cheaper")
    floor.rollouts.move("cheaper", roll_back, by="ann", reason="worse")
    floor.run(first, second, times=3)
    floor.now += LEASE_MS  # the first one was killed
    floor.run(second, times=3)
    floor.run(floor.server("c"), second, times=3)
    assert floor.rules_sent() == ["decision_rolled_back"]


def test_a_decision_while_no_server_runs_is_sent_by_the_next(floor: Shopfloor) -> None:
    first = floor.server("a")
    floor.run(first)
    first.close()
    first._lease.release()
    floor.begin("cheaper")
    floor.rollouts.move("cheaper", roll_back, by="ann", reason="worse")
    floor.now += _HOUR
    floor.run(floor.server("b"), times=2)
    assert floor.rules_sent() == ["decision_rolled_back"]


def test_decisions_before_the_first_start_are_not_sent(floor: Shopfloor) -> None:
    floor.change("switch.off", "old")
    floor.now += 1
    server = floor.server("a", _KILL)
    floor.run(server)
    floor.change("switch.off", "new")
    floor.run(server, times=2)
    assert [message["labels"]["name"] for message in floor.arrived()] == ["new"]


def test_an_entry_that_another_server_committed_late_is_sent(floor: Shopfloor) -> None:
    server = floor.server("a", _KILL)
    floor.run(server, times=8)
    floor.change("switch.off", "first")
    floor.run(server)
    floor.now -= 60_000  # the clock of the other server is behind
    floor.change("switch.off", "late")
    floor.now += 60_000
    floor.run(server, times=3)
    assert [message["labels"]["name"] for message in floor.arrived()] == ["first", "late"]


def test_it_is_sent_again_until_it_arrives(floor: Shopfloor) -> None:
    floor.shop.first = (500, 500)
    server = floor.server("a", _KILL)
    floor.run(server)
    floor.change("switch.off", "checkout")
    floor.run(server, times=6)
    keys = {headers["Idempotency-Key"] for headers, _ in floor.shop.attempts}
    assert len(floor.shop.attempts) == 3 and len(keys) == 1


def test_the_history_outlasts_the_span_in_which_entries_are_read_again(floor: Shopfloor) -> None:
    server = floor.server("a", _KILL)
    floor.run(server)
    floor.change("switch.off", "checkout")
    floor.run(server)
    floor.now += READ_AGAIN_MS - 60_000
    floor.run(server, times=8)
    assert floor.rules_sent() == ["kill"]


def test_a_route_takes_the_severities_that_it_names(floor: Shopfloor) -> None:
    server = floor.server("a", _KILL, severities=["critical"])
    floor.run(server)
    floor.change("switch.off", "checkout")  # a warning
    floor.begin("cheaper")
    floor.rollouts.move("cheaper", roll_back, by="ann", reason="worse")
    floor.run(server, times=2)
    assert floor.rules_sent() == ["decision_rolled_back"]
    assert len(server.store.page("all", limit=9)) == 2


def test_a_silenced_decision_stays_in_the_history_only(floor: Shopfloor) -> None:
    server = floor.server("a", _KILL)
    floor.run(server)
    server.store.silence(NewSilence(rule="kill", labels={"name": "check*"}), by="ann")
    floor.change("switch.off", "checkout")
    floor.change("switch.off", "banner")
    floor.run(server, times=2)
    assert [message["labels"]["name"] for message in floor.arrived()] == ["banner"]
    assert len(server.store.page("all", limit=9)) == 2


def test_other_actions_and_looks_at_users_are_sent_nowhere(floor: Shopfloor) -> None:
    everything = msgspec.convert(
        {"name": "all", "kind": "decision", "summary": "s", "actions": ["person.*", "key.*"]},
        AlertRule,
    )
    server = floor.server("a", everything)
    floor.run(server)
    floor.change("keyring.change", "x")
    floor.metadata.change(_look_at_a_user)
    floor.run(server, times=2)
    assert floor.arrived() == []


def _look_at_a_user(connection: sa.Connection) -> None:
    from tactful.metadata.tables import person_accesses

    row = {"action": "export", "key_id": 1, "digest": b"1" * 32, "at": 1_700_000_016_000}
    connection.execute(sa.insert(person_accesses).values(**row, accessed_by="ann"))


def test_harm_that_only_warns_is_sent_once_a_stage(floor: Shopfloor) -> None:
    server = floor.server()
    floor.run(server)
    warns = GuardrailDefinition(metric="takers", critical=False)
    floor.begin("cheaper", guardrails=(warns, GuardrailDefinition(metric="errors")))

    def judge(rollout: Rollout, at: int) -> Judged:
        harmed = Proportion(100_000, 40_000), Proportion(1_000, 100)
        same = Proportion(100_000, 0), Proportion(1_000, 0)
        seen = StageObservations((99_000, 1_000), {"takers": harmed, "errors": same})
        return Judged(judge_rollout(rollout, seen, at=at))

    for _ in range(3):
        floor.run(server)
        stored = floor.rollouts.find("cheaper")
        assert stored is not None
        assert floor.rollouts.look(stored, judge, every_ms=1) is not None
    floor.run(server, times=2)
    (message,) = floor.arrived()
    assert message["rule"] == "decision_harm" and "cheaper (by a rule)" in message["message"]
    assert "reason: takers" in message["message"]


def _evaluate_and_hang(path: str, port: int, now: int, ready: Any) -> None:
    """Write the decision, then hang while it is sent; to be killed."""
    metadata = open_metadata(Path(path), clock=lambda: now)
    server = make_server(metadata, lambda: now, port, "killed", (_KILL,))

    def hang(routes: object, now: int) -> int:
        ready.set()
        signal.pause()
        return 0

    server.outbox.deliver = hang  # type: ignore[method-assign]
    server._lease.acquire()
    server.run()


@pytest.mark.slow  # a process is started and killed
def test_a_server_that_is_killed_after_its_write_leaves_it_to_the_next(
    tmp_path: Path, shop: Shop
) -> None:
    path = tmp_path / "killed.db"
    floor = Shopfloor(open_metadata(path, clock=now_ms), shop)
    floor.run(floor.server("a", _KILL))
    floor.now += LEASE_MS
    floor.change("switch.off", "checkout")
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    about = str(path), floor.shop.server_port, floor.now, ready
    process = context.Process(target=_evaluate_and_hang, args=about)
    process.start()
    assert ready.wait(60) and process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert floor.arrived() == []
    floor.now += LEASE_MS
    floor.run(floor.server("b", _KILL), times=3)
    assert floor.rules_sent() == ["kill"]
    floor.metadata.close()
