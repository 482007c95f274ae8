"""Conditions in words: the default reasons of rules."""

from __future__ import annotations

from tactful_streaming.contract.log_entries import Scalar
from tactful_streaming.rules.model import (
    Condition,
    Earlier,
    FieldTest,
    Rate,
    Relative,
    UserAgent,
)

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
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


def describe(
    events: tuple[str, ...],
    when: tuple[tuple[Condition, ...], ...],
    unless: tuple[tuple[Condition, ...], ...],
) -> str:
    """Describe the events that a rule matches, in at most 200 characters."""
    parts = [f"type is {' or '.join(events)}"] if events else []
    if when:
        parts.append(_alternatives(when))
    text = " and ".join(parts)
    if unless:
        text = f"{text or 'always'}, unless {_alternatives(unless)}"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _alternatives(alternatives: tuple[tuple[Condition, ...], ...]) -> str:
    return ", or ".join(" and ".join(map(_condition, part)) for part in alternatives)


def _condition(condition: Condition) -> str:
    if isinstance(condition, FieldTest):
        return _field_test(condition)
    if isinstance(condition, UserAgent):
        return f"the user agent is of class {' or '.join(condition.classes)}"
    if isinstance(condition, Rate):
        return (
            f"over {condition.above} events in {_duration(condition.within_ms)} "
            f"by {' and '.join(condition.by)}"
        )
    assert isinstance(condition, Earlier)
    earlier = f"a {' or '.join(condition.events)}" if condition.events else "an event"
    same = " and ".join(condition.same)
    return f"{earlier} of the same {same} came within {_duration(condition.within_ms)}"


def _field_test(test: FieldTest) -> str:
    if test.operator == "missing":
        return f"{test.field} is {'missing' if test.operand else 'given'}"
    if isinstance(test.operand, Relative):
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
    sign, rest = ("-", -milliseconds) if milliseconds < 0 else ("", milliseconds)
    unit, length = next((u, n) for u, n in _UNITS if rest % n == 0)
    return f"{sign}{rest // length}{unit}"
