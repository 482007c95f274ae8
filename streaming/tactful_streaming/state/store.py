"""State stores: sorted maps of bytes with atomic batches, in memory or RocksDB."""

from __future__ import annotations

import heapq
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

import rocksdict

from tactful_streaming.errors import StateError

Change = tuple[bytes, bytes | None]  # a key and its new value; None deletes the key
_CACHE_BYTES = 64 << 20
_WRITTEN_BYTES = 16 << 20  # of writes in memory before they become a file
_AFTER_EVERY_KEY = b"\xff" * 8
_NO_KEY = b"\0"
_COPIED_BYTES = 1 << 22
_ATTEMPTS = 10
_PAUSE_S = 0.1


class StateStore(Protocol):
    """A sorted map of bytes with atomic batches."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, if there is one."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, in their order."""

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys with `prefix`, from `start` on, in order, with values."""

    def write(self, changes: Sequence[Change]) -> None:
        """Apply all of `changes` or, after a crash, none."""

    def clear(self) -> None:
        """Remove everything."""

    def close(self) -> None:
        """Release the resources of the store."""


def scan_together(
    stores: Sequence[StateStore], prefix: bytes, start: bytes = b""
) -> Iterator[tuple[bytes, list[tuple[int, bytes]]]]:
    """Yield each key of any store, in order, with its values by number of the store."""

    def numbered(number: int) -> Iterator[tuple[bytes, int, bytes]]:
        for key, value in stores[number].scan(prefix, start):
            yield key, number, value

    merged = heapq.merge(*map(numbered, range(len(stores))))
    for key, values in groupby(merged, key=itemgetter(0)):
        yield key, [(number, value) for _, number, value in values]


class MemoryState:
    """A :class:`StateStore` that lives as long as the object; for tests."""

    def __init__(self) -> None:
        """Begin empty."""
        self._data: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, if there is one."""
        return self._data.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, in their order."""
        return [self._data.get(key) for key in keys]

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys with `prefix`, from `start` on, in order, with values."""
        for key in sorted(self._data):
            if key.startswith(prefix) and key >= start:
                yield key, self._data[key]

    def write(self, changes: Sequence[Change]) -> None:
        """Apply all of `changes`."""
        for key, value in changes:
            if value is None:
                self._data.pop(key, None)
            else:
                self._data[key] = value

    def clear(self) -> None:
        """Remove everything."""
        self._data.clear()

    def close(self) -> None:
        """Nothing to release: the data stays with the object."""


