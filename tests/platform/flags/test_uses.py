"""Stale flags: expired, unused, or with one value for everybody, for 30 days."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.flags.conftest import Clock

from tactful.flags.store import FlagStore, FlagUse
from tactful.flags.uses import PAYLOAD, FlagUses, stale_reasons

DAY, NOW = 86_400_000, 1_796_000_000_000
RULED = {"defaultValue": False, "rules": [{"force": True, "condition": {"country": "CH"}}]}
OLD, NEW = NOW - 40 * DAY, NOW - DAY


@pytest.mark.parametrize(
    ("about", "reasons"),
    [
        ({}, ["not evaluated"]),
        ({"changed_at": NEW}, []),
        ({"changed_at": NEW, "expires": "2026-01-01"}, ["expired"]),
        ({"expires": "2026-06-01", "payload_at": NEW}, []),
        ({"payload_at": NEW}, []),
        ({"payload_at": OLD}, ["not evaluated"]),
        ({"use": FlagUse(OLD, NEW, NEW, "v")}, []),
        ({"use": FlagUse(OLD, NEW, OLD, "v")}, ["one value"]),
        ({"use": FlagUse(NEW, NEW, NEW, "v")}, []),
        ({"use": FlagUse(OLD, OLD, OLD, "v")}, ["not evaluated"]),
        ({"feature": {"defaultValue": 1}, "payload_at": NEW}, ["one value"]),
        ({"feature": {"rules": [{"force": True}]}, "payload_at": NEW}, ["one value"]),
        ({"feature": {"rules": [{"force": True, "range": [0, 0.5]}]}, "payload_at": NEW}, []),
    ],
)
def test_stale_flags(about: dict[str, Any], reasons: list[str]) -> None:
    given: dict[str, Any] = {
        "feature": RULED,
        "expires": None,
        "changed_at": OLD,
        "use": None,
        "payload_at": None,
    }
    given |= about
    assert stale_reasons(given.pop("feature"), **given, today="2026-06-01", now=NOW) == reasons


def test_uses_are_noted_by_the_minute_and_kept(store: FlagStore, clock: Clock) -> None:
    uses = FlagUses(store, clock=clock)
    begun = clock.now
    for value in (True, True, 1, {"b": 1, "a": 2}, {"a": 2, "b": 1}):
        uses.note("a", value)
    uses.note(PAYLOAD, None)
    uses.store()
    uses.store()
    assert {*store.uses()} == {"a", PAYLOAD}
    clock.pass_days(40)
    again = FlagUses(store, clock=clock)
    again.note("a", {"a": 2, "b": 1})
    again.store()
    use = store.uses()["a"]
    assert (use.first_at, use.last_at, use.varied_at) == (begun, clock.now, begun)
    again.note("a", False)
    again.store()
    assert store.uses()["a"].varied_at == clock.now


def test_uses_of_other_servers_count_without_a_restart(store: FlagStore, clock: Clock) -> None:
    first, second = FlagUses(store, clock=clock), FlagUses(store, clock=clock)
    first.note("a", True)
    first.store()
    assert second.of("a") is None
    second.store()
    assert second.of("a") == first.of("a") is not None
    clock.pass_days(1)
    second.note("a", False)
    first.note("a", True)
    second.store()
    first.store()
    use = first.of("a")
    assert use is not None and use.last_at == use.varied_at == clock.now
