"""Rules that clean events: normalise them, drop them, or set them aside with a reason.

Rules are data, a YAML file. Each event, in the order of the log, is tested by the rules in the
order written. A normalising rule changes the event for the next rules; the first rule that drops or
dead-letters it is the last. Rules read the event, the catalogue and stored facts of earlier events,
never a clock, so a replay of the log has the same result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Event, Item, time_reached
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
    """The rule that dropped or dead-lettered an event."""

    rule: str
    reason: str  # explanation for operators; contains no data of the event
    # `drop`: the event is only counted; `dead_letter`: it is stored
    action: Literal["drop", "dead_letter"]


@dataclass(frozen=True)
class RuleReport:
    """Numbers of events since the rules were opened."""

    events: int
    clean: int  # events that passed, changed or not
    changed: int  # events that passed changed
    dropped: int
    dead_lettered: int
    by_rule: Mapping[str, int]  # changed, dropped or dead-lettered events of each rule, in order


class Cleaner(Protocol):
    """Interface of :class:`Rules` to the engine."""

    def clean(
        self,
        event: Event,
        item: Item | None = None,
        items: Mapping[str, Item] = _NO_ITEMS,
        received: int | None = None,
    ) -> Event | Dropped:
        """Return the event to count, or the reason why it does not count."""

    def pack_changes(self) -> dict[str, bytes | None]:
        """Return the state that changed since the last call, to store with the offset."""

    def restore(self, stored: Iterable[tuple[str, bytes]]) -> None:
        """Load the stored state."""


class _Step(NamedTuple):
    """A rule, or the learning of a rule, for events of one type."""

    holds: Holds
    number: int
    change: Callable[[Event, int | None], Event]
    verdict: Dropped | None


class Rules:
    """Rules for the events of one partition, with the state of rates and repetitions.

    This state is part of the engine's: :meth:`pack_changes` goes into the same atomic write as the
    offset, :meth:`restore` loads it. Each partition needs ``Rules`` of its own:
    ``Rules(others.rules)``.

    >>> rules = load_rules("- {name: free, when: {properties.price: {at_most: 0}}, action: drop}")
    >>> event = Event(event_id="1", type="view", timestamp=0, properties={"price": 0})
    >>> rules.clean(event).rule
    'free'
    """

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        """Compile `rules`; without any, every event passes."""
        self.rules = tuple(rules)  # in the order written
        self._state = State()
        self._holds = [compile_rule(rule, self._state) for rule in self.rules]
        self._changes = [compile_changes(rule.changes) for rule in self.rules]
        self._plans: dict[str, list[_Step]] = {}
        self._counts = [0] * len(self.rules)
        self._events = self._changed = 0
        self._stored_clock = 0

    @property
    def fingerprint(self) -> str:
        """Hash of the rules, independent of their formatting."""
        data = msgspec.json.encode([replace(rule, line=0) for rule in self.rules])
        return hashlib.sha256(data).hexdigest()

    def clean(
        self,
        event: Event,
        item: Item | None = None,
        items: Mapping[str, Item] = _NO_ITEMS,
        received: int | None = None,
    ) -> Event | Dropped:
        """Test the next event of the log, never a repetition, by the rules.

        The result is the event, the same object if no rule changed it, or the rule that dropped or
        dead-lettered it. Rates count also these events; ``earlier`` does not. `items` is the
        catalogue, for an event whose ``item_id`` is normalised; `received` is the time of receipt,
        epoch milliseconds, by default that of the event.
        """
        self._events += 1
        plan = self._plans.get(event.type)
        if plan is None:
            plan = self._plan(event.type)
        state = self._state
        state.clock = max(state.clock, time_reached(event))
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
                state.clock = max(state.clock, time_reached(changed))
                current = changed
        if state.pending:
            state.store_pending()
        if current is not event:
            self._changed += 1
        return current

    def without_memory(self) -> Rules | None:
        """Return the rules that look at no earlier event, as `Rules` of their own.

        Others may look at several users: their memory is bounded, and expires by the newest event.
        None if there are no others.
        """
        left = [rule for rule in self.rules if not rule.memories]
        return None if len(left) == len(self.rules) else Rules(left)

    def report(self) -> RuleReport:
        """Count the events so far by result."""
        ends = {"drop": 0, "dead_letter": 0, "normalise": 0}
        for rule, count in zip(self.rules, self._counts, strict=True):
            ends[rule.action] += count
        return RuleReport(
            events=self._events,
            clean=self._events - ends["drop"] - ends["dead_letter"],
            changed=self._changed,
            dropped=ends["drop"],
            dead_lettered=ends["dead_letter"],
            by_rule={r.name: n for r, n in zip(self.rules, self._counts, strict=True)},
        )

    def pack_changes(self) -> dict[str, bytes | None]:
        """Return facts that changed since the last call, by key; None for expired ones."""
        changes: dict[str, bytes | None] = {}
        if self._state.clock != self._stored_clock:
            self._stored_clock = self._state.clock
            changes[_CLOCK] = self._stored_clock.to_bytes(8, "big")
        for name, facts in self._state.maps.items():
            for key, packed in facts.pack_changes().items():
                changes[name + key] = packed
        return changes

    def restore(self, stored: Iterable[tuple[str, bytes]]) -> None:
        """Load the sum of all changes that :meth:`pack_changes` returned.

        Facts of conditions that were changed or removed since are ignored: a changed condition
        begins without facts.
        """
        by_condition: dict[str, list[tuple[str, bytes]]] = {n: [] for n in self._state.maps}
        try:
            for key, blob in stored:
                if key == _CLOCK:
                    self._stored_clock = self._state.clock = int.from_bytes(blob, "big")
                elif key[:_ID_LENGTH] in by_condition:
                    by_condition[key[:_ID_LENGTH]].append((key[_ID_LENGTH:], blob))
            for name, facts in by_condition.items():
                self._state.maps[name].restore(facts)
        except (ValueError, *DECODE_ERRORS) as error:
            raise StateError(f"the stored state of the rules is damaged: {error}") from error

    def _plan(self, type_: str) -> list[_Step]:
        """Compile the steps for events of `type_`; cached, as types are few."""
        plan: list[_Step] = []
        for number, rule in enumerate(self.rules):
            for learn in compile_learning(rule, type_, self._state):
                plan.append(_Step(learn, number, self._changes[number], None))
            if not rule.events or type_ in rule.events:
                verdict = None
                if rule.action != "normalise":
                    verdict = Dropped(rule.name, rule.reason, rule.action)
                plan.append(_Step(self._holds[number], number, self._changes[number], verdict))
        if len(self._plans) < _MOST_PLANS:
            self._plans[type_] = plan
        return plan


def load_rules(source: Path | str) -> Rules:
    """Read rules from a file or a YAML text; a RuleError names file, line and key."""
    return Rules(read_rules(source))
