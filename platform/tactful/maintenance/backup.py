"""Backup: a consistent copy of a data directory, made beside a running server.

A backup is a directory with ``manifest.json`` and ``files/``. The manifest is written last, so a
directory without one is an incomplete backup.

The order makes the parts consistent: open the segments of the log, so that none is dropped; copy a
snapshot of the state; the log, which reaches at least as far; the ledger, with at least the
releases of the state; the metadata and all other files; the keyring last. A server that starts on
the copy applies the rest of the log to the state.

Deleted data in files of RocksDB or SQLite are not copied, nor are compiled code, the signing key of
the installation and secrets that the settings name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
from msgspec import Meta

from tactful.config.settings import Settings
from tactful.errors import BackupError
from tactful.maintenance.backup_paths import (
    is_code,
    is_left_out,
    refuse_foreign_paths,
    secret_files,
)
from tactful.maintenance.backup_source import FILES, MANIFEST, BackupSource, source_of
from tactful.metadata.restore_journal import refuse_unfinished
from tactful.util.signing import Signature, SigningKey, is_genuine, open_signing_key
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file, sync
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.store import RocksState, copy_state

FORMAT = 1  # version of the layout that is written and read

_PURPOSE = "backup"
_CHUNK = 1 << 20
_LOGS = ("log", "dead-letters", "late", "spool")
_SQLITE = b"SQLite format 3\0"
_CHATTER = ("LOCK", "LOG")

Copied = Callable[[int], None]  # called with the size of every copied piece, bytes


class BackupFile(msgspec.Struct, kw_only=True, frozen=True):
    """One file of a backup."""

    path: str  # path below ``files/`` and below a data directory
    size: Annotated[int, Meta(ge=0)]  # bytes
    # digest of its content, hexadecimal
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, kw_only=True, frozen=True):
    """Content of a backup."""

    format: int
    version: str  # version of tactful that made it
    begun_at: int  # events acknowledged by then are in it, epoch milliseconds
    ended_at: int  # epoch milliseconds
    log: tuple[int, int] | None  # its first and next offset in files; None for a log in Kafka
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
    signature: Signature | None = None  # None in backups of 0.1


@dataclass(frozen=True)
class Trust:
    """Signatures that a restore accepts, beside that of the data directory's own key."""

    verify_key: str | None = None  # public key whose signature the backup must have
    accept_unsigned: bool = False  # accept a backup without signature, or of an unknown key


def write_manifest(backup: Path, manifest: Manifest, key: SigningKey | None = None) -> None:
    """Sign the manifest of a backup, if there is a key, and write it atomically and durably."""
    encoded = msgspec.json.encode(manifest)
    digest = hashlib.sha256(encoded).hexdigest()
    signature = None if key is None else key.sign(_PURPOSE, encoded)
    sealed = _Sealed(digest, msgspec.Raw(encoded), signature)
    replace_file(backup / MANIFEST, msgspec.json.encode(sealed))


def read_manifest(backup: Path | BackupSource) -> Manifest:
    """Read the manifest of a backup; BackupError if it is absent, damaged or newer."""
    return read_signed_manifest(backup)[0]


def check_origin(source: BackupSource | Path, signer: str | None, own: str, trust: Trust) -> None:
    """Raise BackupError unless the signer of a backup is trusted; None: it has no signature."""
    wanted = trust.verify_key or own
    if signer == wanted:
        return
    state = "it has no signature" if signer is None else f"it is signed by key {signer[:16]}…"
    if trust.verify_key is not None:
        raise BackupError(f"{source}: {state}, and not by that of --verify-key ({wanted[:16]}…)")
    if not trust.accept_unsigned:
        raise BackupError(
            f"{source}: {state}, and not signed by this installation: anybody may have changed it. "
            "Name the public key of the installation that made it (`tactful keys public`) with "
            "--verify-key, or say --accept-unsigned if you know that nobody did"
        )


