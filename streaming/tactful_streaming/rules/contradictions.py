"""Find tests of one field that no value can meet together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tactful_streaming.rules.conditions import KINDS
from tactful_streaming.rules.model import BOUNDS, TEXT_TESTS, Condition, FieldTest, Relative


def find_contradiction(
    events: tuple[str, ...], conditions: Sequence[Condition]
) -> tuple[str, str] | None:
    """Find a field that cannot meet `conditions`, and the reason; None without one.

    Args:
        events: types of the rule; empty for any.
        conditions: all of them must hold.
    """
    by_field: dict[str, list[FieldTest]] = {}
    for condition in conditions:
        if isinstance(condition, FieldTest):
            by_field.setdefault(condition.field, []).append(condition)
    for field, tests in by_field.items():
        operators = {test.operator: test.operand for test in tests}
        reason = _contradiction(operators)
        if field == "type" and events:
            wanted = operators.get("in", (operators.get("equals"),))
            if isinstance(wanted, tuple) and not set(wanted) & {*events, None}:
                reason = f"the rule is about {', '.join(events)} only"
        if reason:
            return field, reason
    return None


def _contradiction(tests: dict[str, Any]) -> str:
    """Return the reason why no value meets all `tests` of a field; "" if one does."""
    if tests.get("missing") is True and len(tests) > 1:
        return "a missing field has no value"
    low, high = -math.inf, math.inf
    for operator, bound in tests.items():
        if operator not in BOUNDS or isinstance(bound, Relative):
            continue
        if operator in ("above", "at_least"):
            low = max(low, bound)
        else:
            high = min(high, bound)
    if low > high or (low == high and ("above" in tests or "below" in tests)):
        return "the bounds leave nothing between them"
    wanted = [tests["equals"]] if "equals" in tests else list(tests.get("in", ()))
    bounded = any(operator in tests for operator in BOUNDS)
    if wanted and not any(_meets(value, low, high, bounded, tests) for value in wanted):
        return "the value does not meet the other tests"
    if "kind" in tests and (
        (bounded and tests["kind"] != "number")
        or (any(operator in tests for operator in TEXT_TESTS) and tests["kind"] != "text")
    ):
        return f"it is tested as something else than a {tests['kind']}"
    if bounded and any(operator in tests for operator in TEXT_TESTS):
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
