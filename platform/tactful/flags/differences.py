"""Differences between two versions of the flags, and changes that an experiment excludes.

```text
before  {"defaultValue": false, "rules": [{"id": "checkout", "coverage": 0.1, …}]}
after   {"defaultValue": false, "rules": [{"id": "checkout", "coverage": 0.5, …}]}
        ─► rules.checkout.coverage: 0.1 → 0.5
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from tactful.schemas.experiments.flags import FlagDifference

_ABSENT = object()
_LONGEST = 80  # characters of a value in a line
_NAMES = ("id", "key", "name")
# Parts of an experiment's rule that decide the arm of a unit. Coverage may grow or shrink: the
# ranges of the arms stay in place.
_FIXED = (
    "variations",
    "weights",
    "seed",
    "hashAttribute",
    "fallbackAttribute",
    "hashVersion",
    "bucketVersion",
    "ranges",
    "namespace",
    "filters",
)


def differences(
    before: Mapping[str, Mapping[str, Any]], after: Mapping[str, Mapping[str, Any]]
) -> list[FlagDifference]:
    """Return the flags that differ, by key.

    Args:
        before: compiled features by key, of the version before.
        after: of the version that follows.
    """
    found = []
    for key in sorted(before.keys() | after.keys()):
        if key not in before:
            found.append(FlagDifference(flag=key, change="added"))
        elif key not in after:
            found.append(FlagDifference(flag=key, change="removed"))
        elif lines := list(_lines("", before[key], after[key])):
            found.append(FlagDifference(flag=key, change="changed", lines=lines))
    return found


def fingerprints(features: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return, by experiment, a digest of all that decides the arm of a unit."""
    found: dict[str, str] = {}
    for flag, rule in experiment_rules(features):
        fixed = {name: rule[name] for name in _FIXED if name in rule}
        fixed["arms"] = [arm.get("key") for arm in rule.get("meta") or ()]
        digest = hashlib.sha256(msgspec.json.encode(fixed, order="deterministic")).hexdigest()
        found[experiment_key(flag, rule)] = digest[:32]
    return found


def experiment_rules(
    features: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rules of experiments, each with the key of its flag."""
    for key, feature in features.items():
        for rule in feature.get("rules") or ():
            if "variations" in rule:
                yield key, rule


def experiment_key(flag: str, rule: Mapping[str, Any]) -> str:
    """Return the key of a rule's experiment, which is that of the flag by default."""
    return str(rule.get("key") or flag)


def _lines(place: str, before: Any, after: Any) -> Iterator[str]:
    """Yield a line for each part that differs, with its path."""
    if before == after and type(before) is type(after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            inner = f"{place}.{name}" if place else str(name)
            yield from _lines(inner, before.get(name, _ABSENT), after.get(name, _ABSENT))
        return
    one, other = _named(before), _named(after)
    if one is not None and other is not None:
        if [*one] != [*other] and {*one} == {*other}:
            yield f"{place}: order {', '.join(one)} → {', '.join(other)}"
        yield from _lines(place, one, other)
        return
    yield f"{place}: {_short(before)} → {_short(after)}"


def _named(value: Any) -> dict[str, Any] | None:
    """Return a list of objects by their distinct names; None for another value."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return None
    found: dict[str, Any] = {}
    for element in value:
        name = None
        if isinstance(element, Mapping):
            name = next((element[key] for key in _NAMES if key in element), None)
        if not isinstance(name, str) or name in found:
            return None
        found[name] = element
    return found


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "(none)"
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
