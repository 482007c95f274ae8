"""A vector index that can be searched while items are added, changed and deleted.

Changes since the last build form a small delta that is compared exactly; the rows it replaces in
the build are skipped. Merging makes a new build beside the old one and moves to it in one step,
while searches go on. Every change is in a journal before it can be found, and a journal is deleted
only when a build has its changes, so a process may be killed at any time.

On disk, in a directory of its own::

    current.json          the number of the build that serves; 0 is the trained one
    builds/000004/        a build: ``index/`` and ``ids/``, both sealed
    journal-000004.log    the changes since build 4 was begun

One process writes. Others open the directory as readers, map the same build and read the journal.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import struct
import threading
import zlib
from io import FileIO
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import ItemIds
from tactful.errors import ModelError, StorageError
from tactful.util.checked_arrays import is_finite, require
from tactful.util.checksummed_directory import check_seal, remove_scratch, sealing
from tactful.vectors.build_index import merge_changes
from tactful.vectors.ivf_index import EXACT_BELOW, Changes, Snapshot, Tuning, VectorIndex
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

_LOG = logging.getLogger(__name__)

MERGE_ABOVE = 5_000
"""Number of changes from which on a new build saves time."""

_HEADER = struct.Struct("<II")
_ATTEMPTS = 5


class _Current(msgspec.Struct, frozen=True):
    build: int


class LiveIndex:
    """The index of one model on disk, with one writer and any number of readers.

    `update`, `merge` and `follow` run one at a time, by a lock; `snapshot` is for all threads.
    """

    def __init__(
        self,
        directory: Path,  # for this index alone; made by the writer
        ids: ItemIds,  # ids of the rows of `index`
        index: VectorIndex,  # the trained index, build 0
        *,
        writes: bool,  # whether this process writes. Only one may.
        target: float = 0.95,  # recall that builds are tuned to
        exact_below: int = EXACT_BELOW,  # up to so many vectors builds are exact
    ) -> None:
        """Open, and apply the journals.

        Raises:
            ModelError: if the build that serves or a journal is damaged.
            StorageError: if it is opened to write, and another process writes it.
        """
        self._directory = directory
        self._trained = Snapshot.of(ids, index)
        self.writes = writes
        self._target = target
        self._exact_below = exact_below
        self._lock = threading.Lock()
        self._merging = threading.Lock()
        self.build = -1
        self._read: dict[int, int] = {}
        self._journal: FileIO | None = None
        if writes:
            (directory / "builds").mkdir(parents=True, exist_ok=True)
            self._writer = _lock(directory / "writer.lock")
            remove_scratch(directory / "builds")
        self.snapshot = self._trained
        self.follow()
        if writes:
            self._journal = self._append_to(max([self.build, *self._journals()]))

    @property
    def tuning(self) -> Tuning:
        """Tuning and measured recall of the build that serves."""
        return self.snapshot.index.tuning

    @property
    def merge_due(self) -> bool:
        """Whether a new build saves time."""
        return self.snapshot.changes > MERGE_ABOVE

    def update(self, changes: Changes) -> None:
        """Write changes to the journal, then make them searchable.

        Raises:
            ModelError: if a vector has the wrong length; then nothing changes.
            OSError: if the journal cannot be written; then no change can be found.
        """
        if not changes:
            return
        with self._lock:
            if self._journal is None:
                raise ModelError(f"{self._directory}: opened to read; its writer changes it")
            after = self.snapshot.changed(changes)
            records = b"".join(_record(item_id, vector) for item_id, vector in changes.items())
            _write_all(self._journal, records)
            self.snapshot = after

    def merge(self, *, threads: int = 1) -> Tuning:
        """Build an index of all changes so far and move to it, while searches go on."""
        with self._merging:
            with self._lock:
                if self._journal is None:
                    raise ModelError(f"{self._directory}: opened to read; its writer merges")
                number = max([self.build, *self._journals()]) + 1
                self._journal.close()
                self._journal = self._append_to(number)
                before = self.snapshot
            ids, index = merge_changes(
                before, target=self._target, exact_below=self._exact_below, threads=threads
            )
            place = self._place(number)
            index.save(place / "index")
            with sealing(place / "ids") as scratch:
                ids.save(scratch)
            replace_file(self._directory / "current.json", msgspec.json.encode(_Current(number)))
            tuning = self.follow()
            self._delete_old()
        _LOG.info("vector index: build %d serves, recall %.3f", number, tuning.recall)
        return tuning

    def follow(self) -> Tuning:
        """Move to the newest build and apply the new records of the journals.

        Raises:
            ModelError: if the newest build is damaged; the present one stays.
        """
        with self._lock:
            for attempt in range(_ATTEMPTS):
                build = self._newest_build()
                try:
                    snapshot, read = self._caught_up(build)
                except ModelError:
                    if build == self._newest_build() or attempt == _ATTEMPTS - 1:
                        raise
                    continue
                # The writer may have moved on, and deleted files that were about to be read.
                if build == self._newest_build():
                    break
            self.snapshot, self.build, self._read = snapshot, build, read
            return snapshot.index.tuning

    def close(self) -> None:
        """Close the journal; the snapshot may still be searched."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._writer.close()
                self._journal = None

    def __enter__(self) -> Self:
        """Return itself; leaving the context closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _caught_up(self, build: int) -> tuple[Snapshot, dict[int, int]]:
        """Return a build with all journals applied, and the position in each journal."""
        known = build == self.build
        snapshot, read = (self.snapshot, dict(self._read)) if known else (self._open(build), {})
        if known and self._journal is not None:
            return snapshot, read  # the writer applied its records when it wrote them
        for number in self._journals():
            if number >= build:
                changes, read[number] = _replay(self._path(number), read.get(number, 0))
                if changes:
                    snapshot = snapshot.changed(changes)
        return snapshot, read

    def _open(self, build: int) -> Snapshot:
        if build == 0:
            return self._trained
        place = self._place(build)
        check_seal(place / "ids")
        ids, index = ItemIds.load(place / "ids"), VectorIndex.load(place / "index")
        trained = self._trained
        require(
            index.vectors.shape == (len(ids), trained.vectors.shape[1])
            and ids.begin_with(trained.ids),
            place,
            "the model has other items",
        )
        snapshot = Snapshot.of(ids, index)
        snapshot.queries.extend(self.snapshot.queries)
        return snapshot

    def _newest_build(self) -> int:
        path = self._directory / "current.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Current).build
        except FileNotFoundError:
            return 0
        except DECODE_ERRORS as error:
            raise ModelError(f"{path}: does not name a build: {error}") from error

    def _journals(self) -> list[int]:
        return sorted(
            int(path.stem.removeprefix("journal-"))
            for path in self._directory.glob("journal-*.log")
        )

    def _delete_old(self) -> None:
        """Delete the builds and journals before the build that serves."""
        for number in self._journals():
            if number < self.build:
                self._path(number).unlink(missing_ok=True)
        for place in (self._directory / "builds").iterdir():
            if place.name.isdecimal() and int(place.name) != self.build:
                shutil.rmtree(place, ignore_errors=True)

    def _append_to(self, number: int) -> FileIO:
        """Open a journal to append, and cut off a partial record of a crash."""
        path = self._path(number)
        journal = FileIO(path, "ab")
        _, end = _replay(path, 0)
        journal.truncate(end)
        return journal

    def _path(self, number: int) -> Path:
        return self._directory / f"journal-{number:06d}.log"

    def _place(self, number: int) -> Path:
        return self._directory / "builds" / f"{number:06d}"


def _record(item_id: str, vector: NDArray[np.float32] | None) -> bytes:
    held = None if vector is None else np.ascontiguousarray(vector, "<f4").tobytes()
    payload = msgspec.msgpack.encode((item_id, held))
    return _HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def _replay(path: Path, start: int) -> tuple[dict[str, NDArray[np.float32] | None], int]:
    """Read the whole records from `start` on; the latest change of each item wins.

    The second value is the end of the last whole record.

    Raises:
        ModelError: if a whole record is damaged.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except FileNotFoundError:
        return {}, start
    changes: dict[str, NDArray[np.float32] | None] = {}
    position = 0
    while position + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, position)
        payload = data[position + _HEADER.size : position + _HEADER.size + length]
        if len(payload) < length:
            break  # cut off by a crash, or still being written
        if zlib.crc32(payload) != checksum:
            raise ModelError(
                f"{path}: damaged at byte {start + position}. Stop the server and delete the "
                f"directory {path.parent}: it is made anew from the model and the items"
            )
        try:
            item_id, held = msgspec.msgpack.decode(payload, type=tuple[str, bytes | None])
            vector = np.frombuffer(held or b"", "<f4").astype(np.float32)
        except (ValueError, *DECODE_ERRORS) as error:
            raise ModelError(f"{path}: damaged at byte {start + position}: {error}") from error
        require(is_finite(vector), path, "a number is not finite")
        changes[item_id] = None if held is None else vector
        position += _HEADER.size + length
    return changes, start + position


def _lock(path: Path) -> FileIO:
    file = FileIO(path, "ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StorageError(
            f"{path.parent}: another process writes this index; open it to read"
        ) from None
    return file


def _write_all(journal: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[journal.write(view) :]
