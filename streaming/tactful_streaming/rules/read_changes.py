"""Reads the changes of rules that normalise events from YAML."""

from __future__ import annotations

import math
from typing import Any

import yaml

from tactful_streaming.definitions.yaml_nodes import NodeReader, suggestion
from tactful_streaming.errors import StreamingError
from tactful_streaming.rules import fields
from tactful_streaming.rules.model import Conversion, FieldChange, Relative
from tactful_streaming.rules.read_conditions import ConditionReader

_WORDS = ("strip", "lower", "upper", "squeeze", "absolute", "number", "text", "remove")
_STEPS = (
    *("set", "default", "map", "at_least", "at_most", "clamp", "times", "round"),
    *("rename", "convert", "correct_clock"),
)
_TEXT_STEPS = ("strip", "lower", "upper", "squeeze", "map", "text")
_NUMBER_STEPS = ("absolute", "number", "at_least", "at_most", "clamp", "times", "round", "convert")


class ChangeReader(NodeReader):
    """Reads the nodes of changes."""

    def __init__(self, file: str, error: type[StreamingError], conditions: ConditionReader) -> None:
        """Read a file called `file`; `conditions` reads the fields and values in it."""
        super().__init__(file, error)
        self._conditions = conditions

    def changes(self, node: yaml.Node) -> tuple[FieldChange, ...]:
        """Read the steps of each field, in order."""
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
        field = self._conditions.field(node)
        mapping, _ = fields.split_field(field)
        if field not in fields.CHANGEABLE and mapping not in ("properties", "context"):
            raise self.mistake(
                node,
                f"{field} cannot be changed: it identifies the event, its user or an item; "
                f"changeable are {', '.join(fields.CHANGEABLE)}, properties.<name> and "
                "context.<name>",
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
            low, high = (self._conditions.bound(field, element) for element in node.value)
            if isinstance(low, Relative) or isinstance(high, Relative) or low > high:
                raise self.mistake(node, "two numbers are needed, the lower one first")
            return [FieldChange(field, "at_least", low), FieldChange(field, "at_most", high)]
        return [FieldChange(field, operation, self._step_operand(field, operation, node))]

    def _step_operand(self, field: str, operation: str, node: yaml.Node) -> Any:
        if operation in ("set", "default"):
            value = self._conditions.operand(field, node)
            if field == "properties.category" and type(value) is not str:
                raise self.mistake(node, "a category is text: put it in quotes")
            return value
        if operation == "map":
            keys = self.mapping(node, "map")
            return tuple(
                (key, self._conditions.operand(field, value)) for key, (_, value) in keys.items()
            )
        if operation in ("at_least", "at_most"):
            bound = self._conditions.bound(field, node)
            if isinstance(bound, Relative):
                raise self.mistake(node, "a number is needed here")
            return bound
        if operation == "times":
            return self.number(node)
        if operation == "round":
            return self.integer(0, 9)(node)
        if operation == "convert":
            return self._conversion(node)
        other = self._conditions.field(node)
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
            raise self.mistake(node, "rates are missing: the worth of one unit of each currency")
        rates: list[tuple[str, float]] = []
        for name, (key_node, value) in table.items():
            rate = self.within("rates", self.number, value)
            if not 0 < rate < math.inf or name == to:
                raise self.mistake(key_node, f"rates: {name} needs a rate above 0 and is not {to}")
            rates.append((name, float(rate)))
        return Conversion(currency, to, tuple(rates))
