"""Manifest of a backup, and checks of its files.

A backup is a directory with ``manifest.json`` and ``files/``. The manifest is written last, so a
directory without one is an incomplete backup.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from tactful.errors import BackupError
from tactful_privacy.durable_files import replace_file

FORMAT = 1  # version of the layout that is written and read
MANIFEST = "manifest.json"
FILES = "files"

_CHUNK = 1 << 20

Copied = Callable[[int], None]  # called with the size of every copied piece, bytes


class BackupFile(msgspec.Struct, kw_only=True, frozen=True):
    """One file of a backup."""

    path: str  # path below ``files/`` and below a data directory
    size: int  # bytes
    sha256: str  # digest of its content, hexadecimal


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """Content of a backup."""

    format: int
    version: str  # version of tactful that made it
    begun_at: int  # events acknowledged by then are in it, epoch milliseconds
    ended_at: int  # epoch milliseconds
    # first and next offset of the log in files, None for a log in Kafka
    log: tuple[int, int] | None
    state: int | None  # next offset of the log to apply to the state
    elsewhere: list[str]  # names of parts of the installation that are not in the backup
    files: list[BackupFile]  # sorted by path

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class _Sealed(msgspec.Struct, frozen=True):
    """The stored manifest with the digest of its encoding."""

    sha256: str
    manifest: msgspec.Raw


class _Version(msgspec.Struct, frozen=True):
    format: int


def write_manifest(backup: Path, manifest: Manifest) -> None:
    """Write the manifest of a backup atomically and durably."""
    encoded = msgspec.json.encode(manifest)
    sealed = _Sealed(hashlib.sha256(encoded).hexdigest(), msgspec.Raw(encoded))
    replace_file(backup / MANIFEST, msgspec.json.encode(sealed))


def read_manifest(backup: Path) -> Manifest:
    """Read the manifest of a backup, without its files.

    Raises:
        BackupError: if there is none, or it is damaged or of a newer version.
    """
    path = backup / MANIFEST
    try:
        sealed = msgspec.json.decode(path.read_bytes(), type=_Sealed)
        encoded = bytes(sealed.manifest)
        if hashlib.sha256(encoded).hexdigest() != sealed.sha256:
            raise BackupError(f"{path}: damaged: its checksum differs; use another backup")
        version = msgspec.json.decode(encoded, type=_Version).format
        if version != FORMAT:
            raise BackupError(
                f"{path}: the backup has format {version}, this version of tactful reads {FORMAT}: "
                "use the version that made it"
            )
        manifest = msgspec.json.decode(encoded, type=Manifest)
    except FileNotFoundError:
        raise BackupError(
            f"{backup}: no complete backup: {MANIFEST} is missing, which is written last. A backup "
            "that was begun here was broken off"
        ) from None
    except OSError as error:
        raise BackupError(f"{path}: cannot be read: {error}") from error
    except msgspec.MsgspecError as error:
        raise BackupError(f"{path}: damaged: {error}; use another backup") from error
    for file in manifest.files:
        parts = PurePosixPath(file.path).parts
        if not parts or ".." in parts or PurePosixPath(file.path).is_absolute():
            raise BackupError(f"{path}: it names a file outside of the backup: {file.path!r}")
    return manifest


def describe(root: Path, path: Path) -> BackupFile:
    """Describe a file below `root` for the manifest, and force it to disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return BackupFile(path=path.relative_to(root).as_posix(), size=file.tell(), sha256=digest)


def copy_checked(backup: Path, file: BackupFile, target: Path | None, copied: Copied) -> None:
    """Copy a file of a backup durably and compare it with the manifest; None only compares.

    Raises:
        BackupError: if the file is missing or damaged, or cannot be written.
    """
    source = backup / FILES / file.path
    digest = hashlib.sha256()
    size = 0
    try:
        with contextlib.ExitStack() as stack:
            reading = stack.enter_context(source.open("rb"))
            writing = None if target is None else stack.enter_context(open_private(target))
            while block := reading.read(_CHUNK):
                digest.update(block)
                size += len(block)
                if writing is not None:
                    writing.write(block)
                copied(len(block))
            if writing is not None:
                writing.flush()
                os.fsync(writing.fileno())
    except FileNotFoundError:
        raise BackupError(f"{source} is missing from the backup; use another one") from None
    except OSError as error:
        raise BackupError(f"{source}: cannot be copied: {error}") from error
    if size != file.size or digest.hexdigest() != file.sha256:
        raise BackupError(
            f"{source}: damaged: {size} bytes of sha256 {digest.hexdigest()[:12]}…, and the "
            f"manifest says {file.size} of {file.sha256[:12]}…; use another backup"
        )


def open_private(path: Path) -> BinaryIO:
    """Create a file that only its owner may read, and its directories."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
