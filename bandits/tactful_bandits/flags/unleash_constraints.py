"""Constraints of Unleash as conditions."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tactful_bandits.assignment.typed_values import READERS, read_network
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.conversion import Refusal
from tactful_bandits.flags.re2_patterns import translate_re2

_COMPARISONS = {"EQ": "$eq", "GT": "$gt", "GTE": "$gte", "LT": "$lt", "LTE": "$lte"}
_DATES = {"DATE_AFTER": "$gt", "DATE_BEFORE": "$lt"}
_TEXTS = {
    "STR_STARTS_WITH": "^(?:{})",
    "STR_ENDS_WITH": "(?:{})$",
    "STR_CONTAINS": "(?:{})",
}


class Never(Exception):
    """A constraint never holds; the message says why."""


def convert_constraint(constraint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the condition of one constraint.

    Raises:
        Never: It holds for nobody: the operator, a version or a pattern is wrong. Unleash treats
            such a constraint alike.
    """
    name, operator = constraint["contextName"], str(constraint["operator"])
    condition = {name: _requirement(operator, constraint)}
    return {"$not": condition} if constraint.get("inverted") else condition


def _requirement(operator: str, constraint: Mapping[str, Any]) -> dict[str, Any]:
    values = list(constraint.get("values") or ())
    value = constraint.get("value")
    ignores = bool(constraint.get("caseInsensitive"))
    if operator in ("IN", "NOT_IN"):
        suffix = "i" if ignores else ""
        return {("$in" if operator == "IN" else "$nin") + suffix: values}
    if operator in _TEXTS:
        if not values:
            raise Never(f"{operator} has no values")
        pattern = _TEXTS[operator].format("|".join(map(_escape, values)))
        return {"$exists": True, ("$regexi" if ignores else "$regex"): pattern}
    if operator == "REGEX":
        try:
            pattern, folded = translate_re2(str(value))
        except (Refusal, DefinitionError) as error:
            raise Never(str(error)) from error
        return {"$exists": True, ("$regexi" if ignores or folded else "$regex"): pattern}
    if operator == "IN_CIDR":
        return {"$cidr": [text for text in values if read_network(text) is not None]}
    family, _, comparison = operator.partition("_")
    if family == "NUM" and comparison in _COMPARISONS:
        return _typed("$number", _COMPARISONS[comparison], value)
    if family == "SEMVER" and comparison in _COMPARISONS:
        return _typed("$semver", _COMPARISONS[comparison], value)
    if operator in _DATES:
        return _typed("$date", _DATES[operator], value)
    raise Never(f"there is no operator {operator}")


def _typed(operator: str, comparison: str, value: Any) -> dict[str, Any]:
    read: Callable[[object], Any] = READERS[operator]
    if read(value) is None:
        raise Never(f"{value!r} cannot be read by {operator}")
    return {operator: {comparison: value}}


def _escape(text: object) -> str:
    return re.sub(r"[\\^$.*+?()\[\]{}|/]", lambda found: "\\" + found[0], str(text))
