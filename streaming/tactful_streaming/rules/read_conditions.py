"""Reads conditions of rules from YAML."""

from __future__ import annotations

import datetime as dt
import math
import re
from typing import Any, Final

import yaml

from tactful_streaming.contract.log_entries import Scalar
from tactful_streaming.definitions.yaml_nodes import NodeReader, suggestion
from tactful_streaming.rules import fields
from tactful_streaming.rules.conditions import KINDS
from tactful_streaming.rules.model import (
    BOUNDS,
    TEXT_TESTS,
    Condition,
    Earlier,
    FieldTest,
    Rate,
    Relative,
    UserAgent,
)
from tactful_streaming.rules.safe_regex import compile_safely
from tactful_streaming.rules.user_agents import USER_AGENT_CLASSES

_PART = re.compile(r"[^\s.][^\s]{0,63}")
_FAMILIES = tuple(f"{mapping}.<name>" for mapping in fields.MAPPINGS)
_KNOWN_FIELDS: Final = (
    *fields.TEXT_FIELDS,
    *fields.NUMBER_FIELDS,
    *fields.FLAG_FIELDS,
    *_FAMILIES,
)

_OPERATORS = ("equals", "in", *TEXT_TESTS, *BOUNDS, "missing", "kind")
_MOST_KEYS = 10_000_000
_MAX_ALTERNATIVES = 100


class ConditionReader(NodeReader):
    """Reads the nodes of conditions, and of the fields and values in them."""

    def alternatives(self, node: yaml.Node) -> tuple[tuple[Condition, ...], ...]:
        """Read one set of conditions or a list of alternative sets."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if not 1 <= len(nodes) <= _MAX_ALTERNATIVES:
            raise self.mistake(node, f"1 to {_MAX_ALTERNATIVES} alternatives are needed")
        return tuple(self._conditions(element) for element in nodes)

    def _conditions(self, node: yaml.Node) -> tuple[Condition, ...]:
        conditions: list[Condition] = []
        keys = self.mapping(node, "a condition")
        if not keys:
            raise self.mistake(node, "there is no condition in it")
        for key, (key_node, value) in keys.items():
            if key == "user_agent":
                choice = self.choice(USER_AGENT_CLASSES)
                conditions.append(UserAgent(self.within(key, self.many(choice), value)))
            elif key == "rate":
                conditions.append(self.within(key, self._rate, value))
            elif key == "earlier":
                conditions.append(self.within(key, self._earlier, value))
            else:
                field = self.field(key_node)
                conditions += self.within(key, lambda v, f=field: self._field_tests(f, v), value)  # type: ignore[misc]
        # Conditions without state come first, so that a rate counts only events that meet them.
        return tuple(sorted(conditions, key=lambda c: isinstance(c, Rate | Earlier)))

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
            raise self.mistake(
                node, f"{text!r} is no field of an event: {', '.join(choices)}{close}"
            )
        return text

    def _field_tests(self, field: str, node: yaml.Node) -> list[FieldTest]:
        if isinstance(node, yaml.SequenceNode):
            values = self.many(lambda n: self.operand(field, n))(node)
            return [FieldTest(field, "in", values)]
        if not isinstance(node, yaml.MappingNode):
            return [FieldTest(field, "equals", self.operand(field, node))]
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
                return self.many(lambda n: self.operand(field, n))(node)
            if operator == "kind":
                self._only_for_parts(field, node)
                return self.choice(tuple(KINDS))(node)
            if operator in BOUNDS:
                return self.bound(field, node)
            if operator in TEXT_TESTS:
                return self._on_text(field, operator, node)
            return self.operand(field, node)

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
        return Relative(other, float(times))

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

    def _rate(self, node: yaml.Node) -> Rate:
        keys = self.mapping(node, "a rate", ("by", "above", "within", "hold", "most"))
        return Rate(
            by=self.required(keys, node, "by", self.many(self.field)),
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
            events=self.optional(keys, "event", self.many(self.event), ()),
            same=same,
            within_ms=self.required(keys, node, "within", self.duration),
            most=self.optional(keys, "most", self.integer(1, _MOST_KEYS), Earlier.most),
        )

    def _content_or_field(self, node: yaml.Node) -> str:
        return "content" if self.text(node) == "content" else self.field(node)
