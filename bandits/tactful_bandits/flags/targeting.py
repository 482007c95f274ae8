"""Validation of a flag's conditions: known groups, portable patterns, operands that can match.

Evaluation takes any operand, and one of a wrong type matches nothing. In a definition that is a
mistake, which would show only as a rule that never applies.
"""

from collections.abc import Callable, Collection, Mapping
from datetime import date
from typing import Any

from tactful_bandits.assignment.conditions import (
    OPERATORS,
    TYPES,
    attribute_names,
    require_condition,
)
from tactful_bandits.assignment.patterns import require_portable_pattern
from tactful_bandits.assignment.typed_values import read_network
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.definitions import require_attribute, require_json

_PATTERNS = ("$regex", "$regexi", "$notRegex", "$notRegexi")
_GROUPS = ("$inGroup", "$notInGroup")
_ORDER = ("$gt", "$gte", "$lt", "$lte")
_VALUES = ("$eq", "$ne", "$in", "$ini", "$nin", "$nini")  # operands are values, not requirements


def read_condition(where: str, data: object, groups: Collection[str]) -> Mapping[str, Any]:
    """Validate a condition and return it with dates as texts.

    Raises:
        DefinitionError: An operator, a pattern, a group or a value is wrong; the message names the
            place within the condition.
    """
    plain = _plain(data)
    _require_operands(where, plain, groups)
    require_condition(where, plain)
    assert isinstance(plain, dict)
    for name in attribute_names(plain):
        require_attribute(f"{where}: attribute", name)
    require_json(where, plain)
    return plain


def _plain(data: object) -> Any:
    """Convert the dates that YAML reads without quotes into the texts that `$date` compares."""
    if isinstance(data, Mapping):
        return {key: _plain(part) for key, part in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(part) for part in data]
    return data.isoformat() if isinstance(data, date) else data


def _require_operands(where: str, data: object, groups: Collection[str]) -> None:
    if isinstance(data, list):
        for number, part in enumerate(data):
            _require_operands(f"{where}[{number}]", part, groups)
    if not isinstance(data, dict):
        return
    for key, part in data.items():
        place = f"{where}.{key}"
        if key in _PATTERNS:
            require_portable_pattern(place, part)
        elif key in _GROUPS and (not isinstance(part, str) or part not in groups):
            known = ", ".join(sorted(groups)) or "none"
            raise DefinitionError(f"{place}: there is no group {part!r}; groups are: {known}")
        elif key in _OPERANDS:
            fits, expected = _OPERANDS[key]
            if not fits(part):
                raise DefinitionError(f"{place}: expected {expected}, not {part!r}")
        elif not str(key).startswith("$"):
            _require_signs(place, part)
        if key not in _VALUES:
            _require_operands(place, part, groups)


def _require_signs(where: str, requirement: object) -> None:
    """Refuse `{in: [CH]}`, which compares with a JSON object, and means `{$in: [CH]}`."""
    if not isinstance(requirement, dict) or not requirement:
        return
    if all(f"${key}" in OPERATORS for key in requirement):
        meant = ", ".join(f"${key}" for key in requirement)
        raise DefinitionError(
            f"{where}: operators begin with $: write {meant}, or {{$eq: …}} for a JSON object"
        )


def _is_ordered(operand: object) -> bool:
    return isinstance(operand, str | int | float) and not isinstance(operand, bool)


def _are_networks(operand: object) -> bool:
    return isinstance(operand, list) and None not in map(read_network, operand)


_OPERANDS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(_ORDER, (_is_ordered, "a number or a text")),
    "$type": (lambda operand: operand in TYPES, f"one of {', '.join(TYPES)}"),
    "$cidr": (_are_networks, "networks such as 10.0.0.0/8"),
    "$size": (
        lambda operand: isinstance(operand, int | dict) and not isinstance(operand, bool),
        "a number or comparisons such as {$gt: 2}",
    ),
}
