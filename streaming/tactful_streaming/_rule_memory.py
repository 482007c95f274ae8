"""What stateful rules remember: a bounded map that forgets by event time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[tuple[int, tuple[int, ...]]] = msgspec.msgpack.Decoder(
    tuple[int, tuple[int, ...]]
)
_keys = msgspec.json.Encoder(order="deterministic")

Fact = tuple[int, ...]
"""What is remembered of a key; the first number is the event time until which it is."""


def digest(values: object) -> bytes:
    """Twelve bytes that stand for `values`, plain data; equal for equal values only."""
    return hashlib.blake2b(_keys.encode(values), digest_size=12).digest()


class Memory:
    """Facts by key, forgotten when their time is over, or beyond `most` the one put longest ago.

    What is forgotten when depends on the order of the calls alone, so a replay of the log remembers
    the same, also when it begins at a commit.
    """

    def __init__(self, most: int) -> None:
        """Begin empty, with room for `most` keys."""
        self._most = most
        self._facts: dict[bytes, tuple[int, Fact]] = {}
        self._changed: set[bytes] = set()
        self._number = 0

    def __len__(self) -> int:
        """Number of keys, of which some may be over."""
        return len(self._facts)

    def get(self, key: bytes, now: int) -> Fact | None:
        """What is remembered of `key` at event time `now`, epoch milliseconds."""
        found = self._facts.get(key)
        return found[1] if found is not None and found[1][0] >= now else None

    def put(self, key: bytes, fact: Fact, now: int) -> None:
        """Remember `fact` of `key`, as the newest; forget up to two that are over at `now`."""
        facts = self._facts
        facts.pop(key, None)
        self._number += 1
        facts[key] = (self._number, fact)
        self._changed.add(key)
        for _ in range(2):
            oldest = next(iter(facts))
            if facts[oldest][1][0] >= now and len(facts) <= self._most:
                break
            del facts[oldest]
            self._changed.add(oldest)
            if not facts:
                break

    def pack_changes(self) -> dict[bytes, bytes | None]:
        """What changed since the last call: packed facts by key, None for a forgotten one."""
        changes: dict[bytes, bytes | None] = {}
        for key in self._changed:
            found = self._facts.get(key)
            changes[key] = None if found is None else _encoder.encode(found)
        self._changed.clear()
        return changes

    def restore(self, packed: Iterable[tuple[bytes, bytes]]) -> None:
        """Go back to what was packed, in any order.

        Raises:
            msgspec.MsgspecError: if it is damaged.
        """
        found = sorted(
            ((key, _decoder.decode(blob)) for key, blob in packed), key=lambda f: f[1][0]
        )
        self._facts = dict(found)
        self._number = found[-1][1][0] if found else 0
        self._changed.clear()
