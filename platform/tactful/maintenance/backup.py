"""Backup: a consistent copy of a data directory, made beside a running server.

The order makes the parts consistent: open the segments of the log, so that none is dropped; copy a
snapshot of the state; the log, which reaches at least as far; the ledger, with at least the
releases of the state; the metadata and all other files; the keyring last. A server that starts on
the copy applies the rest of the log to the state.

Deleted data in files of RocksDB or SQLite are not copied.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from tactful.config.settings import Settings
from tactful.errors import BackupError
from tactful.maintenance.backup_manifest import (
    FILES,
    FORMAT,
    Copied,
    Manifest,
    describe,
    open_private,
    write_manifest,
)
from tactful.maintenance.retention import PROGRESS
from tactful.metadata.restore_journal import refuse_unfinished
from tactful_privacy.durable_files import sync
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.store import RocksState, copy_state

_LOGS = ("log", "dead-letters", "late", "spool")
_SQLITE = b"SQLite format 3\0"
_PIECE = 1 << 20
# Files of unfinished jobs. The progress of retention may be ahead of the copied log.
_LEFT_OUT = ("backfill", "erasures", PROGRESS)
_CHATTER = ("LOCK", "LOG")


def make_backup(
    settings: Settings,
    target: Path,  # must not exist, and must not lie in the data directory
    *,
    clock: Callable[[], int],  # epoch milliseconds
    copied: Copied = lambda size: None,
) -> Manifest:
    """Copy an installation into a new directory, also beside a running server.

    The directory gets its name when it is complete. The next run removes the files of a killed one.

    Raises:
        BackupError: if it fails; then there is no `target`.
    """
    data, target = settings.storage.data, target.absolute()
    if not data.is_dir():
        raise BackupError(f"{data}: there is no data directory")
    if target.exists():
        raise BackupError(f"{target} exists already: a backup needs a new directory")
    if target.is_relative_to(data.absolute()):
        raise BackupError(f"{target} lies in the data directory and would be lost with it")
    refuse_unfinished(data)
    begun = target.with_name(f".{target.name}.unfinished")
    try:
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(mode=0o700, parents=True)
        manifest = _copy(settings, begun, clock, copied)
        write_manifest(begun, manifest)
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
    for path in sorted(_walk(data), key=lambda path: (path.absolute() == keyring, path)):
        if not any(path.is_relative_to(copy) for copy in done):
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
        within = path.relative_to(directory).parts
        left_out = (
            within[0] in _LEFT_OUT
            or "training" in within[:2]
            or path.name == "lock"
            or path.name.endswith((".new", "-wal", "-shm", "-journal"))
            or any(part.startswith(".") for part in within)
        )
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
                while block := reading.read(_PIECE):
                    writing.write(block)
                    copied(len(block))
    except FileNotFoundError:
        return


def copy_database(source: Path, target: Path) -> None:
    """Copy a snapshot of an SQLite file that may be in use, and check the copy.

    Raises:
        BackupError: if it is damaged.
        sqlite3.Error: if it cannot be read.
    """
    open_private(target).close()
    with (
        contextlib.closing(sqlite3.connect(source, timeout=60.0)) as reading,
        contextlib.closing(sqlite3.connect(target, isolation_level=None)) as writing,
    ):
        # In one step: a write between steps would restart the copy.
        reading.backup(writing)
        # One file, without a write-ahead log.
        writing.execute("PRAGMA journal_mode=DELETE")
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
