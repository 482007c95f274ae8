"""Descriptions of users, and the last versions of the descriptions of items."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from operator import attrgetter

import msgspec

from tactful_streaming.contract.log_entries import Item, User, encode_entry
from tactful_streaming.errors import StateError
from tactful_streaming.state.key_layout import REBUILD, USER, named, stored_entry, unpacked
from tactful_streaming.state.store import Change, StateStore

MAX_VERSIONS = 8  # most versions stored of an item
_timestamp = attrgetter("timestamp")
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Item])


class ItemVersions:
    """Last versions of each item by timestamp, for sources ``item.<field>``.

    An event reads the newest version not younger than itself, among those that have arrived; one
    older than every stored version reads none. Ties are in the order of arrival.
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
        """Restore versions that :meth:`pack` returned; StateError if `blob` is none."""
        self._versions[item_id] = unpacked(_decoder, blob, "the versions of an item are damaged")


class Users(Mapping[str, User]):
    """The newest description of each user.

    Uncommitted ones are in memory. The others are too if there is no cap on memory, else they are
    read from the store on access.
    """

    def __init__(self, store: StateStore, *, in_memory: bool) -> None:
        """Read the users in `store`, now (`in_memory`) or on access; StateError if damaged."""
        self._store = store
        self._in_memory = in_memory
        self._held: dict[str, User] = {}
        self._dirty: set[str] = set()
        if in_memory:
            self._held = {name: _decode(payload) for name, payload in named(store, USER)}
        # The users for readers: without a cap the dictionary itself, which is read faster.
        self.view: Mapping[str, User] = self._held if in_memory else self

    def __getitem__(self, user_id: str) -> User:
        """Return the newest description of a user."""
        user = self._held.get(user_id)
        if user is None:
            payload = None if self._in_memory else self._store.get(USER + user_id.encode())
            if payload is None:
                raise KeyError(user_id)
            user = _decode(payload)
        return user

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of all users, those that are in the store alone first."""
        if not self._in_memory:
            for user_id, _ in named(self._store, USER):
                if user_id not in self._held:
                    yield user_id
        yield from self._held

    def __len__(self) -> int:
        """Return the number of users; counts them one by one unless all are in memory."""
        return len(self._held) if self._in_memory else sum(1 for _ in self)

    def update(self, user: User) -> None:
        """Replace the description of a user."""
        self._held[user.user_id] = user
        self._dirty.add(user.user_id)

    def delete(self, user_ids: Iterable[str]) -> None:
        """Delete descriptions that were deleted from the store."""
        for user_id in user_ids:
            self._held.pop(user_id, None)

    def changes(self) -> Iterator[Change]:
        """Yield the writes of a commit."""
        for user_id in self._dirty:
            yield USER + user_id.encode(), encode_entry(self._held[user_id])

    def mark_committed(self) -> None:
        """Note that the last :meth:`changes` are in the store."""
        if not self._in_memory:
            for user_id in self._dirty:
                del self._held[user_id]
        self._dirty.clear()


def _decode(payload: bytes) -> User:
    entry = stored_entry(payload, "user")
    if not isinstance(entry, User):
        raise StateError(f"an entry under the key of a user is no user; {REBUILD}")
    return entry
