"""Writes record batches as Kafka's documentation lays them out, from nothing but that."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cramjam

CASTAGNOLI: Final = 0x82F63B78


def checksum_of_one(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
    return byte


BY_BYTE: Final = [*map(checksum_of_one, range(256))]


def checksum(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ BY_BYTE[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def varint(value: int) -> bytes:
    rest = 2 * value if value >= 0 else -2 * value - 1
    out = bytearray()
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*out, rest])


def sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


@dataclass(frozen=True)
class Entry:
    """A record; its offset counts from its batch's."""

    after: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    later: int = 0

    def encode(self) -> bytes:
        headers = b"".join(sized(name) + sized(value) for name, value in self.headers)
        inner = b"\0" + varint(self.later) + varint(self.after) + sized(self.key)
        return sized(inner + sized(self.value) + varint(len(self.headers)) + headers)


def xerial(data: bytes) -> bytes:
    """Java's stream of snappy blocks; its own are of 32 KiB."""
    blocks = [
        bytes(cramjam.snappy.compress_raw(data[at : at + 99])) for at in range(0, len(data), 99)
    ]
    head = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)
    return head + b"".join(struct.pack(">i", len(block)) + block for block in blocks)


PACKINGS: Final[dict[str, tuple[int, Callable[[bytes], bytes]]]] = {
    "plain": (0, bytes),
    "gzip": (1, lambda data: bytes(cramjam.gzip.compress(data))),
    "snappy": (2, lambda data: bytes(cramjam.snappy.compress_raw(data))),
    "xerial": (2, xerial),
    "lz4": (3, lambda data: bytes(cramjam.lz4.compress(data))),
    "zstd": (4, lambda data: bytes(cramjam.zstd.compress(data))),
}


def batch_of(
    body: bytes,
    count: int,
    *,
    base: int = 0,
    last: int | None = None,
    kind: int = 0,
    producer: int = -1,
    newest: int = 0,
    version: int = 2,
) -> bytes:
    """A batch with a right checksum, whatever its records are."""
    last = count - 1 if last is None else last
    checked = struct.pack(">hiqqqhii", kind, last, -5, newest, producer, 3, 7, count) + body
    head = struct.pack(">qiibI", base, len(checked) + 9, 11, version, checksum(checked))
    return head + checked


def encode_batch(first: int, payloads: Sequence[bytes]) -> bytes:
    """A batch of these payloads, without gaps."""
    records = (Entry(after, payload).encode() for after, payload in enumerate(payloads))
    return batch_of(b"".join(records), len(payloads), base=first)
