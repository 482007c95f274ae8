"""Validation of a flag's conditions: known groups, portable patterns, plain values."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import Any

from tactful_bandits.assignment.conditions import attribute_names, require_condition
from tactful_bandits.assignment.patterns import require_portable_pattern
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.definitions import require_attribute, require_json

_PATTERNS = ("$regex", "$regexi", "$notRegex", "$notRegexi")
_GROUPS = ("$inGroup", "$notInGroup")


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
        elif key in _GROUPS and part not in groups:
            known = ", ".join(sorted(groups)) or "none"
            raise DefinitionError(f"{place}: there is no group {part!r}; groups are: {known}")
        _require_operands(place, part, groups)
