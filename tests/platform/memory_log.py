"""An event log in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tactful_streaming.contract.log_entries import Entry, decode_entry, encode_entry


class MemoryLog:
    """One partition in memory, whose records were received at the times of their entries."""

    def __init__(self, payloads: Sequence[bytes] = ()) -> None:
        self.payloads = [*payloads]
        self.begin = 0

    @property
    def end(self) -> int:
        return len(self.payloads)

    def append(self, payloads: Sequence[bytes]) -> int:
        self.payloads.extend(payloads)
        return self.end

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        return [*enumerate(self.payloads[offset : offset + limit], offset)]

    def offset_at(self, timestamp: int) -> int:
        places = range(self.end)
        later = (n for n in places if decode_entry(self.payloads[n]).timestamp >= timestamp)
        return next(later, self.end)

    def close(self) -> None:
        pass


def log_of(
    entries: Sequence[Entry], *, format: Literal["msgpack", "json"] = "msgpack"
) -> MemoryLog:
    """Return a log of entries in their order."""
    return MemoryLog([encode_entry(entry, format) for entry in entries])
