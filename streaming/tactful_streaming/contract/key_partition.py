"""The partition of a key: murmur2, as Kafka's own clients compute it."""

from __future__ import annotations

from typing import Final

_FACTOR: Final = 0x5BD1E995
_SEED: Final = 0x9747B28C
_WORD: Final = 0xFFFFFFFF


def partition_of(key: str, partitions: int) -> int:
    """Return the partition of the log that holds all records of `key`."""
    data = key.encode()
    whole = len(data) & ~3
    mixed = _SEED ^ len(data)
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _FACTOR & _WORD
        word = (word ^ word >> 24) * _FACTOR & _WORD
        mixed = (mixed * _FACTOR & _WORD) ^ word
    if whole < len(data):
        mixed = (mixed ^ int.from_bytes(data[whole:], "little")) * _FACTOR & _WORD
    mixed = (mixed ^ mixed >> 13) * _FACTOR & _WORD
    mixed ^= mixed >> 15
    return (mixed & 0x7FFFFFFF) % partitions
