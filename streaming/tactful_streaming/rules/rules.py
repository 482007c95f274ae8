"""Rules that clean events: normalise them, drop them, or set them aside with a reason.

Rules are data, a YAML file. They are tried on each event in the order written, in the order of the
log. One that normalises hands the changed event on; the first that drops or dead-letters an event
ends its way. All they look at is the event, the catalogue and what they remember of earlier events,
never a clock, so a replay of the log decides the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from tactful_streaming.contract.log_entries import Event, Item
from tactful_streaming.errors import StateError
from tactful_streaming.rules.actions import compile_changes
from tactful_streaming.rules.conditions import Holds, State, compile_learning, compile_rule
from tactful_streaming.rules.model import Rule
from tactful_streaming.rules.reader import read_rules

_NO_ITEMS: Final[Mapping[str, Item]] = MappingProxyType({})
_CLOCK = "clock"
_ID_LENGTH = 12
_MOST_PLANS = 1000


@dataclass(frozen=True)
class Dropped:
    """The verdict on an event that goes no further.

    Attributes:
        rule: name of the rule.
        reason: why, for people; nothing of the event is in it.
        action: ``drop``, it is only counted; ``dead_letter``, it is kept.
    """

    rule: str
    reason: str
    action: Literal["drop", "dead_letter"]


@dataclass(frozen=True)
class RuleReport:
    """What became of the events since the rules were opened.

    Attributes:
        events: how many came.
        clean: how many passed, changed or not.
        changed: how many of those were changed.
        dropped: how many were dropped.
        dead_lettered: how many were set aside.
        by_rule: for each rule, in order, how many events it changed, dropped or set aside.
    """

    events: int
    clean: int
    changed: int
    dropped: int
    dead_lettered: int
    by_rule: Mapping[str, int]


class Cleaner(Protocol):
    """What an engine needs of something that cleans events; :class:`Rules` is one."""

    def clean(
        self,
        event: Event,
        item: Item | None = None,
        items: Mapping[str, Item] = _NO_ITEMS,
        received: int | None = None,
    ) -> Event | Dropped:
        """The event as it shall count, or why it does not."""

    def pack_changes(self) -> dict[str, bytes | None]:
        """State that changed since the last call, to be stored together with the offset."""

    def restore(self, stored: Iterable[tuple[str, bytes]]) -> None:
        """Go back to what was stored."""


class _Step(NamedTuple):
    """A rule, or what a rule notes of events, in the way of events of one type."""

    holds: Holds
    number: int
    change: Callable[[Event, int | None], Event]
    verdict: Dropped | None


class Rules:
    """Rules at work on the events of one partition, with what they remember.

    The memory is part of the state of the engine: :meth:`pack_changes` goes into the same atomic
    write as the offset, :meth:`restore` reads it back. Each partition needs ``Rules`` of its own:
    ``Rules(others.rules)``.
    """

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        """Prepare `rules`; without any, every event passes."""
        self._rules = tuple(rules)
        self._state = State()
        self._holds = [compile_rule(rule, self._state) for rule in self._rules]
        self._changes = [compile_changes(rule.changes) for rule in self._rules]
        self._plans: dict[str, list[_Step]] = {}
        self._counts = [0] * len(self._rules)
        self._events = self._changed = 0
        self._stored_clock = 0

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order written."""
        return self._rules

    @property
    def fingerprint(self) -> str:
        """Hash of the rules; equal for equal rules, however written."""
        data = msgspec.json.encode([replace(rule, line=0) for rule in self._rules])
        return hashlib.sha256(data).hexdigest()

    def clean(
        self,
        event: Event,
        item: Item | None = None,
        items: Mapping[str, Item] = _NO_ITEMS,
        received: int | None = None,
    ) -> Event | Dropped:
        """Try the rules on an event.

        Args:
            event: the next event of the log, none that was counted before.
            item: what the catalogue says about its item.
            items: the catalogue, for an event whose ``item_id`` is normalised.
            received: when the server received it, epoch milliseconds; without it the number in
                ``context.received_at`` counts.

        Returns:
            The event, the very same if no rule changed it, or why it goes no further. An event that
            goes no further is remembered by no rule but by its rate.
        """
        self._events += 1
        plan = self._plans.get(event.type)
        if plan is None:
            plan = self._plan(event.type)
        state = self._state
        if event.timestamp > state.clock:
            state.clock = event.timestamp
        current = event
        for holds, number, change, verdict in plan:
            if not holds(current, item, received):
                continue
            if verdict is not None:
                self._counts[number] += 1
                state.pending.clear()
                return verdict
            changed = change(current, received)
            if changed is not current:
                self._counts[number] += 1
                if changed.item_id != current.item_id:
                    item = items.get(changed.item_id) if changed.item_id is not None else None
                if changed.timestamp > state.clock:
                    state.clock = changed.timestamp
                current = changed
        if state.pending:
            state.remember()
        if current is not event:
            self._changed += 1
        return current

    def report(self) -> RuleReport:
        """What became of the events so far."""
        ends = {"drop": 0, "dead_letter": 0, "normalise": 0}
        for rule, count in zip(self._rules, self._counts, strict=True):
            ends[rule.action] += count
        return RuleReport(
            events=self._events,
            clean=self._events - ends["drop"] - ends["dead_letter"],
            changed=self._changed,
            dropped=ends["drop"],
            dead_lettered=ends["dead_letter"],
            by_rule={r.name: n for r, n in zip(self._rules, self._counts, strict=True)},
        )

    def pack_changes(self) -> dict[str, bytes | None]:
        """What the rules remember anew since the last call, by key; None for what is forgotten."""
        changes: dict[str, bytes | None] = {}
        if self._state.clock != self._stored_clock:
            self._stored_clock = self._state.clock
            changes[_CLOCK] = self._stored_clock.to_bytes(8, "big")
        for name, memory in self._state.memories.items():
            for key, packed in memory.pack_changes().items():
                changes[name + key] = packed
        return changes

    def restore(self, stored: Iterable[tuple[str, bytes]]) -> None:
        """Go back to the sum of what :meth:`pack_changes` gave.

        What rules that have since been changed or removed remembered is ignored: a changed
        condition begins anew.

        Raises:
            StateError: if it is damaged.
        """
        by_memory: dict[str, list[tuple[str, bytes]]] = {n: [] for n in self._state.memories}
        try:
            for key, blob in stored:
                if key == _CLOCK:
                    self._stored_clock = self._state.clock = int.from_bytes(blob, "big")
                elif key[:_ID_LENGTH] in by_memory:
                    by_memory[key[:_ID_LENGTH]].append((key[_ID_LENGTH:], blob))
            for name, facts in by_memory.items():
                self._state.memories[name].restore(facts)
        except (msgspec.MsgspecError, ValueError) as error:
            raise StateError(f"what the rules remembered is damaged: {error}") from error

    def _plan(self, type_: str) -> list[_Step]:
        """What events of `type_` meet on their way; kept, as types are few."""
        plan: list[_Step] = []
        for number, rule in enumerate(self._rules):
            for note in compile_learning(rule, type_, self._state):
                plan.append(_Step(note, number, self._changes[number], None))
            if not rule.events or type_ in rule.events:
                verdict = (
                    None
                    if rule.action == "normalise"
                    else Dropped(rule.name, rule.reason, rule.action)
                )
                plan.append(_Step(self._holds[number], number, self._changes[number], verdict))
        if len(self._plans) < _MOST_PLANS:
            self._plans[type_] = plan
        return plan


def load_rules(source: Path | str) -> Rules:
    """Read rules from a file or a YAML text.

    Args:
        source: a path, or the text itself.

    Raises:
        RuleError: names file, line and key of the first thing that is wrong.
    """
    return Rules(read_rules(source))
