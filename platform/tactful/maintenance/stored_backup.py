"""Backups in a bucket, or in another place of objects.

A backup is a snapshot with the files that a backup in a directory has. It is made in the data
directory first, sent part by part, and complete when its index is written. An interrupted one
continues with the parts that are there: those of the log's earlier segments are the same.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import groupby

from tactful.config.settings import Settings
from tactful.errors import BackupError
from tactful.maintenance.backup import Copied, Manifest, make_backup, read_manifest
from tactful.maintenance.backup_source import FILES, MANIFEST
from tactful.maintenance.expiry import Expired
from tactful.metadata.scratch import scratch_copy
from tactful_streaming.errors import ObjectExistsError, ObjectStoreError
from tactful_streaming.storage.objects import open_objects
from tactful_streaming.storage.snapshots import Snapshot, Snapshots

_NAME = "backup"


class StoredSource:
    """A backup in a place of objects, to be restored or checked."""

    def __init__(self, snapshots: Snapshots) -> None:
        """Use the one backup of a place."""
        self._snapshots = snapshots

    def __str__(self) -> str:
        """Return the URL."""
        return self._snapshots.place

    def read_manifest(self) -> bytes:
        """Read the manifest."""
        if _NAME not in self._snapshots.names():
            raise FileNotFoundError(f"{self}: there is no complete backup")
        return b"".join(self._blocks(MANIFEST))

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the content of a file; every part is compared with its checksum."""
        return self._blocks(f"{FILES}/{path}")

    def _blocks(self, path: str) -> Iterator[bytes]:
        file = next((file for file in self._index.files if file.path == path), None)
        if file is None:
            raise FileNotFoundError(f"{self}: {path} is missing")
        return self._snapshots.blocks(file)

    @cached_property
    def _index(self) -> Snapshot:
        return self._snapshots.index(_NAME)


def open_stored_backup(url: str) -> StoredSource:
    """Return the backup at a URL; BackupError if the URL is invalid."""
    return StoredSource(_snapshots(url))


def store_backup(
    settings: Settings,
    url: str,  # s3://BUCKET/PREFIX or file:///PATH, without a backup
    *,
    clock: Callable[[], int],  # epoch milliseconds
    copied: Copied = lambda size: None,  # called while the copy is made …
    sending: Callable[[int], Copied] = lambda size: lambda sent: None,  # … and sent, of its size
) -> Manifest:
    """Copy an installation into a place of objects, also beside a running server.

    The backup is there when it is complete; an interrupted attempt leaves parts, which the next one
    uses or deletes. A failure raises BackupError, and earlier backups are as they were.
    """
    snapshots = _snapshots(url)
    try:
        if _NAME in snapshots.names():
            raise BackupError(f"{url} exists already: a backup needs a new name")
        with scratch_copy(settings.storage.data) as copy:
            manifest = make_backup(settings, copy, clock=clock, copied=copied, scratch=True)
            sent = sending(sum(path.stat().st_size for path in copy.rglob("*") if path.is_file()))
            snapshots.write(_NAME, copy, new=True, sent=sent)
            shutil.rmtree(copy, ignore_errors=True)
        snapshots.sweep()
    except ObjectExistsError as error:
        raise BackupError(f"{url}: another process has made this backup meanwhile") from error
    except ObjectStoreError as error:
        raise BackupError(f"no backup was made: {error}") from error
    return manifest


def expire_stored_backups(url: str, before: int, *, dry_run: bool) -> Iterator[Expired]:
    """Delete the backups below a URL that were begun before a time, epoch milliseconds.

    Of an interrupted one the newest part counts. BackupError if the place cannot be used.
    """
    try:
        store = open_objects(url)
        objects = sorted(store.list(), key=lambda entry: entry.name)
        for folder, entries in groupby(objects, lambda entry: entry.name.partition("/")[0]):
            names = [entry for entry in entries if entry.name.count("/") == 2]
            if not names:  # no backup
                continue
            snapshots = Snapshots(store, folder)
            what = snapshots.place
            made_at = round(max(entry.written_at for entry in names) * 1000)
            if _NAME in snapshots.names():
                try:
                    made_at = read_manifest(StoredSource(snapshots)).begun_at
                except BackupError as error:
                    yield Expired(kind="unreadable", what=what, note=str(error))
                    continue
            if made_at >= before:
                continue
            if not dry_run:
                snapshots.delete(snapshots.names())
                snapshots.sweep()
            yield Expired(kind="backup", what=what, made_at=made_at, removed=not dry_run)
    except ObjectStoreError as error:
        raise BackupError(str(error)) from error


def _snapshots(url: str) -> Snapshots:
    try:
        return Snapshots(open_objects(url))
    except ObjectStoreError as error:
        raise BackupError(str(error)) from error
