"""Definitions converted from another product's flags."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tactful_bandits.assignment.texts import as_json
from tactful_bandits.errors import DefinitionError
from tactful_bandits.flags.definitions import FlagSet
from tactful_bandits.flags.reading import load_flags


class Refusal(Exception):
    """A flag cannot be converted; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        data: Definitions as `load_flags` reads them, without the refused flags.
        refused: Reason by the key of each flag that was left out.
        notes: Differences of converted flags to before, by key.
    """

    data: dict[str, Any]
    refused: dict[str, str]
    notes: dict[str, list[str]]

    def flag_set(self) -> FlagSet:
        """Return the checked flags."""
        return load_flags(self.data, name="converted flags")

    def text(self) -> str:
        """Return the definitions as YAML."""
        return yaml.dump(self.data, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=100)


class _Dumper(yaml.SafeDumper):
    """Writes every value out, because definitions refuse aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@dataclass(slots=True)
class Variants:
    """Names for the values of one flag: equal values share a name."""

    values: dict[str, Any]

    def name(self, wanted: str, value: Any) -> str:
        """Return the name of a value, new or known."""
        candidate, number = wanted, 1
        text = as_json(value)  # Python takes 1 and true as equal
        while candidate in self.values and as_json(self.values[candidate]) != text:
            number += 1
            candidate = f"{wanted}-{number}"
        self.values.setdefault(candidate, value)
        return candidate


def finish(
    flags: Mapping[str, dict[str, Any]],
    groups: Mapping[str, Any],
    refused: Mapping[str, str],
    notes: Mapping[str, list[str]],
) -> Conversion:
    """Return the conversion without flags that definitions refuse, or whose parent it lacks."""
    kept, reasons = dict(flags), dict(refused)
    for name, flag in flags.items():
        # Any parent will do: the real one may itself be refused, which is the reason then.
        parents = {need["flag"]: {"default": "off"} for need in _needs(flag)}
        try:
            load_flags({"groups": groups, "flags": {**parents, name: flag}}, name="flag")
        except DefinitionError as error:
            reasons[name] = str(error)
            del kept[name]
    while lost := _dependent(kept, reasons):
        name, reasons[name] = lost
        del kept[name]
    data: dict[str, Any] = {"groups": dict(groups)} if groups else {}
    return Conversion({**data, "flags": kept}, reasons, dict(notes))


def _needs(flag: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for part in (flag, *flag.get("rules", ())):
        yield from part.get("prerequisites", ())


def _dependent(flags: Mapping[str, Any], refused: Mapping[str, str]) -> tuple[str, str] | None:
    """Return a flag whose parent is not among `flags`, and the reason to refuse it."""
    for name, flag in flags.items():
        for need in _needs(flag):
            if need["flag"] not in flags:
                problem = "is refused" if need["flag"] in refused else "the export lacks"
                return name, f"it depends on {need['flag']!r}, which {problem}"
    return None
