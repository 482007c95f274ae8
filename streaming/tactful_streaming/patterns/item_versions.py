"""Last versions of each item, for sources ``item.<field>``.

An event reads the newest version that is not younger than itself, among those that have arrived.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter

import msgspec

from tactful_streaming.contract.log_entries import Item
from tactful_streaming.errors import StateError

MAX_VERSIONS = 8
"""Most versions stored of an item."""

_timestamp = attrgetter("timestamp")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Item])


class ItemVersions:
    """Last versions of each item by timestamp; ties in the order of arrival.

    An event older than every stored version reads none.
    """

    def __init__(self, limit: int = MAX_VERSIONS) -> None:
        """Create a store of at most `limit` versions of an item."""
        self._limit = limit
        self._versions: dict[str, list[Item]] = {}

    def add(self, item: Item) -> None:
        """Add an update that arrives now."""
        versions = self._versions.setdefault(item.item_id, [])
        versions.insert(bisect_right(versions, item.timestamp, key=_timestamp), item)
        if len(versions) > self._limit:
            del versions[0]

    def at(self, item_id: str, timestamp: int) -> Item | None:
        """Return the newest version at `timestamp`, epoch milliseconds; None without one."""
        versions = self._versions.get(item_id)
        if not versions:
            return None
        if versions[-1].timestamp <= timestamp:
            return versions[-1]
        place = bisect_right(versions, timestamp, key=_timestamp)
        return versions[place - 1] if place else None

    def lookup(
        self, item_ids: Iterable[str | None], timestamps: Iterable[int]
    ) -> list[Item | None]:
        """Return the version that each event reads: :meth:`at` for columns."""
        return [
            None if item_id is None else self.at(item_id, timestamp)
            for item_id, timestamp in zip(item_ids, timestamps, strict=True)
        ]

    def pack(self, item_id: str) -> bytes:
        """Return the packed versions of an item."""
        return _encoder.encode(self._versions.get(item_id, []))

    def unpack(self, item_id: str, blob: bytes) -> None:
        """Restore versions that :meth:`pack` returned.

        Raises:
            StateError: `blob` is no packed state.
        """
        try:
            self._versions[item_id] = _decoder.decode(blob)
        except msgspec.MsgspecError as error:
            raise StateError(f"the versions of an item are damaged: {error}") from error
