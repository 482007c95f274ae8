"""Targeting conditions: which units an experiment admits, written as data.

```yaml
condition:
  country: {$in: [CH, AT]}
  age: {$gte: 18}
  $not: {tags: {$elemMatch: {$eq: staff}}}
```

The language is GrowthBook's, which is MongoDB's query language without the database, so definitions
can be moved between the two. Evaluation never fails: values that cannot be compared do not match.
Unlike JavaScript, a number is never above or below a text, and nothing is above or below a missing
attribute (three of GrowthBook's published cases expect JavaScript's conversion). The operators
`$number`, `$date`, `$semver` and `$cidr` are additions (`tactful_bandits.assignment.typed_values`).
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence

from tactful_bandits.assignment.patterns import search
from tactful_bandits.assignment.texts import as_double, as_json, as_text, compare_texts, is_true
from tactful_bandits.assignment.typed_values import (
    COMPARISONS,
    READERS,
    compare_typed,
    in_networks,
    parse_number,
)
from tactful_bandits.errors import DefinitionError

Condition = Mapping[str, object]
"""Attribute paths (``a.b``) and ``$`` operators, from JSON or YAML."""

Groups = Mapping[str, Sequence[object]]
"""Named lists of values, for ``$inGroup``."""

_LOGIC = ("$and", "$or", "$nor", "$not")
_LISTS = ("$all", "$alli")
_GROUPS = ("$inGroup", "$notInGroup")
_DEEPEST = 32


def matches(
    condition: Condition, attributes: Mapping[str, object], groups: Groups | None = None
) -> bool:
    """Evaluate a condition on attributes; an empty condition always holds.

    Attributes are texts, numbers, booleans, lists, mappings or None. A group that ``$inGroup``
    names and that is unknown is empty; an unknown operator never holds (`require_condition` rejects
    it).
    """
    return _all(condition, attributes, groups or {})


def attribute_names(condition: Condition) -> frozenset[str]:
    """Return the names of the attributes that a valid condition reads, without their paths.

    >>> sorted(attribute_names({"a.b": 1, "$or": [{"c": 2}, {"$not": {"d": 3}}]}))
    ['a', 'c', 'd']
    """
    found: set[str] = set()
    for key, part in condition.items():
        if not key.startswith("$"):
            found.add(key.split(".")[0])
            continue
        nested = part if isinstance(part, Sequence) else (part,)
        found.update(*(attribute_names(each) for each in nested if isinstance(each, Mapping)))
    return frozenset(found)


def require_condition(where: str, condition: object) -> None:
    """Validate a condition before it is used.

    Raises:
        DefinitionError: It is no mapping, nested too deep, or holds an unknown operator, an operand
            of the wrong type or an invalid regular expression; the message names the place.
    """
    _require_mapping(where, condition, 0)


def _part(key: str, requirement: object, attributes: object, groups: Groups) -> bool:
    if key in ("$and", "$or", "$nor"):
        parts = requirement if isinstance(requirement, Sequence) else ()
        fulfilled = (isinstance(c, Mapping) and _all(c, attributes, groups) for c in parts)
        if key == "$and":
            return all(fulfilled)
        # An empty `$or` holds and an empty `$nor` does not, as in the published cases.
        return (not parts or any(fulfilled)) == (key == "$or")
    if key == "$not":
        return not (isinstance(requirement, Mapping) and _all(requirement, attributes, groups))
    return _value(requirement, _look_up(attributes, key), groups, ignore_case=False)


def _all(condition: Condition, attributes: object, groups: Groups) -> bool:
    return all(_part(key, part, attributes, groups) for key, part in condition.items())


def _look_up(attributes: object, path: str) -> object:
    for step in path.split("."):
        if not isinstance(attributes, Mapping) or step not in attributes:
            return None
        attributes = attributes[step]
    return attributes


def _value(requirement: object, actual: object, groups: Groups, *, ignore_case: bool) -> bool:
    """Evaluate operators on one value, or equality after type conversion."""
    if isinstance(requirement, str):
        text = as_text(actual)
        return text.lower() == requirement.lower() if ignore_case else text == requirement
    if isinstance(requirement, bool):
        return actual is not None and is_true(actual) == requirement
    if isinstance(requirement, int | float):
        return _as_number(actual) == as_double(requirement)
    if requirement is None:
        return actual is None
    if isinstance(requirement, Mapping) and _is_operators(requirement):
        return all(_operator(key, operand, actual, groups) for key, operand in requirement.items())
    return as_json(actual) == as_json(requirement)


def _operator(name: str, operand: object, actual: object, groups: Groups) -> bool:
    if name in _OPERATORS:
        return _OPERATORS[name](actual, operand)
    if name in _GROUPS:
        group = groups.get(operand, ()) if isinstance(operand, str) else ()
        return _is_in(actual, group) == (name == "$inGroup")
    if name == "$not":
        return not _value(operand, actual, groups, ignore_case=False)
    if not isinstance(actual, list | tuple):
        return False
    if name == "$size":
        return _value(operand, len(actual), groups, ignore_case=False)
    if name == "$elemMatch":
        return any(_element(operand, element, groups) for element in actual)
    if name in _LISTS and isinstance(operand, list | tuple):
        return all(
            any(_value(value, element, groups, ignore_case=name == "$alli") for element in actual)
            for value in operand
        )
    return False


def _element(requirement: object, element: object, groups: Groups) -> bool:
    if isinstance(requirement, Mapping) and not _is_operators(requirement):
        return _all(requirement, element, groups)
    return _value(requirement, element, groups, ignore_case=False)


def _is_operators(requirement: Mapping[object, object]) -> bool:
    return bool(requirement) and all(str(key).startswith("$") for key in requirement)


def _same(left: object, right: object) -> bool:
    """Test equality; booleans and numbers differ, as in JSON."""
    if isinstance(left, str) or isinstance(right, str):
        return isinstance(left, str) and left == right
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return as_double(left) == as_double(right)
    return _kind(left) == _kind(right) and as_json(left) == as_json(right)


def _is_in(actual: object, allowed: object, fold: Callable[[str], str] | None = None) -> bool:
    if not isinstance(allowed, list | tuple):
        return False
    values = actual if isinstance(actual, list | tuple) else (actual,)
    if fold is not None:
        allowed = [fold(member) if isinstance(member, str) else member for member in allowed]
        values = [fold(value) if isinstance(value, str) else value for value in values]
    # Lists of people are long, and texts: the interpreter compares those far faster.
    return any(
        value in allowed
        if isinstance(value, str)
        else any(_same(value, member) for member in allowed)
        for value in values
    )


def _ordered(actual: object, operand: object, holds: Callable[[int], bool]) -> bool:
    """Compare two numbers or two texts, and nothing else."""
    if isinstance(actual, str) and isinstance(operand, str):
        return holds(compare_texts(actual, operand))
    left, right = _comparable(actual), _comparable(operand)
    return not math.isnan(left + right) and holds((left > right) - (left < right))


def _comparable(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return as_double(value)


def _versions(actual: object, operand: object, holds: Callable[[int], bool]) -> bool:
    return holds(compare_texts(_version(actual), _version(operand)))


def _version(value: object) -> str:
    """Convert a version to a text that sorts like versions: ``1.10`` after ``1.9``."""
    parts = re.split(r"[-.]", re.sub(r"^v|\+.*$", "", as_text(value) if is_true(value) else "0"))
    if len(parts) == 3:
        parts.append("~")  # after any text: a release follows its pre-releases
    return "-".join(part.rjust(5) if part.isascii() and part.isdigit() else part for part in parts)


def _search(actual: object, pattern: object, *, ignore_case: bool = False) -> bool:
    return search(as_text(pattern), as_text(actual), ignore_case=ignore_case)


def _kind(value: object) -> str:
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    return "null" if value is None else "unknown"


def _as_number(value: object) -> float:
    if isinstance(value, str):
        return parse_number(value) if value.strip(" \t\n\r") else 0.0
    if value is None:
        return 0.0
    return as_double(value) if isinstance(value, int | float) else math.nan


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "boolean"),
    ((int, float), "number"),
    (str, "string"),
    ((list, tuple), "array"),
    (Mapping, "object"),
)

_ORDER: Mapping[str, Callable[[int], bool]] = {
    "eq": lambda sign: sign == 0,
    "ne": lambda sign: sign != 0,
    "lt": lambda sign: sign < 0,
    "lte": lambda sign: sign <= 0,
    "gt": lambda sign: sign > 0,
    "gte": lambda sign: sign >= 0,
}


def _comparing(
    compare: Callable[[object, object, Callable[[int], bool]], bool], holds: Callable[[int], bool]
) -> Callable[[object, object], bool]:
    return lambda actual, operand: compare(actual, operand, holds)


def _typed(name: str) -> Callable[[object, object], bool]:
    return lambda actual, operand: compare_typed(name, actual, operand)


_OPERATORS: Mapping[str, Callable[[object, object], bool]] = {
    "$eq": _same,
    "$ne": lambda actual, operand: not _same(actual, operand),
    **{f"${name}": _comparing(_ordered, _ORDER[name]) for name in ("lt", "lte", "gt", "gte")},
    **{f"$v{name}": _comparing(_versions, holds) for name, holds in _ORDER.items()},
    "$exists": lambda actual, operand: (actual is not None) == is_true(operand),
    "$in": lambda actual, operand: _is_in(actual, operand),
    "$ini": lambda actual, operand: _is_in(actual, operand, str.lower),
    "$nin": lambda actual, operand: (
        isinstance(operand, list | tuple) and not _is_in(actual, operand)
    ),
    "$nini": lambda actual, operand: (
        isinstance(operand, list | tuple) and not _is_in(actual, operand, str.lower)
    ),
    "$regex": lambda actual, operand: _search(actual, operand),
    "$regexi": lambda actual, operand: _search(actual, operand, ignore_case=True),
    "$notRegex": lambda actual, operand: not _search(actual, operand),
    "$notRegexi": lambda actual, operand: not _search(actual, operand, ignore_case=True),
    "$type": lambda actual, operand: _kind(actual) == operand,
    "$cidr": in_networks,
    **{name: _typed(name) for name in READERS},
}

OPERATORS = frozenset((*_OPERATORS, "$not", "$size", "$elemMatch", *_LISTS, *_GROUPS))
"""Operators on the value of an attribute."""

TYPES = (*(name for _, name in _KINDS), "null")
"""Types of values, for ``$type``."""


def _require_mapping(where: str, condition: object, depth: int) -> None:
    if not isinstance(condition, Mapping):
        raise DefinitionError(f"{where}: expected a mapping of attributes or operators")
    for key, requirement in condition.items():
        place = f"{where}.{key}"
        if not isinstance(key, str):
            raise DefinitionError(f"{place}: attributes are texts; quote it")
        if key in ("$and", "$or", "$nor"):
            if not isinstance(requirement, list | tuple):
                raise DefinitionError(f"{place}: expected a list of conditions")
            for number, part in enumerate(requirement):
                _require_deeper(f"{place}[{number}]", part, depth)
        elif key == "$not":
            _require_deeper(place, requirement, depth)
        elif key.startswith("$"):
            known = ", ".join(_LOGIC)
            raise DefinitionError(f"{place}: unknown operator; use an attribute or {known}")
        else:
            _require_value(place, requirement, depth)


def _require_deeper(where: str, condition: object, depth: int) -> None:
    if depth >= _DEEPEST:
        raise DefinitionError(f"{where}: nested more than {_DEEPEST} deep")
    _require_mapping(where, condition, depth + 1)


def _require_value(where: str, requirement: object, depth: int) -> None:
    if not isinstance(requirement, Mapping) or not _is_operators(requirement):
        return
    if depth >= _DEEPEST:
        raise DefinitionError(f"{where}: nested more than {_DEEPEST} deep")
    for name, operand in requirement.items():
        place = f"{where}.{name}"
        if name in ("$in", "$nin", "$ini", "$nini", "$cidr", *_LISTS):
            if not isinstance(operand, list | tuple):
                raise DefinitionError(f"{place}: expected a list of values")
        elif name in ("$regex", "$regexi", "$notRegex", "$notRegexi"):
            try:
                re.compile(str(operand))
            except re.error as error:
                raise DefinitionError(f"{place}: not a regular expression: {error}") from error
        elif name in READERS:
            _require_comparisons(place, READERS[name], operand)
        elif name == "$elemMatch" and isinstance(operand, Mapping) and not _is_operators(operand):
            _require_deeper(place, operand, depth)
        elif name in ("$not", "$size", "$elemMatch"):
            _require_value(place, operand, depth + 1)
        elif name not in _OPERATORS and name not in _GROUPS:
            expected = ", ".join(sorted(OPERATORS))
            raise DefinitionError(f"{place}: unknown operator; expected one of {expected}")


def _require_comparisons(where: str, read: Callable[[object], object], comparisons: object) -> None:
    if not isinstance(comparisons, Mapping) or not comparisons:
        raise DefinitionError(f"{where}: expected comparisons such as {{$gte: …}}")
    for name, limit in comparisons.items():
        if name not in COMPARISONS:
            expected = ", ".join(COMPARISONS)
            raise DefinitionError(f"{where}.{name}: expected one of {expected}")
        if read(limit) is None:
            raise DefinitionError(f"{where}.{name}: {limit!r} cannot be read; see conditions")