class RocksState:
    """A :class:`StateStore` in RocksDB.

    Every batch goes to the write-ahead log first and outlives a kill of the process. Without `sync`
    the last batches may be lost with the machine; an earlier, consistent state remains, and the
    engine applies the log again from the offset stored in it.

    After a failed write (a full disk) RocksDB accepts no other until it is opened again; the next
    :meth:`write` reopens it first, so that it may be retried once there is space.
    """

    def __init__(self, path: Path, *, sync: bool = False, read_only: bool = False) -> None:
        """Open the database in directory `path`, which is made if need be.

        Args:
            path: directory of the database.
            sync: wait for the disk at every batch.
            read_only: read the present contents, also while another process writes.

        Raises:
            StateError: if it is damaged, another process has it open, or there is nothing to read.
        """
        table = rocksdict.BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(rocksdict.Cache(_CACHE_BYTES))
        # A hash of the keys in each block spares the search in it, a sixth of a look-up.
        table.set_data_block_index_type(rocksdict.DataBlockIndexType.binary_and_hash())
        table.set_data_block_hash_ratio(0.75)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(not read_only)
        options.set_block_based_table_factory(table)
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(0.1)
        # A quarter of the defaults: writes are in memory until they become a file.
        options.set_write_buffer_size(_WRITTEN_BYTES)
        options.set_max_bytes_for_level_base(4 * _WRITTEN_BYTES)
        options.set_compression_type(rocksdict.DBCompressionType.lz4())
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        # A new manifest at every change of files: an old one holds the first and last keys of
        # deleted files (see `purge`).
        options.set_max_manifest_file_size(1)
        self._path = path
        self._options = options
        access = rocksdict.AccessType
        self._access = access.read_only() if read_only else access.read_write()
        self._write_options = rocksdict.WriteOptions()
        self._write_options.sync = sync
        self._closed = self._failed = False
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, if there is one."""
        with self._explained():
            value: bytes | None = self._db.get(key)
            return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of `keys`, in their order."""
        if not keys:
            return []
        with self._explained():
            values: Any = self._db.get(list(keys))
            return list(values)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Yield keys with `prefix`, from `start` on, in order, with values."""
        with self._explained():
            cursor: Any = self._db.iter()
            cursor.seek(max(prefix, start))
            while cursor.valid() and (key := cursor.key()).startswith(prefix):
                yield key, cursor.value()
                cursor.next()
            # At a damaged block the cursor ends without an error; its status has it.
            cursor.status()

    def write(self, changes: Sequence[Change]) -> None:
        """Apply all of `changes` or, after a crash, none.

        Raises:
            StateError: if the write failed; nothing was changed.
        """
        if self._failed:
            with suppress(Exception):  # it repeats the error of the write
                self._db.close()
            self._open()
        batch = rocksdict.WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in changes:
            if value is None:
                delete(key)
            else:
                put(key, value)
        self._failed = True
        with self._explained():
            self._db.write(batch, self._write_options)
        self._failed = False

    def clear(self) -> None:
        """Remove everything."""
        with self._explained():
            self._db.delete_range(b"", _AFTER_EVERY_KEY)

    def purge(self) -> None:
        """Remove deleted keys and values from disk, also from the lists of files.

        Others may read and write meanwhile: files that they have open are removed later. It takes
        the time of writing everything once. Earlier checkpoints keep their data.

        Raises:
            StateError: if the write failed; call it again.
        """
        with self._explained():
            self._db.flush()
            # All levels: a file with deletions alone would only be moved, with the keys.
            everything = rocksdict.CompactOptions()
            everything.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
            self._db.compact_range(None, None, compact_opt=everything)
            # The manifest of the compaction begins with the files before it: one more change of
            # files makes the next manifest, and the old one is removed.
            batch = rocksdict.WriteBatch(raw_mode=True)
            batch.delete(_NO_KEY)
            self._db.write(batch, self._write_options)
            self._db.flush()
            # Another thread removes obsolete files a moment later.
            for _ in range(_ATTEMPTS):
                if not self._has_obsolete_files():
                    break
                time.sleep(_PAUSE_S)

    def checkpoint(self, path: Path) -> None:
        """Write a snapshot into the new directory `path`, also while others write.

        Immutable files are hard-linked, so it is fast and takes little space on the same file
        system. It appears as a whole or not at all.

        Raises:
            StateError: if `path` exists or the write failed.
        """
        if path.exists():
            raise StateError(f"{path}: a checkpoint needs a new directory; this one is there")
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained():
            rocksdict.Checkpoint(self._db).create_checkpoint(str(path))

    def close(self) -> None:
        """Flush and release the database. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            # After a failed write there is nothing to flush: the batch was not acknowledged.
            with suppress(Exception) if self._failed else self._explained():
                self._db.close()

    def _has_obsolete_files(self) -> bool:
        live = {Path(file["name"]).name for file in self._db.live_files()}
        tables = {path.name for path in self._path.glob("*.sst")}
        return bool(tables - live) or len(list(self._path.glob("MANIFEST-*"))) > 1

    def _open(self) -> None:
        try:
            self._db = rocksdict.Rdict(str(self._path), self._options, access_type=self._access)
        except Exception as error:  # rocksdict raises bare Exception for everything
            raise StateError(
                f"{self._path}: the state store cannot be opened: {error}. Close the process that "
                "uses it; if it is damaged, restore a checkpoint, or move it away and rebuild by "
                "replay from the log"
            ) from error
        self._failed = False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Convert the errors of RocksDB, always a bare Exception, to StateError."""
        try:
            yield
        except Exception as error:
            raise StateError(
                f"{self._path}: the state store failed: {error}. If the disk is full, free space "
                "and try again; if not, move the directory away and rebuild the state by "
                "replay from the log"
            ) from error


def copy_state(
    source: Path, target: Path, *, copied: Callable[[int], None] = lambda size: None
) -> None:
    """Copy the state in directory `source` to the new directory `target` by key.

    Another process may write to it meanwhile: the copy is a consistent snapshot. Deleted data that
    is still on disk is not copied. `copied` is called with the size of each copied piece, bytes.
    StateError if `target` exists, or one of the two cannot be used.
    """
    if target.exists():
        raise StateError(f"{target}: a copy needs a new directory; this one is there")
    with closing(open_beside(source)) as store, closing(RocksState(target, sync=True)) as copy:
        piece: list[Change] = []
        size = 0
        for key, value in store.scan(b""):
            piece.append((key, value))
            size += len(key) + len(value)
            if size >= _COPIED_BYTES:
                copy.write(piece)
                copied(size)
                piece, size = [], 0
        copy.write(piece)
        copied(size)


def open_beside(source: Path) -> RocksState:
    """Open a state read-only, also while another process writes to it."""
    # Files may vanish between being listed and being opened.
    for _ in range(_ATTEMPTS - 1):
        try:
            return RocksState(source, read_only=True)
        except StateError:
            time.sleep(_PAUSE_S)
    return RocksState(source, read_only=True)


def restore_checkpoint(checkpoint: Path, path: Path) -> None:
    """Copy a checkpoint to a new state directory `path`.

    The engine then continues from the log offset of the checkpoint, which
    :meth:`RocksState.checkpoint` wrote.

    Raises:
        StateError: if `checkpoint` is none, `path` exists or the write failed.
    """
    if not (checkpoint / "CURRENT").is_file():
        raise StateError(f"{checkpoint}: not a checkpoint of a state: it has no file CURRENT")
    if path.exists():
        raise StateError(f"{path}: a state exists already: move it away first")
    unfinished = path.with_name(f"{path.name}.restoring")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(checkpoint, unfinished, copy_function=_link_or_copy)
        unfinished.rename(path)
    except (OSError, shutil.Error) as error:
        raise StateError(f"{path}: the checkpoint cannot be restored: {error}") from error


def _link_or_copy(source: str, target: str) -> str:
    """Link table files, which RocksDB never changes; copy all others."""
    if source.endswith(".sst"):
        with suppress(OSError):  # another file system
            os.link(source, target)
            return target
    return str(shutil.copy2(source, target))
