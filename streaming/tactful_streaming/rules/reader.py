"""Reads rules from YAML; every complaint names file, line and key."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tactful_streaming.contract.log_entries import Scalar
from tactful_streaming.contract.wire import EVENT_TYPES
from tactful_streaming.definitions.yaml_nodes import NodeReader, read_text, suggestion
from tactful_streaming.errors import RuleError
from tactful_streaming.log.dead_letters import UNREADABLE
from tactful_streaming.rules import fields
from tactful_streaming.rules.conditions import KINDS
from tactful_streaming.rules.describe import describe
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
from tactful_streaming.rules.safe_regex import compile_safely
from tactful_streaming.rules.user_agents import USER_AGENT_CLASSES

_RULE_KEYS = ("name", "event", "when", "unless", "action", "normalise", "reason")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CUSTOM_TYPE = re.compile(r"x\.[a-z0-9_.-]{1,62}")
_PART = re.compile(r"[^\s.][^\s]{0,63}")
_FAMILIES = tuple(f"{mapping}.<name>" for mapping in fields.MAPPINGS)
_KNOWN_FIELDS: Final = (
    *fields.TEXT_FIELDS,
    *fields.NUMBER_FIELDS,
    *fields.FLAG_FIELDS,
    *_FAMILIES,
)

_BOUNDS = ("above", "below", "at_least", "at_most")
_ON_TEXT = ("matches", "starts")
_OPERATORS = ("equals", "in", *_ON_TEXT, *_BOUNDS, "missing", "kind")
_WORDS = ("strip", "lower", "upper", "squeeze", "absolute", "number", "text", "remove")
_STEPS = (
    *("set", "default", "map", "at_least", "at_most", "clamp", "times", "round"),
    *("rename", "convert", "correct_clock"),
)
_TEXT_STEPS = ("strip", "lower", "upper", "squeeze", "map", "text")
_NUMBER_STEPS = ("absolute", "number", "at_least", "at_most", "clamp", "times", "round", "convert")
_MOST_KEYS = 10_000_000
_MAX_ALTERNATIVES = 100

_Alternatives = tuple[tuple[Condition, ...], ...]


def read_rules(source: Path | str) -> tuple[Rule, ...]:
    """Read rules from a file or a YAML text.

    Raises:
        RuleError: names file, line and key of the first thing that is wrong.
    """
    name, text = read_text(source, "rules", RuleError)
    reader = _RuleReader(name, RuleError)
    return tuple(reader.rules(reader.compose(text)))


class _RuleReader(NodeReader):
    """Reads the nodes of one file of rules."""

    def rules(self, root: yaml.Node | None) -> Iterator[Rule]:
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            raise self.mistake(root, "a list of rules is needed: lines that begin with '- '")
        before: list[Rule] = []
        for node in root.value:
            rule = self._rule(node)
            for other in before:
                if other.name == rule.name:
                    raise self.mistake(
                        node, f"name: {rule.name!r} is taken by the rule of line {other.line}"
                    )
                if _takes_all(other, rule):
                    raise self.mistake(
                        node,
                        f"no event comes this far: {other.name!r} of line {other.line} takes them "
                        "all; put this rule before it",
                    )
            before.append(rule)
            yield rule

    def _rule(self, node: yaml.Node) -> Rule:
        keys = self.mapping(node, "a rule", _RULE_KEYS)
        name = self.required(keys, node, "name", self._name)
        events = self.optional(keys, "event", self.many(self._event), ())
        when = self.optional(keys, "when", self._alternatives, ())
        unless = self.optional(keys, "unless", self._alternatives, ())
        action = self.optional(keys, "action", self.choice(("drop", "dead_letter")), "normalise")
        changes = self.optional(keys, "normalise", self._changes, ())
        reason = self.optional(keys, "reason", self._reason, "")
        if ("action" in keys) == ("normalise" in keys):
            raise self.mistake(
                node, "a rule has either action: drop, action: dead_letter, or normalise"
            )
        if not (events or when or unless) and action != "normalise":
            raise self.mistake(
                node,
                f"without event, when or unless it would {action} every event: add a condition",
            )
        for key, parts in (("when", when), ("unless", unless)):
            for part in parts:
                self._consistent(keys[key][1], key, events, part)
        if unless and any(set(part) <= set(w) for part in unless for w in when or ((),)):
            raise self.mistake(
                keys["unless"][0], "unless: whenever the rule would hold, this does: it never acts"
            )
        return Rule(
            name=name,
            action=action,  # type: ignore[arg-type]
            events=events,
            when=when,
            unless=unless,
            changes=changes,
            reason=reason or describe(events, when, unless),
            line=node.start_mark.line + 1,
        )

    def _name(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not _NAME.fullmatch(text):
            raise self.mistake(node, f"{text!r} is not snake_case of at most 64 characters")
        if text == UNREADABLE:
            raise self.mistake(node, f"{text!r} stands for records that are no event")
        return text

    def _reason(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not 1 <= len(text) <= 200:
            raise self.mistake(node, "a reason has 1 to 200 characters")
        return text

    def _event(self, node: yaml.Node) -> str:
        text = self.text(node)
        if text not in EVENT_TYPES and not _CUSTOM_TYPE.fullmatch(text):
            known = sorted(EVENT_TYPES)
            raise self.mistake(node, f"{text!r} is not one of {', '.join(known)} or x.<custom>")
        return text

    # Conditions

    def _alternatives(self, node: yaml.Node) -> _Alternatives:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not 1 <= len(nodes) <= _MAX_ALTERNATIVES:
            raise self.mistake(node, f"1 to {_MAX_ALTERNATIVES} alternatives are needed")
        return tuple(self._conditions(element) for element in nodes)

    def _conditions(self, node: yaml.Node) -> tuple[Condition, ...]:
        found: list[Condition] = []
        keys = self.mapping(node, "a condition")
        if not keys:
            raise self.mistake(node, "there is no condition in it")
        for key, (key_node, value) in keys.items():
            if key == "user_agent":
                choice = self.choice(USER_AGENT_CLASSES)
                found.append(UserAgent(self.within(key, self.many(choice), value)))
            elif key == "rate":
                found.append(self.within(key, self._rate, value))
            elif key == "earlier":
                found.append(self.within(key, self._earlier, value))
            else:
                field = self._field(key_node)
                found += self.within(key, lambda v, f=field: self._field_tests(f, v), value)  # type: ignore[misc]
        # What only looks at the event comes first: a rate then counts the events it is about.
        return tuple(sorted(found, key=lambda c: isinstance(c, Rate | Earlier)))

    def _field(self, node: yaml.Node) -> str:
        text = self.text(node)
        mapping, part = fields.split_field(text)
        known = bool(_PART.fullmatch(part)) if mapping else text in _KNOWN_FIELDS
        if not known or text in _FAMILIES:
            choices = (*_KNOWN_FIELDS, "user_agent", "rate", "earlier")
            close = suggestion(text, choices)
            if "." in text:
                head, _, tail = text.partition(".")
                close = suggestion(head, fields.MAPPINGS).replace("?", f".{tail}?") or close
                close = close.replace(f"'.{tail}", f".{tail}'")
            raise self.mistake(
                node, f"{text!r} is no field of an event: {', '.join(choices)}{close}"
            )
        return text

    def _field_tests(self, field: str, node: yaml.Node) -> list[FieldTest]:
        if isinstance(node, yaml.SequenceNode):
            values = self.many(lambda n: self._operand(field, n))(node)
            return [FieldTest(field, "in", values)]
        if not isinstance(node, yaml.MappingNode):
            return [FieldTest(field, "equals", self._operand(field, node))]
        keys = self.mapping(node, "a test", _OPERATORS)
        if not keys:
            raise self.mistake(node, f"there is no test in it: {', '.join(_OPERATORS)}")
        return [
            FieldTest(field, operator, self.within(operator, self._reading(field, operator), value))
            for operator, (_, value) in keys.items()
        ]

    def _reading(self, field: str, operator: str) -> Any:
        def read(node: yaml.Node) -> Any:
            if operator == "missing":
                return self.choice(("true", "false"))(node) == "true"
            if operator == "in":
                return self.many(lambda n: self._operand(field, n))(node)
            if operator == "kind":
                self._only_for_parts(field, node)
                return self.choice(tuple(KINDS))(node)
            if operator in _BOUNDS:
                return self._bound(field, node)
            if operator in _ON_TEXT:
                return self._on_text(field, operator, node)
            return self._operand(field, node)

        return read

    def _only_for_parts(self, field: str, node: yaml.Node) -> None:
        if not fields.split_field(field)[0]:
            raise self.mistake(node, f"{field} is always of the same kind")

    def _on_text(self, field: str, operator: str, node: yaml.Node) -> str:
        if field in fields.NUMBER_FIELDS or field in fields.FLAG_FIELDS:
            raise self.mistake(node, f"{field} is no text")
        text = self.text(node)
        if operator == "matches":
            try:
                compile_safely(text)
            except ValueError as error:
                raise self.mistake(node, f"{text!r}: {error}") from error
        elif not text:
            raise self.mistake(node, "every text starts with nothing")
        return text

    def _bound(self, field: str, node: yaml.Node) -> Any:
        if field in fields.TEXT_FIELDS or field in fields.FLAG_FIELDS:
            raise self.mistake(node, f"{field} is no number")
        if not isinstance(node, yaml.MappingNode):
            bound = self._operand(field, node)
            if type(bound) is not int and type(bound) is not float:
                raise self.mistake(node, f"{self.text(node)!r} is not a number")
            return bound
        keys = self.mapping(node, "a bound", ("of", "times"))
        other = self.required(keys, node, "of", self._field)
        if other in fields.TEXT_FIELDS or other in fields.FLAG_FIELDS:
            raise self.mistake(node, f"of: {other} is no number")
        times = self.optional(keys, "times", self.number, 1)
        if not math.isfinite(times) or other == field:
            raise self.mistake(node, "a bound is another field, times a finite number")
        return Relative(other, float(times))

    def _operand(self, field: str, node: yaml.Node) -> Scalar:
        """A value that `field` may have."""
        if field == "age":
            return self.duration(node, signed=True)
        value = self.scalar(node)
        if field == "type":
            return self._event(node)
        if field == "timestamp" and type(value) is str:
            return self._moment(node, value)
        kind = "a number" if type(value) in (int, float) else "true or false"
        if field in fields.TEXT_FIELDS:
            value = self.text(node)
        elif field in fields.NUMBER_FIELDS and type(value) not in (int, float):
            raise self.mistake(node, f"{self.text(node)!r} is not a number")
        elif field in fields.FLAG_FIELDS and type(value) is not bool:
            raise self.mistake(node, f"{self.text(node)!r} is {kind}; write true or false")
        if type(value) is float and not math.isfinite(value):
            raise self.mistake(node, f"{self.text(node)!r} is not finite")
        return value

    def _moment(self, node: yaml.Node, text: str) -> int:
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError as error:
            raise self.mistake(
                node, f"{text!r} is neither epoch milliseconds nor a date as 2024-01-31T12:00Z"
            ) from error
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=dt.UTC)
        return round(moment.timestamp() * 1000)

    def _rate(self, node: yaml.Node) -> Rate:
        keys = self.mapping(node, "a rate", ("by", "above", "within", "hold", "most"))
        return Rate(
            by=self.required(keys, node, "by", self.many(self._field)),
            above=self.required(keys, node, "above", self.integer(1, 1_000_000_000)),
            within_ms=self.required(keys, node, "within", self.duration),
            hold_ms=self.optional(keys, "hold", self.duration, 0),
            most=self.optional(keys, "most", self.integer(1, _MOST_KEYS), Rate.most),
        )

    def _earlier(self, node: yaml.Node) -> Earlier:
        keys = self.mapping(node, "earlier", ("event", "same", "within", "most"))
        same = self.required(keys, node, "same", self.many(self._content_or_field))
        if "content" in same and len(same) > 1:
            raise self.mistake(keys["same"][1], "same: content is all fields: name it alone")
        return Earlier(
            events=self.optional(keys, "event", self.many(self._event), ()),
            same=same,
            within_ms=self.required(keys, node, "within", self.duration),
            most=self.optional(keys, "most", self.integer(1, _MOST_KEYS), Earlier.most),
        )

    def _content_or_field(self, node: yaml.Node) -> str:
        return "content" if self.text(node) == "content" else self._field(node)

    def _consistent(
        self, node: yaml.Node, key: str, events: tuple[str, ...], part: Sequence[Condition]
    ) -> None:
        by_field: dict[str, list[FieldTest]] = {}
        for condition in part:
            if isinstance(condition, FieldTest):
                by_field.setdefault(condition.field, []).append(condition)
        for field, tests in by_field.items():
            operators = {test.operator: test.operand for test in tests}
            clash = _contradiction(operators)
            if field == "type" and events:
                wanted = operators.get("in", (operators.get("equals"),))
                if isinstance(wanted, tuple) and not set(wanted) & {*events, None}:
                    clash = f"the rule is about {', '.join(events)} only"
            if clash:
                place = next((k for k in _key_nodes(node) if k.value == field), node)
                raise self.mistake(place, f"{key}: {field}: no event can meet this: {clash}")

    # Changes

    def _changes(self, node: yaml.Node) -> tuple[FieldChange, ...]:
        keys = self.mapping(node, "normalise")
        if not keys:
            raise self.mistake(node, "there is nothing to normalise in it")
        changes: list[FieldChange] = []
        for key, (key_node, value) in keys.items():
            field = self._changeable(key_node)
            nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if not nodes:
                raise self.mistake(value, f"{key}: the list is empty")
            for element in nodes:
                changes += self.within(key, lambda n, f=field: self._steps(f, n), element)  # type: ignore[misc]
        return tuple(changes)

    def _changeable(self, node: yaml.Node) -> str:
        field = self._field(node)
        mapping, _ = fields.split_field(field)
        if field not in fields.CHANGEABLE and mapping not in ("properties", "context"):
            raise self.mistake(
                node,
                f"{field} cannot be changed: what names the event, the person or the catalogue "
                f"decides where it belongs; {', '.join(fields.CHANGEABLE)}, properties.<name> and "
                "context.<name> can",
            )
        return field

    def _steps(self, field: str, node: yaml.Node) -> list[FieldChange]:
        if isinstance(node, yaml.MappingNode):
            keys = self.mapping(node, "a step", _STEPS)
            if len(keys) != 1:
                raise self.mistake(node, "a step has one key; write several steps as a list")
            operation, (_, value) = next(iter(keys.items()))
            self._suits(field, operation, node)
            return self.within(operation, lambda n: self._step(field, operation, n), value)
        word = self.text(node)
        if word not in _WORDS:
            raise self.mistake(
                node,
                f"{word!r} is no step: {', '.join((*_WORDS, *_STEPS))}"
                f"{suggestion(word, (*_WORDS, *_STEPS))}",
            )
        self._suits(field, word, node)
        return [FieldChange(field, word)]

    def _suits(self, field: str, operation: str, node: yaml.Node) -> None:
        plain = not fields.split_field(field)[0]
        wrong = (
            (field == "timestamp" and (operation in _TEXT_STEPS or operation == "remove"))
            or (plain and field != "timestamp" and operation in _NUMBER_STEPS)
            or (plain and operation == "rename")
            or (field != "timestamp" and operation == "correct_clock")
            or (field == "timestamp" and operation in ("number", "times", "round", "convert"))
        )
        if wrong:
            raise self.mistake(node, f"{operation} does not suit {field}")

    def _step(self, field: str, operation: str, node: yaml.Node) -> list[FieldChange]:
        if operation == "clamp":
            if not isinstance(node, yaml.SequenceNode) or len(node.value) != 2:
                raise self.mistake(node, "two numbers are needed: [lowest, highest]")
            low, high = (self._bound(field, element) for element in node.value)
            if isinstance(low, Relative) or isinstance(high, Relative) or low > high:
                raise self.mistake(node, "two numbers are needed, the lower one first")
            return [FieldChange(field, "at_least", low), FieldChange(field, "at_most", high)]
        return [FieldChange(field, operation, self._step_operand(field, operation, node))]

    def _step_operand(self, field: str, operation: str, node: yaml.Node) -> Any:
        if operation in ("set", "default"):
            value = self._operand(field, node)
            if field == "properties.category" and type(value) is not str:
                raise self.mistake(node, "a category is text: put it in quotes")
            return value
        if operation == "map":
            keys = self.mapping(node, "map")
            return tuple((key, self._operand(field, value)) for key, (_, value) in keys.items())
        if operation in ("at_least", "at_most"):
            bound = self._bound(field, node)
            if isinstance(bound, Relative):
                raise self.mistake(node, "a number is needed here")
            return bound
        if operation == "times":
            return self.number(node)
        if operation == "round":
            return self.integer(0, 9)(node)
        if operation == "convert":
            return self._conversion(node)
        other = self._field(node)
        mapping, _ = fields.split_field(other)
        if operation == "rename" and (mapping != fields.split_field(field)[0] or other == field):
            raise self.mistake(node, f"{field} can only become another part of the same mapping")
        if operation == "correct_clock" and mapping != "context":
            raise self.mistake(node, "the sender's clock at sending is in context.<name>")
        return other

    def _conversion(self, node: yaml.Node) -> Conversion:
        keys = self.mapping(node, "convert", ("currency", "to", "rates"))
        currency = self.required(keys, node, "currency", self._changeable)
        if not fields.split_field(currency)[0]:
            raise self.mistake(keys["currency"][1], f"currency: {currency} names no currency")
        to = self.required(keys, node, "to", self.text)
        table = self.mapping(keys["rates"][1], "rates") if "rates" in keys else {}
        if not table:
            raise self.mistake(node, "rates are missing: what one unit of a currency is worth")
        rates: list[tuple[str, float]] = []
        for name, (key_node, value) in table.items():
            rate = self.within("rates", self.number, value)
            if not 0 < rate < math.inf or name == to:
                raise self.mistake(key_node, f"rates: {name} needs a rate above 0 and is not {to}")
            rates.append((name, float(rate)))
        return Conversion(currency, to, tuple(rates))


def _key_nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for part in parts:
        if isinstance(part, yaml.MappingNode):
            for key_node, _ in part.value:
                yield key_node


def _takes_all(first: Rule, second: Rule) -> bool:
    """Whether no event that `second` is about gets past `first`."""
    unconditional = not first.when and not first.unless and first.action != "normalise"
    return unconditional and bool(second.events) and set(second.events) <= set(first.events)


def _contradiction(tests: dict[str, Any]) -> str:
    """Why no value can meet all `tests` of a field at once; "" if one can."""
    if tests.get("missing") is True and len(tests) > 1:
        return "what is missing has no value"
    low, high = -math.inf, math.inf
    for operator, bound in tests.items():
        if operator not in _BOUNDS or isinstance(bound, Relative):
            continue
        if operator in ("above", "at_least"):
            low = max(low, bound)
        else:
            high = min(high, bound)
    if low > high or (low == high and ("above" in tests or "below" in tests)):
        return "the bounds leave nothing between them"
    wanted = [tests["equals"]] if "equals" in tests else list(tests.get("in", ()))
    bounded = any(operator in tests for operator in _BOUNDS)
    if wanted and not any(_meets(value, low, high, bounded, tests) for value in wanted):
        return "the value does not meet the other tests"
    if "kind" in tests and (
        (bounded and tests["kind"] != "number")
        or (any(operator in tests for operator in _ON_TEXT) and tests["kind"] != "text")
    ):
        return f"it is tested as something else than a {tests['kind']}"
    if bounded and any(operator in tests for operator in _ON_TEXT):
        return "it is tested as a number and as text"
    return ""


def _meets(value: Any, low: float, high: float, bounded: bool, tests: dict[str, Any]) -> bool:
    if "kind" in tests and type(value) not in KINDS[tests["kind"]]:
        return False
    if bounded:
        if type(value) not in (int, float) or not low <= value <= high:
            return False
        if ("above" in tests and value == low) or ("below" in tests and value == high):
            return False
    if "starts" in tests and not (type(value) is str and value.startswith(tests["starts"])):
        return False
    return "in" not in tests or "equals" not in tests or value in tests["in"]
