"""State of stateful rules: a bounded map with expiry by event time."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import msgspec

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[tuple[int, tuple[int, ...]]] = msgspec.msgpack.Decoder(
    tuple[int, tuple[int, ...]]
)
_canonical = msgspec.json.Encoder(order="deterministic")
_SEPARATOR = "\x1f"
_LONGEST = 64

Fact = tuple[int, ...]
"""The value of a key; the first number is the event time at which it expires."""


def digest(values: object) -> str:
    """Hash plain data to twelve bytes in hexadecimal."""
    return hashlib.blake2b(_canonical.encode(values), digest_size=12).hexdigest()


def key_of(values: Sequence[object]) -> str:
    """Encode `values` as a short key: the texts joined, or a digest of other values."""
    try:
        key = _SEPARATOR.join(values)  # type: ignore[arg-type]
    except TypeError:
        return _SEPARATOR + digest(values)
    if len(key) > _LONGEST or key.count(_SEPARATOR) >= len(values):
        return _SEPARATOR + digest(values)
    return key


class ExpiringMap:
    """Facts by key until they expire; beyond `most` keys, the oldest are deleted.

    Deletion depends on the order of the calls alone, so a replay of the log stores the same facts,
    also when it begins at a commit.

    ``_facts`` holds ``{"ann": (17, (1767268800000, 4, 2))}``: number of the put, and the fact.
    """

    def __init__(self, most: int) -> None:
        """Begin empty, with room for `most` keys."""
        self._most = most
        self._facts: OrderedDict[str, tuple[int, Fact]] = OrderedDict()
        self._changed: set[str] = set()
        self._number = 0

    def __len__(self) -> int:
        """Number of keys, expired ones included."""
        return len(self._facts)

    def get(self, key: str, now: int) -> Fact | None:
        """Return the fact of `key` at event time `now`, epoch milliseconds."""
        entry = self._facts.get(key)
        return entry[1] if entry is not None and entry[1][0] >= now else None

    def put(self, key: str, fact: Fact, now: int) -> None:
        """Store `fact` as the newest; delete up to two that have expired at `now`."""
        facts = self._facts
        self._number += 1
        facts[key] = (self._number, fact)
        facts.move_to_end(key)
        self._changed.add(key)
        for _ in range(2):
            oldest = next(iter(facts))
            if facts[oldest][1][0] >= now and len(facts) <= self._most:
                break
            del facts[oldest]
            self._changed.add(oldest)
            if not facts:
                break

    def pack_changes(self) -> dict[str, bytes | None]:
        """Return facts that changed since the last call, packed; None for deleted ones."""
        changes: dict[str, bytes | None] = {}
        for key in self._changed:
            entry = self._facts.get(key)
            changes[key] = None if entry is None else _encoder.encode(entry)
        self._changed.clear()
        return changes

    def restore(self, packed: Iterable[tuple[str, bytes]]) -> None:
        """Load packed facts, in any order.

        Raises:
            msgspec.MsgspecError: if it is damaged.
        """
        facts = sorted(
            ((key, _decoder.decode(blob)) for key, blob in packed), key=lambda fact: fact[1][0]
        )
        self._facts = OrderedDict(facts)
        self._number = facts[-1][1][0] if facts else 0
        self._changed.clear()