def read_signed_manifest(backup: Path | BackupSource) -> tuple[Manifest, str | None]:
    """Read the manifest of a backup and the public key that signed it; None without signature.

    Raises:
        BackupError: if it is absent, damaged or newer, its signature is wrong, or it names a file
            that no backup contains.
    """
    path = f"{backup}/{MANIFEST}"
    try:
        sealed = msgspec.json.decode(source_of(backup).read_manifest(), type=_Sealed)
        encoded = bytes(sealed.manifest)
        if hashlib.sha256(encoded).hexdigest() != sealed.sha256:
            raise BackupError(f"{path}: damaged: its checksum differs; use another backup")
        signature = sealed.signature
        if signature is not None and not is_genuine(signature, _PURPOSE, encoded):
            raise BackupError(f"{path}: its signature is wrong: it was changed; use another backup")
        version = msgspec.json.decode(encoded, type=dict[str, Any]).get("format")
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
    except DECODE_ERRORS as error:
        raise BackupError(f"{path}: damaged: {error}; use another backup") from error
    refuse_foreign_paths(path, [file.path for file in manifest.files])
    return manifest, None if signature is None else signature.key


def describe(root: Path, path: Path) -> BackupFile:
    """Describe a file below `root` for the manifest, and force it to disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return BackupFile(path=path.relative_to(root).as_posix(), size=file.tell(), sha256=digest)


def copy_checked(
    backup: BackupSource, file: BackupFile, target: Path | None, copied: Copied
) -> None:
    """Copy a file of a backup durably and compare it with the manifest; None only compares.

    A file that is missing or damaged, or cannot be written, raises BackupError.
    """
    source = f"{backup}/{FILES}/{file.path}"
    digest = hashlib.sha256()
    size = 0
    try:
        with contextlib.ExitStack() as stack:
            writing = None if target is None else stack.enter_context(open_private(target))
            for block in backup.blocks(file.path):
                digest.update(block)
                size += len(block)
                if size > file.size:
                    break
                if writing is not None:
                    writing.write(block)
                copied(len(block))
            if writing is not None:
                writing.flush()
                os.fsync(writing.fileno())
    except BackupError:
        raise
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


def make_backup(
    settings: Settings,
    target: Path,  # must not exist, and must not lie in the data directory
    *,
    clock: Callable[[], int],  # epoch milliseconds
    copied: Copied = lambda size: None,
    scratch: bool = False,  # whether it is deleted soon, so it may lie in the data directory
) -> Manifest:
    """Copy an installation into a new directory, also beside a running server.

    The directory gets its name when it is complete. The next run removes the files of a killed one.
    A failure raises BackupError; then there is no `target`.
    """
    data, target = settings.storage.data, target.absolute()
    if not data.is_dir():
        raise BackupError(f"{data}: there is no data directory")
    if target.exists():
        raise BackupError(f"{target} exists already: a backup needs a new directory")
    if target.is_relative_to(data.absolute()) and not scratch:
        raise BackupError(f"{target} lies in the data directory and would be lost with it")
    refuse_unfinished(data)
    begun = target.with_name(f".{target.name}.unfinished")
    try:
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(mode=0o700, parents=True)
        manifest = _copy(settings, begun, clock, copied)
        write_manifest(begun, manifest, open_signing_key(data))
        begun.rename(target)
        sync(target.parent)
    except BackupError:
        raise
    except (OSError, sqlite3.Error, StreamingError) as error:
        raise BackupError(f"{target}: no backup was made: {error}") from error
    return manifest


def _copy(settings: Settings, begun: Path, clock: Callable[[], int], copied: Copied) -> Manifest:
    data, files = settings.storage.data, begun / FILES
    began_at = clock()
    spans: dict[str, tuple[int, int]] = {}
    with contextlib.ExitStack() as stack:
        logs = {
            name: stack.enter_context(EmbeddedLog(data / name, read_only=True))
            for name in _LOGS
            if (data / name / "bounds").exists()
        }
        states = sorted({path.parent for path in _walk(data) if path.name == "CURRENT"})
        for state in states:
            copy_state(state, files / state.relative_to(data), copied=copied)
        for name, log in logs.items():
            spans[name] = log.copy(files / name, copied=copied)
    files.mkdir(mode=0o700, exist_ok=True)
    done = [*states, *(data / name for name in logs)]
    # Sorting puts the ledger before the metadata. The keyring is last: keys are only added to it,
    # so it has all keys of the copied metadata and vault.
    keyring = settings.keyring.absolute()
    secrets = secret_files(settings)
    for path in sorted(_walk(data), key=lambda path: (path.absolute() == keyring, path)):
        if path not in secrets and not any(path.is_relative_to(copy) for copy in done):
            _copy_file(path, files / path.relative_to(data), copied)
    offset = _offset(files / "state")
    for state in states:
        for path in (files / state.relative_to(data)).iterdir():
            if path.name.startswith(_CHATTER):
                path.unlink()
    described = [describe(files, path) for path in files.rglob("*") if path.is_file()]
    for directory in (*(path for path in files.rglob("*") if path.is_dir()), files):
        sync(directory)
    return Manifest(
        format=FORMAT,
        version=metadata.version("tactful"),
        begun_at=began_at,
        ended_at=clock(),
        log=spans.get("log"),
        state=offset,
        elsewhere=list(_elsewhere(settings)),
        files=sorted(described, key=lambda file: file.path),
    )


def _walk(directory: Path) -> Iterator[Path]:
    """Yield the files to copy; files of unfinished jobs are left out."""
    for path in directory.rglob("*"):
        within = path.relative_to(directory)
        left_out = is_left_out(within) or is_code(within)
        if not left_out and path.is_file() and not path.is_symlink():
            yield path


def _copy_file(source: Path, target: Path, copied: Copied) -> None:
    try:
        with source.open("rb") as reading:
            if reading.read(len(_SQLITE)) == _SQLITE:
                copy_database(source, target)
                copied(target.stat().st_size)
                return
            reading.seek(0)
            with open_private(target) as writing:
                while block := reading.read(_CHUNK):
                    writing.write(block)
                    copied(len(block))
    except FileNotFoundError:
        return


def copy_database(source: Path, target: Path) -> None:
    """Copy a snapshot of an SQLite file that may be in use, and check the copy.

    A damaged file raises BackupError, one that cannot be read sqlite3.Error.
    """
    open_private(target).close()
    with (
        contextlib.closing(sqlite3.connect(source, timeout=60.0)) as reading,
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as writing,
    ):
        reading.backup(writing)  # in one step: a write between steps would restart the copy
        writing.execute("PRAGMA journal_mode=DELETE")  # one file, without a write-ahead log
        writing.execute("VACUUM")
        (result,) = writing.execute("PRAGMA quick_check(1)").fetchone()
    if result != "ok":
        raise BackupError(f"{source}: damaged: {result}; restore it from an earlier backup")


def _offset(state: Path) -> int | None:
    if not (state / "CURRENT").exists():
        return None
    with contextlib.closing(RocksState(state, read_only=True)) as store:
        meta = read_meta(store)
    return None if meta is None else meta.offset


def _elsewhere(settings: Settings) -> Iterator[str]:
    if not settings.log.in_files:
        yield f"the log: topic {settings.log.topic} in Kafka"
    if settings.online.shared:
        yield "the online store in Redis, which is filled again from the state"
    if settings.metadata.url_env:
        yield "the metadata: a database of its own, to be backed up with its own tools"
    if settings.statistics.ledger_url_env:
        yield "the ledger of published numbers: a database of its own, which must never be reset"
    for name, path in (
        ("the keyring", settings.keyring),
        ("the vault", settings.vault if settings.vault.exists() else Path()),
        ("the models", settings.models),
        ("the file of tombstones", settings.consent.tombstones),
    ):
        inside = path.absolute().is_relative_to(settings.storage.data.absolute())
        if path != Path() and not inside:
            yield f"{name}: {path}"
    if settings.privacy.sealed_log:
        yield "the master key of the vault, without which sealed records cannot be read"
    yield "settings, definitions of features and statistics, and MLflow's registry"
