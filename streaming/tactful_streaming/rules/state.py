"""What stateful rules remember: a bounded map that forgets by event time."""

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
"""What is remembered of a key; the first number is the event time until which it is."""


def digest(values: object) -> str:
    """Twelve bytes in hexadecimal that stand for `values`, plain data; equal for equal ones."""
    return hashlib.blake2b(_canonical.encode(values), digest_size=12).hexdigest()


def key_of(values: Sequence[object]) -> str:
    """A short text that stands for `values`: the texts themselves, or a digest of anything else."""
    try:
        key = _SEPARATOR.join(values)  # type: ignore[arg-type]
    except TypeError:
        return _SEPARATOR + digest(values)
    if len(key) > _LONGEST or key.count(_SEPARATOR) >= len(values):
        return _SEPARATOR + digest(values)
    return key


class Memory:
    """Facts by key, forgotten when their time is over, or beyond `most` the one put longest ago.

    What is forgotten when depends on the order of the calls alone, so a replay of the log remembers
    the same, also when it begins at a commit.
    """

    def __init__(self, most: int) -> None:
        """Begin empty, with room for `most` keys."""
        self._most = most
        self._facts: OrderedDict[str, tuple[int, Fact]] = OrderedDict()
        self._changed: set[str] = set()
        self._number = 0

    def __len__(self) -> int:
        """Number of keys, of which some may be over."""
        return len(self._facts)

    def get(self, key: str, now: int) -> Fact | None:
        """What is remembered of `key` at event time `now`, epoch milliseconds."""
        found = self._facts.get(key)
        return found[1] if found is not None and found[1][0] >= now else None

    def put(self, key: str, fact: Fact, now: int) -> None:
        """Remember `fact` of `key`, as the newest; forget up to two that are over at `now`."""
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
        """What changed since the last call: packed facts by key, None for a forgotten one."""
        changes: dict[str, bytes | None] = {}
        for key in self._changed:
            found = self._facts.get(key)
            changes[key] = None if found is None else _encoder.encode(found)
        self._changed.clear()
        return changes

    def restore(self, packed: Iterable[tuple[str, bytes]]) -> None:
        """Go back to what was packed, in any order.

        Raises:
            msgspec.MsgspecError: if it is damaged.
        """
        found = sorted(
            ((key, _decoder.decode(blob)) for key, blob in packed), key=lambda f: f[1][0]
        )
        self._facts = OrderedDict(found)
        self._number = found[-1][1][0] if found else 0
        self._changed.clear()
