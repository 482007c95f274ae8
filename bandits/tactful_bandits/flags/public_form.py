"""The form of a payload that browsers may read.

Targeted values of private attributes are replaced by salted hashes, and a flag whose rules cannot
be written so becomes remote: only the server evaluates it. Owners, descriptions and unused groups
are not in any payload. Experiment keys, arms and values of flags are public.

**Guarantee.** For every flag that is not remote, the public and the full payload give the same
evaluation of any attributes. Hidden values can be guessed and tried out by who holds the payload,
because the salt is in it: the form protects lists from reading, not single guesses.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tactful_bandits.assignment.texts import as_json, is_true
from tactful_bandits.assignment.typed_values import read_number
from tactful_bandits.flags.compiling import compile_features
from tactful_bandits.flags.definitions import FlagSet
from tactful_bandits.flags.hashed_attributes import PREFIX, HashedAttributes

_LOGIC = ("$and", "$or", "$nor")
_GROUPS = ("$inGroup", "$notInGroup")


def public_payload(
    flags: FlagSet, salt: str, *, version: int = 0, generated_ms: int = 0
) -> dict[str, Any]:
    """Return the payload of all flags for browsers.

    Args:
        flags: Checked flags.
        salt: Random text that is mixed into the hashes; the payload contains it.
        version: Version of the definitions, which exposures name.
        generated_ms: Time of compilation in milliseconds since 1970.
    """
    payload = compile_features(flags, version=version, generated_ms=generated_ms)
    hiding = _Hiding(salt, flags.public_attributes, payload["savedGroups"])
    reasons = remote_reasons(flags)
    features: dict[str, Any] = {}
    for key, feature in payload["features"].items():
        features[key] = {"remote": True} if key in reasons else hiding.feature(feature)
    names = sorted(hiding.names)
    return {
        **payload,
        "hashed": {"salt": salt, "attributes": names},
        "features": features,
        "savedGroups": hiding.used,
    }


def remote_reasons(flags: FlagSet) -> dict[str, str]:
    """Return why flags are remote in the public payload, by key.

    A reason is a sentence for the owner of the flag; it may name targeted values.
    """
    payload = compile_features(flags)
    hiding = _Hiding("", flags.public_attributes, payload["savedGroups"])
    reasons: dict[str, str] = {}
    for key, feature in payload["features"].items():
        if key in flags.flags and flags.flags[key].remote:
            reasons[key] = "it is defined as remote"
            continue
        try:
            hiding.feature(feature)
        except _Unhashable as error:
            reasons[key] = str(error)
    found = True
    while found:  # a flag that needs a remote one cannot be evaluated by a browser either
        found = False
        for key, feature in payload["features"].items():
            remote = [need for need in _needed(feature) if need in reasons]
            if remote and key not in reasons:
                reasons[key] = f"it needs flag {remote[0]!r}, which is remote"
                found = True
    return reasons


class _Unhashable(Exception):
    """A condition cannot be evaluated on hashes."""


@dataclass(slots=True)
class _Hiding:
    """Replaces private values by hashes and collects the attributes and groups in use."""

    salt: str
    public: frozenset[str]
    groups: Mapping[str, list[Any]]
    names: set[str] = field(default_factory=set)
    used: dict[str, list[Any]] = field(default_factory=dict)

    def feature(self, feature: Mapping[str, Any]) -> dict[str, Any]:
        rules = []
        for rule in feature.get("rules", ()):
            hidden = dict(rule)
            if "condition" in rule:
                hidden["condition"] = self._condition(rule["condition"])
            rules.append(hidden)
        for group in _groups_of([rule.get("parentConditions") for rule in rules]):
            self.used[group] = list(self.groups[group])
        return {**feature, "rules": rules} if rules else dict(feature)

    def _condition(self, condition: Mapping[str, Any]) -> dict[str, Any]:
        hidden: dict[str, Any] = {}
        extra: list[dict[str, Any]] = []
        for key, part in condition.items():
            if key in _LOGIC:
                hidden[key] = [self._condition(inner) for inner in part]
            elif key == "$not":
                hidden[key] = self._condition(part)
            elif key.split(".")[0] in self.public:
                hidden[key] = part
                self.used.update((name, list(self.groups[name])) for name in _groups_of(part))
            else:
                if "." in key:
                    raise _Unhashable(f"{key} is a part of a private attribute")
                self.names.add(key)
                choices = [self._requirement(key, choice) for choice in _preimages(key, part)]
                if len(choices) == 1:
                    hidden[PREFIX + key] = choices[0]
                else:
                    extra.append({"$or": [{PREFIX + key: choice} for choice in choices]})
        if extra:
            return {"$and": [hidden, *extra]} if hidden else {"$and": extra}
        return hidden

    def _requirement(self, name: str, requirement: Any) -> Any:
        """Return the requirement on the hash that holds exactly where the given one does."""
        if requirement is None:
            return None
        if not isinstance(requirement, Mapping) or not requirement:
            raise _Unhashable(
                f"{name} is private and compared with {as_json(requirement)}; write {{$eq: …}}"
            )
        return {key: self._operator(name, key, part) for key, part in requirement.items()}

    def _operator(self, name: str, operator: str, operand: Any) -> Any:
        if operator == "$exists":
            return is_true(operand)
        if operator == "$size" and isinstance(operand, int):
            return operand
        if operator in ("$eq", "$ne"):
            return self._hash(name, operand)
        if operator in ("$in", "$nin"):
            return [self._hash(name, part) for part in operand]
        if operator in ("$not", "$elemMatch"):
            return self._requirement(name, _single(name, operand))
        if operator == "$all":
            return [self._requirement(name, _single(name, part)) for part in operand]
        if operator in _GROUPS:
            hidden = PREFIX + operand
            if hidden not in self.used:
                self.used[hidden] = [self._hash(name, part) for part in self.groups[operand]]
            return hidden
        raise _Unhashable(
            f"{operator} on {name} needs its clear value; list {name} under public_attributes, or "
            "use $eq, $ne, $in, $nin"
        )

    def _hash(self, name: str, value: Any) -> str | None:
        if isinstance(value, list | tuple | Mapping):
            raise _Unhashable(f"{name} is private and compared with {as_json(value)}")
        return HashedAttributes(self.salt, ()).hash(value)


def _preimages(name: str, requirement: Any) -> list[Any]:
    """Return the operators that together hold where equality with a text does.

    Equality with a text converts the attribute: `"5"` equals the number 5, too.
    """
    if not isinstance(requirement, str):
        return [requirement]
    if requirement[:1] in ("{", "[") or requirement == "null":
        raise _Unhashable(f"{name} is private and compared with {requirement}; write {{$eq: …}}")
    values: list[Any] = [requirement]
    if requirement in ("true", "false"):
        values.append(requirement == "true")
    number = read_number(requirement)
    if number is not None and math.isfinite(number) and as_json(number) == requirement:
        values.append(number)
    return [{"$eq": value} for value in values]


def _single(name: str, requirement: Any) -> Any:
    choices = _preimages(name, requirement)
    if len(choices) > 1:
        raise _Unhashable(f"{name} is private and compared with {requirement}; write {{$eq: …}}")
    return choices[0]


def _needed(feature: Mapping[str, Any]) -> list[str]:
    return [
        need["id"] for rule in feature.get("rules", ()) for need in rule.get("parentConditions", ())
    ]


def _groups_of(data: Any) -> list[str]:
    """Return the names of the groups that conditions read."""
    if isinstance(data, Mapping):
        own = [part for key, part in data.items() if key in _GROUPS]
        return own + [name for part in data.values() for name in _groups_of(part)]
    if isinstance(data, list | tuple):
        return [name for part in data for name in _groups_of(part)]
    return []
