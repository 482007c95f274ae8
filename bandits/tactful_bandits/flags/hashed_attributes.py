"""Attributes that a public payload compares by hash.

A browser's payload must not list the people or addresses that a rule targets. It compares the
attribute `#email`, which the evaluator derives from `email`, with hashes of the targeted values.
The salt is in the payload: the hash hides values from reading, not from a guess that is tried out.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tactful_bandits.assignment.texts import as_json

PREFIX = "#"
"""First character of a derived attribute's name."""


@dataclass(frozen=True, slots=True)
class HashedAttributes:
    """Names of the attributes that conditions compare by hash, and the salt."""

    salt: str
    names: tuple[str, ...]

    @classmethod
    def from_payload(cls, data: Mapping[str, Any]) -> "HashedAttributes":
        """Read ``{"salt": "…", "attributes": ["email"]}``."""
        salt, names = data["salt"], tuple(data["attributes"])
        if not all(isinstance(text, str) for text in (salt, *names)):
            raise TypeError("salt and attributes are texts")
        return cls(salt, names)

    def derive(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes with a hashed copy of each named one.

        A list becomes a list of hashes, at any depth. A missing attribute stays missing, and one
        that the caller calls ``#name`` never counts.
        """
        derived = dict(attributes)
        for name in self.names:
            value = attributes.get(name)
            if value is None:
                derived.pop(PREFIX + name, None)
            else:
                derived[PREFIX + name] = self._hashed(value)
        return derived

    def _hashed(self, value: object) -> object:
        if isinstance(value, list | tuple):
            return [self._hashed(part) for part in value]
        return self.hash(value)

    def hash(self, value: object) -> str | None:
        """Return the hex SHA-256 of salt and JSON text; None stays None."""
        if value is None:
            return None
        text = self.salt + as_json(value)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
