"""Definitions of flags as they are applied: read, compiled, and compared with earlier ones."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tactful.errors import ConfigError
from tactful.flags.differences import experiment_rules, phase_of
from tactful.lifecycle.profile import NAME as LIFE_CYCLE
from tactful_bandits.assignment.yaml_source import YamlSource
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags import FlagSet, compile_features, load_flags, public_payload
from tactful_bandits.flags.definitions import Flag

_LONGEST = 128  # characters of a key: columns of the database are not longer
_TAKEN = frozenset({"payload", "signing-key", "stream", "token"})  # paths of the API
_SECTIONS = ("groups", "holdouts", "public_attributes")


@dataclass(frozen=True)
class FlagDefinitions:
    """Checked definitions of all flags."""

    name: str  # name of the file, for messages
    flag_set: FlagSet
    payload: Mapping[str, Any]  # features and saved groups, compiled
    written: Mapping[str, Any]  # flags as written, by key; other sections as `$groups`
    source: YamlSource

    @property
    def flags(self) -> Mapping[str, Flag]:
        """The flags by key."""
        return self.flag_set.flags

    def public(self, salt: str) -> dict[str, Any]:
        """Return the payload for browsers; targeted values are hashed with a salt."""
        payload = dict(public_payload(self.flag_set, salt))
        return {name: part for name, part in payload.items() if name not in _NUMBERS}


_NUMBERS = ("version", "generated_ms")


@functools.lru_cache(maxsize=4)
def read_definitions(text: str, name: str) -> FlagDefinitions:
    """Read and compile definitions.

    Args:
        text: YAML, see `tactful_bandits.flags.load_flags`.
        name: name of the file, for messages.

    Raises:
        ConfigError: if they are invalid; the message names file, line and key.
    """
    try:
        source = YamlSource.read(text, name)
        flag_set = load_flags(source)
        for key, flag in flag_set.flags.items():
            _require_usable(source, key, flag)
        if LIFE_CYCLE in flag_set.public_attributes:
            problem = f"{LIFE_CYCLE} is computed by the server, so pages cannot read it: remove it"
            raise source.error(("public_attributes",), problem)
    except DefinitionError as error:
        raise ConfigError(str(error)) from error
    payload = compile_features(flag_set)
    data: Any = source.data
    written = {key: _plain(flag) for key, flag in (data["flags"] or {}).items()}
    sections = {f"${name}": _plain(data[name]) for name in _SECTIONS if data.get(name)}
    return FlagDefinitions(
        name,
        flag_set,
        {part: payload[part] for part in payload if part not in _NUMBERS},
        written | sections,
        source,
    )


def refuse_changed(
    definitions: FlagDefinitions, before: Mapping[str, str], after: Mapping[str, str]
) -> None:
    """Refuse definitions that change an experiment under its units.

    Args:
        definitions: the new definitions.
        before: fingerprint of every experiment that ever was in a version.
        after: fingerprints of the new definitions.

    Raises:
        ConfigError: naming file, line and cure.
    """
    changed = {
        name.split("\n")[0]: None
        for name, fingerprint in after.items()
        if before.get(name, fingerprint) != fingerprint
    }
    if changed:
        raise ConfigError(
            "\n".join(
                f"{_place(definitions, phase)}: experiment {phase!r} may have units, and its arms, "
                "their values, weights or hash differ from before: units would change sides, and "
                "no result could be read. Give the changed experiment another key, or undo the "
                "change; coverage and conditions may change"
                for phase in changed
            )
        )


def _place(definitions: FlagDefinitions, phase: str) -> str:
    """Return file and line of an experiment."""
    for flag, rule in experiment_rules(definitions.payload["features"]):
        if phase_of(flag, rule) == phase:
            number = int(str(rule["id"]).removeprefix("rule-")) - 1
            place = ("flags", flag, "rules", number, "experiment")
            error = definitions.source.error(place, "")
            return str(error).rstrip(": ")
    return definitions.name


def _require_usable(source: YamlSource, key: str, flag: Flag) -> None:
    """Check what only this server demands of a flag."""
    if key in _TAKEN:
        taken = ", ".join(sorted(_TAKEN))
        raise source.error(("flags", key), f"{taken} are paths of the API: rename the flag")
    names = [key]
    for rule in flag.rules:
        if rule.experiment is not None:
            design = rule.experiment.design
            names += [design.key, *(arm.name for arm in design.arms)]
    if any(len(name) > _LONGEST for name in names):
        problem = f"keys and names of arms have at most {_LONGEST} characters: shorten them"
        raise source.error(("flags", key), problem)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: days as texts, keys as texts."""
    return msgspec.to_builtins(value, str_keys=True)
