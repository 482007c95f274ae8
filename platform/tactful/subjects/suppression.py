"""Erased users, stored as keyed hashes, whose later events are refused.

The hashes are in the metadata, for all processes of an installation, and also in a file of
tombstones if the settings name one. Keep that apart from backups: its users who are missing in a
restored database are erased again.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import msgspec
import sqlalchemy as sa

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import suppressions
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.errors import KeyringError
from tactful_privacy.people.pseudonyms import Keyring, Pseudonym, Suppressed

_table = suppressions.c


class Tombstone(msgspec.Struct, frozen=True):
    """A line of the file of tombstones."""

    key_id: int
    digest: bytes
    at: int  # time of the erasure, epoch milliseconds


class SuppressionStore:
    """The erased users of one installation; `suppressed` is a set-like view of their keys.

    Methods raise StorageError if the database, the keyring or the file cannot be used.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        keyring: Keyring,
        *,
        tombstones: Path = Path(),
        clock: Callable[[], int],
    ) -> None:
        """Read the erased users; `tombstones` is ``Path()`` for no such file."""
        self.suppressed = Suppressed(keyring)
        self._metadata = metadata
        self.keyring = keyring
        self._tombstones = tombstones
        self._clock = clock
        self._read = 0
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Read the erased users of other processes; one query."""
        with self._lock:
            query = sa.select(suppressions).where(_table.number > self._read)
            rows = self._metadata.fetch(query.order_by(_table.number))
            try:
                self.suppressed.add(Pseudonym(row.key_id, bytes(row.digest)) for row in rows)
            except KeyringError as error:
                raise StorageError(str(error)) from error
            if rows:
                self._read = rows[-1].number

    def suppress(self, people: Iterable[str]) -> None:
        """Refuse all later data of users (or ``device:`` and device ids), permanently.

        Their pseudonyms of all epochs are stored: an older copy of a vault holds only an earlier
        one, and no pseudonym can be converted to another.
        """
        new = [person for person in people if person not in self.suppressed]
        try:
            self.keyring.follow()  # a vault may use an epoch that another process began
        except KeyringError as error:
            raise StorageError(str(error)) from error
        at = self._clock()
        stones = [
            Tombstone(*self.keyring.pseudonym(person, key_id=key_id), at)
            for person in new
            for key_id in self.keyring.key_ids
        ]
        self._append(stones)
        self._insert(stones)

    def take_tombstones(self) -> int:
        """Add the users of the file of tombstones that the database lacks after a restore.

        Return their number, estimated from the pseudonyms of one epoch.
        """
        if self._tombstones == Path() or not self._tombstones.exists():
            return 0
        try:
            # Text after the last line break is an incomplete write of a killed process.
            *lines, _ = self._tombstones.read_bytes().split(b"\n")
            stones = [msgspec.json.decode(line, type=Tombstone) for line in lines if line]
        except (OSError, *DECODE_ERRORS) as error:
            raise StorageError(f"{self._tombstones}: cannot be read: {error}") from error
        query = sa.select(_table.key_id, _table.digest)
        known = {(row.key_id, bytes(row.digest)) for row in self._metadata.fetch(query)}
        missing = [stone for stone in stones if (stone.key_id, stone.digest) not in known]
        self._insert(missing)
        return max(Counter(stone.key_id for stone in missing).values(), default=0)

    def found_among(self, people: Collection[str]) -> frozenset[str]:
        """Return the erased users among `people`."""
        return frozenset(person for person in people if person in self.suppressed)

    def _insert(self, stones: Collection[Tombstone]) -> None:
        highest = sa.select(sa.func.max(_table.number))

        def insert(connection: sa.Connection) -> None:
            latest = connection.execute(highest).scalar() or 0
            rows = [
                {"number": number, "key_id": s.key_id, "digest": s.digest, "at": s.at}
                for number, s in enumerate(stones, latest + 1)
            ]
            connection.execute(sa.insert(suppressions), rows)

        if stones:
            self._metadata.change(insert)
            self.refresh()

    def _append(self, stones: Collection[Tombstone]) -> None:
        if self._tombstones == Path() or not stones:
            return
        data = b"".join(msgspec.json.encode(stone) + b"\n" for stone in stones)
        try:
            handle = os.open(self._tombstones, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                size = os.fstat(handle).st_size
                if os.write(handle, data) < len(data):
                    # A partial line would corrupt the next one and make the file unreadable.
                    os.ftruncate(handle, size)
                    raise OSError(errno.ENOSPC, "only a part was written: the disk is full")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise StorageError(f"{self._tombstones}: cannot be written: {error}") from error


def open_suppression(
    settings: Settings, metadata: MetadataStore, *, clock: Callable[[], int]
) -> SuppressionStore:
    """Open the erased users of an installation; StorageError if that fails."""
    try:
        keyring = Keyring(settings.keyring, clock=clock)
    except KeyringError as error:
        raise StorageError(str(error)) from error
    return SuppressionStore(metadata, keyring, tombstones=settings.consent.tombstones, clock=clock)
