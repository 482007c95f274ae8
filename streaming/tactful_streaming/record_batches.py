"""Kafka's record batches as a broker sends them: checked, unpacked, without what was aborted.

Of the format's three versions it is the last, which every broker since 0.11 keeps
(https://kafka.apache.org/documentation/#recordbatch). Records are not taken apart here: they are
found when they are wanted, thousands at once.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tactful_streaming.records import Lines, Records

_HEAD: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH_FROM: Final = 12
_VERSION_AT: Final = 16  # in earlier versions too, whose heads are shorter
_CHECKED_FROM: Final = 21
_VERSION: Final = 2
_PACKED, _TRANSACTIONAL, _CONTROL = 0b111, 0b10_000, 0b100_000
_ABORT: Final = 0
_MARK: Final = struct.Struct(">hh")  # version and kind
_LONGEST: Final = 10  # bytes of a number
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEAD: Final = 16


class UnsoundError(ValueError):
    """What a broker sent is no batch of records."""


@dataclass
class Batch:
    """Records of one partition that are not taken yet.

    Attributes:
        data: the records, unpacked.
        at: where the next one begins.
        left: how many there are from there on.
        base: offset that theirs count from.
        before: of the one before, counted from there; -1 at first.
        last: highest that one may have, counted from there.
        newest: when the last was appended, epoch milliseconds.
    """

    data: NDArray[np.uint8]
    at: int
    left: int
    base: int
    before: int
    last: int
    newest: int


def read_batches(
    sent: memoryview, aborted: Iterable[tuple[int, int]], position: int
) -> tuple[list[Batch], int]:
    """The batches that a broker sent of one partition.

    Args:
        sent: one after another; the last may be cut short.
        aborted: producer and first offset of transactions that were given up.
        position: offset that was asked for.

    Returns:
        Batches whose records count, and the offset to ask for next.

    Raises:
        UnsoundError: A checksum is wrong, it is of another version, or batches are out of order.
    """
    from crc32c import crc32c

    given_up, out = deque(sorted(aborted, key=lambda it: it[1])), set[int]()
    batches, at, behind = [], 0, 0
    while at + _VERSION_AT < len(sent):
        if (version := sent[at + _VERSION_AT]) != _VERSION:
            raise UnsoundError(f"a batch is of version {version} of the format, not {_VERSION}")
        if at + _HEAD.size > len(sent):
            break
        base, length, _, _, checksum, kind, last, _, newest, producer, _, _, count = (
            _HEAD.unpack_from(sent, at)
        )
        end = at + _LENGTH_FROM + length
        if length < _HEAD.size - _LENGTH_FROM or last < 0 or count < 0 or base < behind:
            raise UnsoundError("the head of a batch is damaged")
        if end > len(sent):
            break
        if crc32c(sent[at + _CHECKED_FROM : end]) != checksum:
            raise UnsoundError(f"the checksum of the batch at offset {base} is wrong")
        while given_up and given_up[0][1] <= base + last:
            out.add(given_up.popleft()[0])
        body = sent[at + _HEAD.size : end]
        if kind & _CONTROL:
            if count and _mark(body) == _ABORT:  # compaction leaves batches without their mark
                out.discard(producer)
        elif count and not (kind & _TRANSACTIONAL and producer in out):
            data = np.frombuffer(_unpack(kind & _PACKED, body), np.uint8)
            data.flags.writeable = False  # the type that machine code is made for
            batches.append(Batch(data, 0, count, base, -1, last, newest))
        at, behind = end, base + last + 1
    return batches, max(position, behind)


def take_records(batches: deque[Batch], limit: int, wanted: int) -> tuple[Records | None, int]:
    """Records from the front of some batches, which are used up by it.

    Args:
        batches: of one partition.
        limit: most records, at least 1.
        wanted: lowest offset to take.

    Returns:
        The records, None where there are none; and when the last was appended.

    Raises:
        UnsoundError: A record is not whole or out of order, or there are more than was said.
    """
    # Here, for it loads numba: who reads no batches does without.
    from tactful_streaming import record_kernel as kernel

    found = []
    newest = -1
    while batches and limit:
        batch = batches[0]
        room = np.empty((3, min(batch.left, limit)), np.int64)
        at, kept, before = kernel.measure(
            batch.data, batch.at, batch.base, batch.before, batch.last, wanted, *room
        )
        left, newest = batch.left - room.shape[1], batch.newest
        if at < 0 or (not left and at < len(batch.data)):
            raise UnsoundError(f"a record of the batch at offset {batch.base} is damaged")
        batch.at, batch.left, batch.before = at, left, before
        if kept:
            found.append((batch.data, room[:, :kept]))
            limit -= kept
        if not left:
            batches.popleft()
    if not found:
        return None, newest
    lines = Lines.of_lengths(np.concatenate([room[2] for _, room in found]))
    letters, at = lines.letters, 0
    for data, room in found:
        at = kernel.write_values(data, room[1], room[2], letters, at)
    offsets = np.concatenate([room[0] for _, room in found])
    first, last = offsets.item(0), offsets.item(-1)
    known = range(first, last + 1)
    return Records(known if len(known) == len(offsets) else offsets.tolist(), lines), newest


def _mark(body: memoryview) -> int:
    """What the one record of a control batch says: that its transaction was given up, or not."""
    _, at = _number(body, 0)
    _, at = _number(body, at + 1)
    _, at = _number(body, at)
    length, at = _number(body, at)
    if length < _MARK.size or at + _MARK.size > len(body):
        raise UnsoundError("the mark at the end of a transaction is damaged")
    _, kind = _MARK.unpack_from(body, at)
    return int(kind)


def _number(body: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(at + _LONGEST, len(body))):
        value |= (body[place] & 127) << shift
        if body[place] < 128:
            return (value >> 1) ^ -(value & 1), place + 1
        shift += 7
    raise UnsoundError("the mark at the end of a transaction is damaged")


def _unpack(packing: int, body: memoryview) -> Any:
    import cramjam

    try:
        match packing:
            case 0:
                return body
            case 1:
                return cramjam.gzip.decompress(body)
            case 2:
                return _unpack_snappy(body)
            case 3:
                return cramjam.lz4.decompress(body)
            case 4:
                return cramjam.zstd.decompress(body)
    except cramjam.DecompressionError as error:
        raise UnsoundError(f"a batch cannot be unpacked: {error}") from error
    raise UnsoundError(f"a batch is packed in a way that is not known: {packing}")


def _unpack_snappy(body: memoryview) -> Any:
    """As the C library packs, or in the blocks of Java's, each with its length before it."""
    import cramjam

    if bytes(body[: len(_XERIAL)]) != _XERIAL:
        return cramjam.snappy.decompress_raw(body)
    blocks, at = bytearray(), _XERIAL_HEAD
    while at + 4 <= len(body):
        end = at + 4 + int.from_bytes(body[at : at + 4])
        blocks += cramjam.snappy.decompress_raw(body[at + 4 : end])
        at = end
    return blocks
