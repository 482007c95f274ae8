"""Reads conditions and changes of rules from YAML."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any, Final

import yaml

from tactful_streaming.contract.log_entries import Scalar
from tactful_streaming.definitions.yaml_nodes import NodeReader, suggestion
from tactful_streaming.rules import fields
from tactful_streaming.rules import model as m
from tactful_streaming.rules.conditions import KINDS, USER_AGENT_CLASSES
from tactful_streaming.rules.safe_regex import compile_safely

_PART = re.compile(r"[^\s.][^\s]{0,63}")
_FAMILIES = tuple(f"{mapping}.<name>" for mapping in fields.MAPPINGS)
_KNOWN_FIELDS: Final = (*fields.TEXT_FIELDS, *fields.NUMBER_FIELDS, *fields.FLAG_FIELDS, *_FAMILIES)

_OPERATORS = ("equals", "in", *m.TEXT_TESTS, *m.BOUNDS, "missing", "kind")
_MOST_KEYS = 10_000_000
_MAX_ALTERNATIVES = 100

_WORDS = ("strip", "lower", "upper", "squeeze", "absolute", "number", "text", "remove")
_STEPS = (
    *("set", "default", "map", "at_least", "at_most", "clamp", "times", "round"),
    *("rename", "convert", "correct_clock"),
)
_TEXT_STEPS = ("strip", "lower", "upper", "squeeze", "map", "text")
_NUMBER_STEPS = ("absolute", "number", "at_least", "at_most", "clamp", "times", "round", "convert")


class _ConditionReader(NodeReader):
    """Reads the nodes of conditions, and of the fields and values in them."""

    def alternatives(self, node: yaml.Node) -> tuple[tuple[m.Condition, ...], ...]:
        """Read one set of conditions or a list of alternative sets."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not 1 <= len(nodes) <= _MAX_ALTERNATIVES:
            raise self.mistake(node, f"1 to {_MAX_ALTERNATIVES} alternatives are needed")
        return tuple(self._conditions(element) for element in nodes)

    def _conditions(self, node: yaml.Node) -> tuple[m.Condition, ...]:
        conditions: list[m.Condition] = []
        keys = self.mapping(node, "a condition")
        if not keys:
            raise self.mistake(node, "there is no condition in it")
        for key, (key_node, value) in keys.items():
            if key == "user_agent":
                choice = self.choice(USER_AGENT_CLASSES)
                conditions.append(m.UserAgent(self.within(key, self.many(choice), value)))
            elif key == "rate":
                conditions.append(self.within(key, self._rate, value))
            elif key == "earlier":
                conditions.append(self.within(key, self._earlier, value))
            else:
                field = self.field(key_node)
                conditions += self.within(key, lambda v, f=field: self._field_tests(f, v), value)  # type: ignore[misc]
        # Conditions without state come first, so that a rate counts only events that meet them.
        return tuple(sorted(conditions, key=lambda c: isinstance(c, m.Rate | m.Earlier)))

    def field(self, node: yaml.Node) -> str:
        """Read the name of a field."""
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
            problem = f"{text!r} is no field of an event: {', '.join(choices)}{close}"
            raise self.mistake(node, problem)
        return text

    def _field_tests(self, field: str, node: yaml.Node) -> list[m.FieldTest]:
        if isinstance(node, yaml.SequenceNode):
            return [m.FieldTest(field, "in", self._reading(field, "in")(node))]
        if not isinstance(node, yaml.MappingNode):
            return [m.FieldTest(field, "equals", self.operand(field, node))]
        keys = self.mapping(node, "a test", _OPERATORS)
        if not keys:
            raise self.mistake(node, f"there is no test in it: {', '.join(_OPERATORS)}")
        return [
            m.FieldTest(
                field, operator, self.within(operator, self._reading(field, operator), value)
            )
            for operator, (_, value) in keys.items()
        ]

    def _reading(self, field: str, operator: str) -> Any:
        def read(node: yaml.Node) -> Any:
            if operator == "missing":
                return self.choice(("true", "false"))(node) == "true"
            if operator == "in":
                return self.many(lambda n: self.operand(field, n))(node)
            if operator == "kind":
                if not fields.split_field(field)[0]:
                    raise self.mistake(node, f"{field} is always of the same kind")
                return self.choice(tuple(KINDS))(node)
            if operator in m.BOUNDS:
                return self.bound(field, node)
            if operator in m.TEXT_TESTS:
                return self._on_text(field, operator, node)
            return self.operand(field, node)

        return read

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

    def bound(self, field: str, node: yaml.Node) -> Any:
        """Read a number that `field` is compared with, or a multiple of another field."""
        if field in fields.TEXT_FIELDS or field in fields.FLAG_FIELDS:
            raise self.mistake(node, f"{field} is no number")
        if not isinstance(node, yaml.MappingNode):
            bound = self.operand(field, node)
            if type(bound) is not int and type(bound) is not float:
                raise self.mistake(node, f"{self.text(node)!r} is not a number")
            return bound
        keys = self.mapping(node, "a bound", ("of", "times"))
        other = self.required(keys, node, "of", self.field)
        if other in fields.TEXT_FIELDS or other in fields.FLAG_FIELDS:
            raise self.mistake(node, f"of: {other} is no number")
        times = self.optional(keys, "times", self.number, 1)
        if not math.isfinite(times) or other == field:
            raise self.mistake(node, "a bound is another field, times a finite number")
        return m.Relative(other, float(times))

    def operand(self, field: str, node: yaml.Node) -> Scalar:
        """Read a value that `field` may have."""
        if field == "age":
            return self.duration(node, signed=True)
        value = self.scalar(node)
        if field == "type":
            return self.event(node)
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

    def _rate(self, node: yaml.Node) -> m.Rate:
        keys = self.mapping(node, "a rate", ("by", "above", "within", "hold", "most"))
        return m.Rate(
            by=self.required(keys, node, "by", self.many(self.field)),
            above=self.required(keys, node, "above", self.integer(1, 1_000_000_000)),
            within_ms=self.required(keys, node, "within", self.duration),
            hold_ms=self.optional(keys, "hold", self.duration, 0),
            most=self.optional(keys, "most", self.integer(1, _MOST_KEYS), m.Rate.most),
        )

    def _earlier(self, node: yaml.Node) -> m.Earlier:
        keys = self.mapping(node, "earlier", ("event", "same", "within", "most"))
        same = self.required(keys, node, "same", self.many(self._content_or_field))
        if "content" in same and len(same) > 1:
            raise self.mistake(keys["same"][1], "same: content is all fields: name it alone")
        return m.Earlier(
            events=self.optional(keys, "event", self.many(self.event), ()),
            same=same,
            within_ms=self.required(keys, node, "within", self.duration),
            most=self.optional(keys, "most", self.integer(1, _MOST_KEYS), m.Earlier.most),
        )

    def _content_or_field(self, node: yaml.Node) -> str:
        return "content" if self.text(node) == "content" else self.field(node)


