"""A process that reads damaged JSON whose padding ends where no memory may be read."""

import ctypes
import mmap
import random
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from tactful_streaming import json_reader as module
from tactful_streaming.projection import Projection
from tactful_streaming.records import PADDING

ROOM = 1 << 16
BYTES = b'{}[],:"\\ \n\t0123456789.-+eEntfu\x00\x1f\x7f\x80\xc3\xff'
WORDS = [b"{", b"{}", b'{"', b'{"a":', b'{"a":t', b'{"a":"', b'{"a":1', b'{"a":1,', b'{"a":{', b""]


def usual(number: int) -> bytes:
    return msgspec.json.encode(
        {
            "kind": "event",
            "type": "view",
            "timestamp": 1_760_000_000_000 + number,
            "user_id": f"u{number}" * 9,
            "item_id": f"i{number}",
            "properties": {"price": number / 4},
            "context": {"new": True},
        }
    )


def damaged(rng: random.Random, number: int) -> bytes:
    raw = bytearray(usual(number))
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(raw)
    if kind == 1:
        return rng.choice(WORDS)
    del raw[rng.randrange(len(raw)) :]
    return bytes(raw) + (bytes(rng.choices(BYTES, k=rng.randrange(4))) if kind > 2 else b"")


def main() -> None:
    """Read; the argument says how many bytes of the padding may not be read."""
    taken = int(sys.argv[1])
    memory = mmap.mmap(-1, ROOM + mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + ROOM
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0):
        raise OSError("no page could be guarded")
    module.LEAST, module._UNUSUAL_SHARE, module._REST = 1, 0, 0  # type: ignore[misc]
    projection = Projection(("item_id", "properties.price"), compiled=True)
    reader = projection._reader
    assert reader is not None
    read, rng = reader._read, random.Random(3)
    length = 0

    def guarded(address: int, *rest: Any) -> Any:
        kept = length - taken
        ctypes.memmove(end - kept, address, kept)
        return read(end - kept, *rest)

    reader._read = guarded
    found = 0
    for _ in range(4_000):
        payloads: Sequence[bytes] = [usual(0), damaged(rng, 1)][rng.randrange(2) :]
        length = sum(map(len, payloads)) + len(payloads) + len(PADDING)
        found += reader.read(payloads) is not None
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main()
