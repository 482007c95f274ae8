"""Differences between two versions of the flags, and changes that an experiment excludes.

```text
before  {"default": "off", "rules": [{"serve": "on", "share": 0.1}]}
after   {"default": "off", "rules": [{"serve": "on", "share": 0.5}]}     rules[0].share: 0.1 → 0.5
```
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import msgspec

from tactful.schemas.experiments.flags import FlagDifference

_ABSENT = object()
_LONGEST = 80  # characters of a value in a line
# Parts of an experiment's rule that decide the arm of a unit. Coverage may grow or shrink: the
# ranges of the arms stay in place.
_FIXED = (
    "weights",
    "seed",
    "hashAttribute",
    "fallbackAttribute",
    "hashVersion",
    "ranges",
    "namespace",
    "filters",
)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[FlagDifference]:
    """Return the flags that differ, by key.

    Args:
        before: flags as written, by key, of the version before.
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
    """Return digests of all that decides the arm of a unit, and of the values of the arms.

    The former are by experiment and phase; the latter also by flag, after a line break.
    """
    found: dict[str, str] = {}
    for flag, rule in experiment_rules(features):
        fixed = {name: rule[name] for name in _FIXED if name in rule}
        fixed["arms"] = [arm.get("key") for arm in rule.get("meta") or ()]
        phase = phase_of(flag, rule)
        found[phase] = _digest(fixed)
        found[f"{phase}\n{flag}"] = _digest(rule["variations"])
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:32]


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


def phase_of(flag: str, rule: Mapping[str, Any]) -> str:
    """Return the experiment of a rule, with the version of its buckets if that is not the first."""
    version = rule.get("bucketVersion") or 0
    key = experiment_key(flag, rule)
    return f"{key} version {version}" if version else key


def _lines(place: str, before: Any, after: Any) -> Iterator[str]:
    """Yield a line for each part that differs, with its path."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in dict.fromkeys([*before, *after]):
            inner = f"{place}.{name}" if place else str(name)
            yield from _lines(inner, before.get(name, _ABSENT), after.get(name, _ABSENT))
    elif _has_objects(before) and _has_objects(after):
        for index, (one, other) in enumerate(zip_longest(before, after, fillvalue=_ABSENT)):
            yield from _lines(f"{place}[{index}]", one, other)
    elif _json(before) != _json(after):  # 1 and true are equal in Python
        yield f"{place}: {_short(before)} → {_short(after)}"


def _has_objects(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(part, Mapping) for part in value)


def _short(value: Any) -> str:
    text = _json(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _json(value: Any) -> str:
    return "(none)" if value is _ABSENT else msgspec.json.encode(value).decode()
