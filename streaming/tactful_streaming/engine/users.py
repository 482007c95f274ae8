"""Descriptions of users, held in memory or left in the store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from tactful_streaming.contract.log_entries import User, decode_entry, encode_entry
from tactful_streaming.errors import EntryError, StateError
from tactful_streaming.state.key_layout import REBUILD, USER
from tactful_streaming.state.store import Change, StateStore


class Users(Mapping[str, User]):
    """The newest description of each user.

    Uncommitted ones are in memory. The others are too if there is no cap on memory, else they are
    read from the store on access.
    """

    def __init__(self, store: StateStore, *, in_memory: bool) -> None:
        """Read the users in `store`, now (`in_memory`) or on access.

        Raises:
            StateError: if a stored user is damaged.
        """
        self._store = store
        self._in_memory = in_memory
        self._held: dict[str, User] = {}
        self._dirty: set[str] = set()
        if in_memory:
            for key, payload in store.scan(USER):
                self._held[_user_id(key)] = _decode(payload)

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
            for key, _ in self._store.scan(USER):
                if (user_id := _user_id(key)) not in self._held:
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


def _user_id(key: bytes) -> str:
    return key[len(USER) :].decode()


def _decode(payload: bytes) -> User:
    try:
        entry = decode_entry(payload)
    except EntryError as error:
        raise StateError(f"a stored user is damaged: {error}; {REBUILD}") from error
    if not isinstance(entry, User):
        raise StateError(f"an entry under the key of a user is no user; {REBUILD}")
    return entry
