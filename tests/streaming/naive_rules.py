"""Oracle of rules: every condition reads the whole history of events."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from tests.streaming.oracle import reached

from tactful_streaming.contract.log_entries import Event, Item
from tactful_streaming.rules.model import (
    Condition,
    Conversion,
    Earlier,
    FieldChange,
    FieldTest,
    Rate,
    Relative,
    Rule,
    UserAgent,
)

BOUNDS = {
    "above": lambda a, b: a > b,
    "below": lambda a, b: a < b,
    "at_least": lambda a, b: a >= b,
    "at_most": lambda a, b: a <= b,
}


@dataclass
class Naive:
    """One set of rules and all that ever came to them."""

    rules: Sequence[Rule]
    newest: int = 0
    counted: dict[tuple[int, int, int], list[tuple[str, int]]] = field(default_factory=dict)
    exceeded: dict[tuple[int, int, int], list[tuple[str, int]]] = field(default_factory=dict)
    noted: list[tuple[tuple[int, int, int], str, str, int]] = field(default_factory=list)
    _noting: list[tuple[tuple[int, int, int], str, str, int]] = field(default_factory=list)

    def clean(
        self, event: Event, item: Item | None, items: dict[str, Item], received: int | None
    ) -> Event | tuple[str, str]:
        self._noting = []
        self.newest = max(self.newest, reached(event))
        for number, rule in enumerate(self.rules):
            self._note(number, rule, event, item, received)
            about = not rule.events or event.type in rule.events
            if about and self._holds(number, rule, event, item, received):
                if rule.action != "normalise":
                    return rule.name, rule.action
                for change in rule.changes:
                    event = change_event(event, change, received)
                self.newest = max(self.newest, reached(event))
                item = items.get(event.item_id) if event.item_id is not None else None
        self.noted += self._noting
        return event

    def _holds(
        self, number: int, rule: Rule, event: Event, item: Item | None, received: int | None
    ) -> bool:
        def meets(side: int, alternatives: Any) -> bool:
            for place, part in enumerate(alternatives):
                for c, condition in enumerate(part):
                    where = (number, side * 1000 + place, c)
                    if not self._meets(where, condition, event, item, received):
                        break
                else:
                    return True
            return False

        return (not rule.when or meets(0, rule.when)) and not meets(1, rule.unless)

    def _meets(
        self,
        where: tuple[int, int, int],
        condition: Condition,
        event: Event,
        item: Item | None,
        received: int | None,
    ) -> bool:
        if isinstance(condition, FieldTest):
            return test_field(condition, event, item, received)
        if isinstance(condition, UserAgent):
            text = event.context.get("user_agent")
            return isinstance(text, str) and "bot" in text and "crawler" in condition.classes
        if isinstance(condition, Rate):
            return self._rate(where, condition, event, item, received)
        key = key_of(condition.same, event, item, received)
        return key is not None and any(
            place == where and noted == key and timestamp + condition.within_ms >= self.newest
            for place, noted, _, timestamp in self.noted
        )

    def _rate(
        self,
        where: tuple[int, int, int],
        rate: Rate,
        event: Event,
        item: Item | None,
        received: int | None,
    ) -> bool:
        key = key_of(rate.by, event, item, received)
        if key is None:
            return False
        window = reached(event) // rate.within_ms
        counted = self.counted.setdefault(where, [])
        exceeded = self.exceeded.setdefault(where, [])
        if (window + 2) * rate.within_ms > self.newest:
            counted.append((key, window))
            if counted.count((key, window)) > rate.above:
                exceeded.append((key, reached(event)))
                return True
        return any(k == key and t + rate.hold_ms >= self.newest for k, t in exceeded)

    def _note(
        self, number: int, rule: Rule, event: Event, item: Item | None, received: int | None
    ) -> None:
        for side, alternatives in enumerate((rule.when, rule.unless)):
            for place, part in enumerate(alternatives):
                for c, condition in enumerate(part):
                    if not isinstance(condition, Earlier):
                        continue
                    if condition.events and event.type not in condition.events:
                        continue
                    key = key_of(condition.same, event, item, received)
                    if key is not None:
                        where = (number, side * 1000 + place, c)
                        self._noting.append((where, key, event.type, event.timestamp))


def fields_of(event: Event) -> dict[str, Any]:
    fields = {k: v for k, v in msgspec.structs.asdict(event).items() if v is not msgspec.UNSET}
    return fields | {"properties": {**event.properties}, "context": {**event.context}}


def arrival(event: Event, received: int | None) -> Any:
    stamps = received, event.received_at, event.context.get("received_at")
    return next((stamp for stamp in stamps if stamp is not None), None)


def value_of(name: str, event: Event, item: Item | None, received: int | None) -> Any:
    if name == "subject":
        return event.user_id or (f"device:{event.device_id}" if event.device_id else None)
    if name == "age":
        arrived = arrival(event, received)
        return None if arrived is None else arrived - event.timestamp
    data: Any = fields_of(event)
    data["item"] = None if item is None else msgspec.to_builtins(item)
    for part in name.split("."):
        data = None if data is None else data.get(part)
    return data


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def same(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def test_field(test: FieldTest, event: Event, item: Item | None, received: int | None) -> bool:
    value, operand = value_of(test.field, event, item, received), test.operand
    if test.operator == "missing":
        return (value is None) == operand
    if value is None:
        return False
    if test.operator in BOUNDS:
        if isinstance(operand, Relative):
            bound = value_of(operand.of, event, item, received)
            if not number(bound):
                return False
            operand = bound * operand.times
        return number(value) and bool(BOUNDS[test.operator](value, operand))
    if test.operator == "kind":
        kind = {str: "text", int: "number", float: "number", bool: "flag", list: "list"}
        return kind[type(value)] == operand
    if test.operator == "starts":
        return isinstance(value, str) and value[: len(str(operand))] == operand
    if test.operator == "matches":
        return isinstance(value, str) and bool(re.search(str(operand), value))
    wanted = operand if isinstance(operand, tuple) else (operand,)
    return any(same(value, one) for one in wanted)


def key_of(
    names: Sequence[str], event: Event, item: Item | None, received: int | None
) -> str | None:
    if tuple(names) == ("content",):
        data = fields_of(event)
        del data["event_id"], data["received_at"]
        for stamp in ("sent_at", "received_at"):
            data["context"].pop(stamp, None)
        return json.dumps(data, sort_keys=True)
    values = [value_of(name, event, item, received) for name in names]
    return None if None in values else json.dumps(values)


def change_event(event: Event, change: FieldChange, received: int | None) -> Event:
    data: Any = fields_of(event)
    place, _, part = change.field.rpartition(".")
    held = data[place] if place else data
    old = held.get(part)
    operation, operand = change.operation, change.operand
    if operation == "rename":
        _, _, new_part = str(operand).rpartition(".")
        if old is None:
            return event
        held.setdefault(new_part, None)
        if held[new_part] is None:
            held[new_part] = old
        del held[part]
    elif operation == "convert":
        assert isinstance(operand, Conversion)
        in_, _, currency = operand.currency.rpartition(".")
        for name, rate in operand.rates:
            if data[in_].get(currency) == name and number(old):
                held[part] = old * rate
                data[in_][currency] = operand.to
                break
    elif operation == "correct_clock":
        sent: Any = event.context.get(str(operand).partition(".")[2])
        arrived = arrival(event, received)
        if number(sent) and number(arrived):
            data["timestamp"] = old + arrived - int(sent)
    else:
        new = changed(old, operation, operand)
        if type(new) is type(old) and new == old:
            return event
        if new is None or new == "":
            held[part] = None
            if place:
                del held[part]
        else:
            held[part] = new
    return msgspec.convert(data, Event)


def changed(value: Any, operation: str, operand: Any) -> Any:
    text, amount = isinstance(value, str), number(value)
    if operation == "set":
        return operand
    if operation == "default":
        return operand if value is None else value
    if operation == "remove":
        return None
    if operation == "map" and text:
        return dict(operand).get(value, value)
    if operation in ("strip", "lower", "upper") and text:
        return getattr(value, operation)()
    if operation == "squeeze" and text:
        return re.sub(r"\s+", " ", value).strip()
    if operation == "number" and text and re.fullmatch(r"\s*-?(\d+\.?\d*|\.\d+)\s*", value, re.A):
        return float(value) if "." in value else int(value)
    if operation == "text" and amount and isinstance(value, int):
        return str(value)
    if operation == "absolute" and amount:
        return -value if value < 0 else value
    if operation == "at_least" and amount:
        return max(value, operand)
    if operation == "at_most" and amount:
        return min(value, operand)
    if operation == "times" and amount:
        return value * operand
    if operation == "round" and amount:
        return round(value, operand)
    return value
