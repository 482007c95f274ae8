"""People who were erased: what comes of them later is refused, and they are known by a keyed hash.

The list is in the metadata, for all processes of an installation, and, where the settings name a
file for it, also there: the file is kept apart from backups, and who stands in it and not in a
restored database is erased once more.
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
from tactful.metadata.store import MetadataStore, suppressions
from tactful_privacy.errors import KeyringError
from tactful_privacy.people.pseudonyms import Keyring, Pseudonym, Suppressed

_table = suppressions.c


class Tombstone(msgspec.Struct, frozen=True):
    """A line of the file of tombstones.

    Attributes:
        key_id: number of the key.
        digest: pseudonym of the person.
        at: when they were erased, epoch milliseconds.
    """

    key_id: int
    digest: bytes
    at: int


class SuppressionStore:
    """The erased people of one installation.

    Attributes:
        suppressed: tells whether somebody is one of them.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        keyring: Keyring,
        *,
        tombstones: Path = Path(),
        clock: Callable[[], int],
    ) -> None:
        """Read the list.

        Args:
            metadata: where it is kept.
            keyring: the keys of the installation.
            tombstones: file with the same list, kept apart; ``Path()`` for none.
            clock: now in epoch milliseconds.

        Raises:
            StorageError: if the database, the keyring or the file cannot be used.
        """
        self.suppressed = Suppressed(keyring)
        self._metadata = metadata
        self._keyring = keyring
        self._tombstones = tombstones
        self._clock = clock
        self._read = 0
        self._lock = threading.Lock()
        self.refresh()

    def refresh(self) -> None:
        """Take in what other processes added; one query.

        Raises:
            StorageError: if the database cannot be reached, or a key is missing.
        """
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
        """Refuse whatever comes of these people from now on, for good.

        They are noted by their pseudonyms of all epochs: a copy of a vault from before the last
        one knows them by an earlier one alone, and no pseudonym leads to another.

        Args:
            people: user ids, or ``device:`` and device ids.

        Raises:
            StorageError: if that cannot be kept.
        """
        new = [person for person in people if person not in self.suppressed]
        try:
            self._keyring.follow()  # a vault may know them by an epoch that another process began
        except KeyringError as error:
            raise StorageError(str(error)) from error
        at = self._clock()
        stones = [
            Tombstone(*self._keyring.pseudonym(person, key_id=key_id), at)
            for person in new
            for key_id in self._keyring.key_ids
        ]
        self._append(stones)
        self._insert(stones)

    def take_tombstones(self) -> int:
        """Take in who stands in the file of tombstones and not in the database.

        Returns:
            How many people there were, as far as epochs tell them from pseudonyms: what is stored
            was restored from before they were erased.

        Raises:
            StorageError: if the file is damaged or a key is missing.
        """
        if self._tombstones == Path() or not self._tombstones.exists():
            return 0
        try:
            # What follows the last line break was being written when the process died.
            *lines, _ = self._tombstones.read_bytes().split(b"\n")
            stones = [msgspec.json.decode(line, type=Tombstone) for line in lines if line]
        except (OSError, msgspec.MsgspecError) as error:
            raise StorageError(f"{self._tombstones}: cannot be read: {error}") from error
        query = sa.select(_table.key_id, _table.digest)
        known = {(row.key_id, bytes(row.digest)) for row in self._metadata.fetch(query)}
        missing = [stone for stone in stones if (stone.key_id, stone.digest) not in known]
        self._insert(missing)
        return max(Counter(stone.key_id for stone in missing).values(), default=0)

    def found_among(self, people: Collection[str]) -> frozenset[str]:
        """Those of `people` that are erased."""
        return frozenset(person for person in people if person in self.suppressed)

    def _insert(self, stones: Collection[Tombstone]) -> None:
        highest = sa.select(sa.func.max(_table.number)).with_for_update()

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
                    # Half a line would spoil the next one, and nothing could read the file.
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
    """The list of an installation.

    Raises:
        StorageError: if the database, the keyring or the file of tombstones cannot be used.
    """
    try:
        keyring = Keyring(settings.keyring, clock=clock)
    except KeyringError as error:
        raise StorageError(str(error)) from error
    return SuppressionStore(metadata, keyring, tombstones=settings.consent.tombstones, clock=clock)
