"""Places from which the files of a backup are read, and their layout.

::

    manifest.json    written last
    files/log/…      files below a data directory
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tactful.maintenance.backup_paths import open_plain

MANIFEST = "manifest.json"
FILES = "files"

_CHUNK = 1 << 20


class BackupSource(Protocol):
    """A place with one backup; `str` of it names the place."""

    def read_manifest(self) -> bytes:
        """Read the manifest.

        Raises:
            FileNotFoundError: if there is none, so the backup is not complete.
            OSError: if it cannot be read.
        """
        ...

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the content of a file below ``files/``.

        Raises:
            FileNotFoundError: if there is no such file.
            OSError: if it cannot be read.
            BackupError: if it is none of a backup.
        """
        ...


class FolderSource:
    """A backup in a directory."""

    def __init__(self, folder: Path) -> None:
        """Use a directory."""
        self.folder = folder

    def __str__(self) -> str:
        """Return the path."""
        return str(self.folder)

    def read_manifest(self) -> bytes:
        """Read the manifest."""
        return (self.folder / MANIFEST).read_bytes()

    def blocks(self, path: str) -> Iterator[bytes]:
        """Yield the content of a file, which must not be a link."""
        with open_plain(self.folder, f"{FILES}/{path}") as file:
            while block := file.read(_CHUNK):
                yield block


def source_of(backup: Path | BackupSource) -> BackupSource:
    """Return a backup as a place to read from."""
    return FolderSource(backup) if isinstance(backup, Path) else backup
