"""Where the engine keeps its state: a sorted map of bytes with atomic batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rocksdict import (
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteOptions,
)

from tactful_streaming.errors import StateError

Change = tuple[bytes, bytes | None]
"""A key and its new value; None deletes the key."""


class StateStore(Protocol):
    """A sorted map of bytes whose batches are all or nothing."""

    def get(self, key: bytes) -> bytes | None:
        """Value of `key`, if there is one."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of `keys`, in their order."""

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix` and are not before `start`, in order, with values."""

    def write(self, changes: Sequence[Change]) -> None:
        """Apply all of `changes` or, after a crash, none."""

    def clear(self) -> None:
        """Remove everything."""

    def close(self) -> None:
        """Release what is held."""


class MemoryState:
    """A :class:`StateStore` that lives as long as the object; for tests."""

    def __init__(self) -> None:
        """Begin empty."""
        self._data: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        """Value of `key`, if there is one."""
        return self._data.get(key)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of `keys`, in their order."""
        return [self._data.get(key) for key in keys]

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix` and are not before `start`, in order, with values."""
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
    the last batches may be lost with the machine; what remains is an earlier state as a whole, and
    the engine applies the log again from the offset stored in it.
    """

    def __init__(self, path: Path, *, sync: bool = False, cache_bytes: int = 64 << 20) -> None:
        """Open the database in directory `path`, which is made if need be.

        Args:
            path: directory of the database.
            sync: wait for the disk at every batch.
            cache_bytes: memory for blocks read from disk.

        Raises:
            StateError: if it is damaged or another process has it open.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        table = BlockBasedOptions()
        table.set_bloom_filter(10, False)
        table.set_block_cache(Cache(cache_bytes))
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(0.1)
        options.set_compression_type(DBCompressionType.lz4())
        options.set_max_background_jobs(2)
        options.set_keep_log_file_num(2)
        self._path = path
        try:
            self._db = Rdict(str(path), options)
        except Exception as error:  # rocksdict raises bare Exception for everything
            raise StateError(
                f"{path}: the state store cannot be opened: {error}. Close the process that uses "
                "it; if it is damaged, move it away and rebuild by replay from the log"
            ) from error
        self._closed = False
        self._write_options = WriteOptions()
        self._write_options.sync = sync

    def get(self, key: bytes) -> bytes | None:
        """Value of `key`, if there is one.

        Raises:
            StateError: if what is stored is damaged.
        """
        with self._explained():
            value: bytes | None = self._db.get(key)
            return value

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values of `keys`, in their order.

        Raises:
            StateError: if what is stored is damaged.
        """
        if not keys:
            return []
        with self._explained():
            values: Any = self._db.get(list(keys))
            return list(values)

    def scan(self, prefix: bytes, start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix` and are not before `start`, in order, with values.

        Raises:
            StateError: if what is stored is damaged.
        """
        with self._explained():
            cursor: Any = self._db.iter()
            cursor.seek(max(prefix, start))
            while cursor.valid() and (key := cursor.key()).startswith(prefix):
                yield key, cursor.value()
                cursor.next()
            # At a damaged block the cursor just ends; only its status tells.
            cursor.status()

    def write(self, changes: Sequence[Change]) -> None:
        """Apply all of `changes` or, after a crash, none.

        Raises:
            StateError: if the disk refused; nothing was changed.
        """
        batch = WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in changes:
            if value is None:
                delete(key)
            else:
                put(key, value)
        with self._explained():
            self._db.write(batch, self._write_options)

    def clear(self) -> None:
        """Remove everything."""
        self.write([(key, None) for key, _ in self.scan(b"")])

    def close(self) -> None:
        """Flush and release the database. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what RocksDB raises, always a bare Exception, into ours."""
        try:
            yield
        except Exception as error:
            raise StateError(
                f"{self._path}: the state store failed: {error}. If the disk is well, move the "
                "directory away and rebuild the state by replay from the log"
            ) from error