class PartReader(_ConditionReader):
    """Reads the nodes of conditions and of changes that normalise events."""

    def changes(self, node: yaml.Node) -> tuple[m.FieldChange, ...]:
        """Read the steps of each field, in order."""
        keys = self.mapping(node, "normalise")
        if not keys:
            raise self.mistake(node, "there is nothing to normalise in it")
        changes: list[m.FieldChange] = []
        for key, (key_node, value) in keys.items():
            field = self._changeable(key_node)
            nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
            if not nodes:
                raise self.mistake(value, f"{key}: the list is empty")
            for element in nodes:
                changes += self.within(key, lambda n, f=field: self._steps(f, n), element)  # type: ignore[misc]
        return tuple(changes)

    def _changeable(self, node: yaml.Node) -> str:
        field = self.field(node)
        mapping, _ = fields.split_field(field)
        if field not in fields.CHANGEABLE and mapping not in ("properties", "context"):
            raise self.mistake(
                node,
                f"{field} cannot be changed: it identifies the event, its user or an item; "
                f"changeable are {', '.join(fields.CHANGEABLE)}, properties.<name> and "
                "context.<name>",
            )
        return field

    def _steps(self, field: str, node: yaml.Node) -> list[m.FieldChange]:
        if isinstance(node, yaml.MappingNode):
            keys = self.mapping(node, "a step", _STEPS)
            if len(keys) != 1:
                raise self.mistake(node, "a step has one key; write several steps as a list")
            operation, (_, value) = next(iter(keys.items()))
            self._suits(field, operation, node)
            return self.within(operation, lambda n: self._step(field, operation, n), value)
        word, steps = self.text(node), (*_WORDS, *_STEPS)
        if word not in _WORDS:
            problem = f"{word!r} is no step: {', '.join(steps)}{suggestion(word, steps)}"
            raise self.mistake(node, problem)
        self._suits(field, word, node)
        return [m.FieldChange(field, word)]

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

    def _step(self, field: str, operation: str, node: yaml.Node) -> list[m.FieldChange]:
        if operation == "clamp":
            if not isinstance(node, yaml.SequenceNode) or len(node.value) != 2:
                raise self.mistake(node, "two numbers are needed: [lowest, highest]")
            low, high = (self.bound(field, element) for element in node.value)
            if isinstance(low, m.Relative) or isinstance(high, m.Relative) or low > high:
                raise self.mistake(node, "two numbers are needed, the lower one first")
            return [m.FieldChange(field, "at_least", low), m.FieldChange(field, "at_most", high)]
        return [m.FieldChange(field, operation, self._step_operand(field, operation, node))]

    def _step_operand(self, field: str, operation: str, node: yaml.Node) -> Any:
        if operation in ("set", "default"):
            value = self.operand(field, node)
            if field == "properties.category" and type(value) is not str:
                raise self.mistake(node, "a category is text: put it in quotes")
            return value
        if operation == "map":
            keys = self.mapping(node, "map")
            return tuple((key, self.operand(field, value)) for key, (_, value) in keys.items())
        if operation in ("at_least", "at_most"):
            bound = self.bound(field, node)
            if isinstance(bound, m.Relative):
                raise self.mistake(node, "a number is needed here")
            return bound
        if operation == "times":
            return self.number(node)
        if operation == "round":
            return self.integer(0, 9)(node)
        if operation == "convert":
            return self._conversion(node)
        other = self.field(node)
        mapping, _ = fields.split_field(other)
        if operation == "rename" and (mapping != fields.split_field(field)[0] or other == field):
            raise self.mistake(node, f"{field} can only become another part of the same mapping")
        if operation == "correct_clock" and mapping != "context":
            raise self.mistake(node, "the sender's clock at sending is in context.<name>")
        return other

    def _conversion(self, node: yaml.Node) -> m.Conversion:
        keys = self.mapping(node, "convert", ("currency", "to", "rates"))
        currency = self.required(keys, node, "currency", self._changeable)
        if not fields.split_field(currency)[0]:
            raise self.mistake(keys["currency"][1], f"currency: {currency} names no currency")
        to = self.required(keys, node, "to", self.text)
        table = self.mapping(keys["rates"][1], "rates") if "rates" in keys else {}
        if not table:
            raise self.mistake(node, "rates are missing: the worth of one unit of each currency")
        rates: list[tuple[str, float]] = []
        for name, (key_node, value) in table.items():
            rate = self.within("rates", self.number, value)
            if not 0 < rate < math.inf or name == to:
                raise self.mistake(key_node, f"rates: {name} needs a rate above 0 and is not {to}")
            rates.append((name, float(rate)))
        return m.Conversion(currency, to, tuple(rates))
