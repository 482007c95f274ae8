"""Reads rules from YAML; every error names file, line and key.

The default reason of a rule describes its conditions in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from tactful_streaming.contract.log_entries import Scalar
from tactful_streaming.definitions.model import format_duration
from tactful_streaming.definitions.yaml_nodes import read_text
from tactful_streaming.errors import RuleError
from tactful_streaming.log.dead_letters import UNREADABLE
from tactful_streaming.rules import model as m
from tactful_streaming.rules.conditions import KINDS
from tactful_streaming.rules.read_parts import PartReader

_RULE_KEYS = ("name", "event", "when", "unless", "action", "normalise", "reason")
_WORDS = {
    "equals": "is",
    "in": "is one of",
    "matches": "matches",
    "starts": "starts with",
    "above": "is above",
    "below": "is below",
    "at_least": "is at least",
    "at_most": "is at most",
    "kind": "is of kind",
}
_LONGEST = 200


def read_rules(source: Path | str) -> tuple[m.Rule, ...]:
    """Read rules from a file or a YAML text; a RuleError names file, line and key."""
    name, text = read_text(source, "rules", RuleError)
    reader = _RuleReader(name, RuleError)
    return tuple(reader.rules(reader.compose(text)))


class _RuleReader(PartReader):
    """Reads the nodes of one file of rules."""

    def rules(self, root: yaml.Node | None) -> Iterator[m.Rule]:
        if root is None:
            return
        if not isinstance(root, yaml.SequenceNode):
            raise self.mistake(root, "a list of rules is needed: lines that begin with '- '")
        before: list[m.Rule] = []
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
                        f"no event reaches this rule: {other.name!r} of line {other.line} stops "
                        "all of them; put this rule before it",
                    )
            before.append(rule)
            yield rule

    def _rule(self, node: yaml.Node) -> m.Rule:
        keys = self.mapping(node, "a rule", _RULE_KEYS)
        name = self.required(keys, node, "name", self._name)
        events = self.optional(keys, "event", self.many(self.event), ())
        when = self.optional(keys, "when", self.alternatives, ())
        unless = self.optional(keys, "unless", self.alternatives, ())
        action = self.optional(keys, "action", self.choice(("drop", "dead_letter")), "normalise")
        changes = self.optional(keys, "normalise", self.changes, ())
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
                if (conflict := _find_contradiction(events, part)) is not None:
                    field, problem = conflict
                    nodes = (k for k in _key_nodes(keys[key][1]) if k.value == field)
                    place = next(nodes, keys[key][1])
                    raise self.mistake(place, f"{key}: {field}: no event can meet this: {problem}")
        if unless and any(set(part) <= set(w) for part in unless for w in when or ((),)):
            raise self.mistake(
                keys["unless"][0],
                "unless: this holds whenever the rule would hold: the rule never acts",
            )
        reason = reason or _describe(events, when, unless)
        line = node.start_mark.line + 1
        return m.Rule(name, action, events, when, unless, changes, reason, line)  # type: ignore[arg-type]

    def _name(self, node: yaml.Node) -> str:
        text = self.name(node)
        if text == UNREADABLE:
            raise self.mistake(node, f"{text!r} is reserved for records that are no event")
        return text

    def _reason(self, node: yaml.Node) -> str:
        text = self.text(node)
        if not 1 <= len(text) <= 200:
            raise self.mistake(node, "a reason has 1 to 200 characters")
        return text


def _key_nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for part in parts:
        if isinstance(part, yaml.MappingNode):
            for key_node, _ in part.value:
                yield key_node


def _takes_all(first: m.Rule, second: m.Rule) -> bool:
    """Whether `first` drops or sets aside all events that `second` is about."""
    unconditional = not first.when and not first.unless and first.action != "normalise"
    return unconditional and bool(second.events) and set(second.events) <= set(first.events)


def _find_contradiction(
    events: tuple[str, ...], conditions: Sequence[m.Condition]
) -> tuple[str, str] | None:
    """Find a field that cannot meet all `conditions`, and the reason; else None."""
    by_field: dict[str, list[m.FieldTest]] = {}
    for condition in conditions:
        if isinstance(condition, m.FieldTest):
            by_field.setdefault(condition.field, []).append(condition)
    for field, tests in by_field.items():
        operators = {test.operator: test.operand for test in tests}
        reason = _conflict(operators)
        if field == "type" and events:
            wanted = operators.get("in", (operators.get("equals"),))
            if isinstance(wanted, tuple) and not set(wanted) & {*events, None}:
                reason = f"the rule is about {', '.join(events)} only"
        if reason:
            return field, reason
    return None


def _conflict(tests: dict[str, Any]) -> str:
    """Return the reason why no value meets all `tests` of a field; "" if one does."""
    if tests.get("missing") is True and len(tests) > 1:
        return "a missing field has no value"
    low, high = -math.inf, math.inf
    for operator, bound in tests.items():
        if operator not in m.BOUNDS or isinstance(bound, m.Relative):
            continue
        if operator in ("above", "at_least"):
            low = max(low, bound)
        else:
            high = min(high, bound)
    if low > high or (low == high and ("above" in tests or "below" in tests)):
        return "the bounds leave nothing between them"
    wanted = [tests["equals"]] if "equals" in tests else list(tests.get("in", ()))
    bounded = any(operator in tests for operator in m.BOUNDS)
    if wanted and not any(_meets(value, low, high, bounded, tests) for value in wanted):
        return "the value does not meet the other tests"
    if "kind" in tests and (
        (bounded and tests["kind"] != "number")
        or (any(operator in tests for operator in m.TEXT_TESTS) and tests["kind"] != "text")
    ):
        return f"it is tested as something else than a {tests['kind']}"
    if bounded and any(operator in tests for operator in m.TEXT_TESTS):
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


def _describe(
    events: tuple[str, ...],
    when: tuple[tuple[m.Condition, ...], ...],
    unless: tuple[tuple[m.Condition, ...], ...],
) -> str:
    """Describe the events that a rule matches, in at most 200 characters."""
    parts = [f"type is {' or '.join(events)}"] if events else []
    if when:
        parts.append(_alternatives(when))
    text = " and ".join(parts)
    if unless:
        text = f"{text or 'always'}, unless {_alternatives(unless)}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _alternatives(alternatives: tuple[tuple[m.Condition, ...], ...]) -> str:
    return ", or ".join(" and ".join(map(_describe_condition, part)) for part in alternatives)


def _describe_condition(condition: m.Condition) -> str:
    if isinstance(condition, m.FieldTest):
        return _describe_test(condition)
    if isinstance(condition, m.UserAgent):
        return f"the user agent is of class {' or '.join(condition.classes)}"
    if isinstance(condition, m.Rate):
        return (
            f"over {condition.above} events in {_duration(condition.within_ms)} "
            f"by {' and '.join(condition.by)}"
        )
    assert isinstance(condition, m.Earlier)
    earlier = f"a {' or '.join(condition.events)}" if condition.events else "an event"
    same = " and ".join(condition.same)
    return f"{earlier} of the same {same} came within {_duration(condition.within_ms)}"


def _describe_test(test: m.FieldTest) -> str:
    if test.operator == "missing":
        return f"{test.field} is {'missing' if test.operand else 'given'}"
    if isinstance(test.operand, m.Relative):
        operand = f"{test.operand.times:g} × {test.operand.of}"
    elif isinstance(test.operand, tuple):
        operand = ", ".join(_value(value) for value in test.operand)
    elif test.field == "age" and type(test.operand) is int:
        operand = _duration(test.operand)
    else:
        operand = _value(test.operand)
    return f"{test.field} {_WORDS[test.operator]} {operand}"


def _value(value: Scalar) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    return str(value)


def _duration(milliseconds: int) -> str:
    return ("-" if milliseconds < 0 else "") + format_duration(abs(milliseconds))
