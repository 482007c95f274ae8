"""Trail of who found, read, exported or erased a user's data, and when.

Users stand in it as keyed hashes, so that the trail of an erased user holds no id of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import sqlalchemy as sa

from tactful.errors import StorageError
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import person_accesses
from tactful.schemas.users import PersonAccess
from tactful_privacy.errors import KeyringError
from tactful_privacy.people.pseudonyms import Keyring

_table = person_accesses.c

Access = Literal[
    "find",
    "export",
    "erase",
    "consent",
    "decide",
    "features",
    "explain",
    "timeline",
    "devices",
    "recommendations",
    "try",
    "release",
    "receive",
    "flag",
    "letters",
    "stream",
]
"""Kinds of access to the data of a user, the last two to those of all users."""


class AccessLog:
    """The accesses of one installation; StorageError if database or keyring cannot be used.

    Rows by example::

        17  export  key 81, digest 9f3c…  1767225600000  key 0f3a9c21
        18  erase   key 81, digest 9f3c…  1767225661000  ann@shop-1
    """

    def __init__(
        self, metadata: MetadataStore, keyring: Keyring, *, clock: Callable[[], int]
    ) -> None:
        """Use a database whose schema is up to date, and the keyring of its installation."""
        self._metadata = metadata
        self._keyring = keyring
        self._clock = clock

    def record(self, person: str, action: Access, *, by: str) -> None:
        """Write an access before it happens; `by` is an API key or a login and host."""
        try:
            self._keyring.follow()
            pseudonym = self._keyring.pseudonym(person)
        except KeyringError as error:
            raise StorageError(str(error)) from error
        row = {"action": action, "at": self._clock(), "accessed_by": by}
        insert = sa.insert(person_accesses).values(**row, **pseudonym._asdict())
        self._metadata.change(lambda connection: connection.execute(insert))

    def accesses(
        self, person: str | None = None, *, limit: int = 100, before: int | None = None
    ) -> list[PersonAccess]:
        """Return accesses with a smaller id than `before`, newest first; of all users for None.

        A user whose key epoch was destroyed since has none any more.
        """
        query = sa.select(_table.id, _table.action, _table.at, _table.accessed_by)
        if person is not None:
            try:
                self._keyring.follow()
                epochs = self._keyring.key_ids
                digests = [self._keyring.pseudonym(person, key_id=k).digest for k in epochs]
            except KeyringError as error:
                raise StorageError(str(error)) from error
            query = query.where(_table.digest.in_(digests))
        if before is not None:
            query = query.where(_table.id < before)
        rows = self._metadata.fetch(query.order_by(_table.id.desc()).limit(limit))
        return [PersonAccess(id=r.id, action=r.action, at=r.at, by=r.accessed_by) for r in rows]
