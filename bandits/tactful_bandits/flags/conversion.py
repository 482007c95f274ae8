"""Definitions converted from another product's flags."""

from dataclasses import dataclass
from typing import Any

import yaml

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
        while candidate in self.values and self.values[candidate] != value:
            number += 1
            candidate = f"{wanted}-{number}"
        self.values.setdefault(candidate, value)
        return candidate
