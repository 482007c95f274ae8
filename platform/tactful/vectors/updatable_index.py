"""A vector index that takes in new, changed and deleted items while it is searched.

What changed since the last build lies in a small delta that is compared one by one; what it
replaces in the build is passed over. Merging makes a new build beside the old one and moves to it
in one step, while searches go on. Every change is in a journal before it can be found, and a
journal is given up only when a build holds what it says, so a process may be killed at any time.

On disk, in a directory of its own::

    current.json          the number of the build that serves; 0 is the one training made
    builds/000004/        a build: ``index/`` and ``ids/``, both sealed
    journal-000004.log    the changes since build 4 was begun

One process writes. Others open the directory as readers, map the same build and follow the journal.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import struct
import threading
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import ItemIds
from tactful.errors import ModelError, StorageError
from tactful.util.checksummed_directory import check_seal, remove_scratch, sealing
from tactful.vectors.ivf_index import EXACT_BELOW, Nearest, Queries, Tuning, VectorIndex, best
from tactful.vectors.storage import StoredVectors
from tactful_privacy.durable_files import replace_file

_LOG = logging.getLogger(__name__)

MERGE_ABOVE = 5_000
"""So many changes are worth a new build."""

_HEADER = struct.Struct("<II")
_ASKED = 512
_ENOUGH = 128
_ATTEMPTS = 5

Changes = Mapping[str, NDArray[np.float32] | None]
"""New vector by item id; None for an item that is to be found no more."""


@dataclass(frozen=True)
class Snapshot:
    """The index at one moment; it never changes.

    Rows of the build come first, then new items in order of arrival.

    Attributes:
        ids: ids of the rows of the build.
        index: the build.
        new_ids: ids of the rows after those of the build.
        new_rows: row by id of the same.
        rows: rows whose vectors the delta holds, ascending, shape (m,).
        vectors: their vectors, shape (m, dimensions).
        kept: rows of the build that are as they were built; None for all of them.
    """

    ids: ItemIds
    index: VectorIndex
    new_ids: tuple[str, ...]
    new_rows: Mapping[str, int]
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    kept: NDArray[np.bool_] | None
    _asked: deque[NDArray[np.float32]] = field(default_factory=lambda: deque(maxlen=_ASKED))
    _passing: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = field(default_factory=list)

    @classmethod
    def of(cls, ids: ItemIds, index: VectorIndex) -> Snapshot:
        """A build with no changes since."""
        nothing = np.zeros((0, index.vectors.shape[1]), np.float32)
        return cls(ids, index, (), {}, np.zeros(0, np.int64), nothing, None)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids) + len(self.new_ids)

    @property
    def changes(self) -> int:
        """Rows that are not as the build has them."""
        replaced = 0 if self.kept is None else int(np.count_nonzero(~self.kept))
        return replaced + len(self.new_ids)

    def rows_of(self, item_ids: Sequence[str]) -> list[int | None]:
        """Rows of items; None for each that the index never heard of."""
        # Not one by one: a thread that gives the interpreter's lock back as often as a search does
        # and takes it again at once is never told to leave it to another.
        built = self.ids.rows_of(item_ids)
        return [
            self.new_rows.get(item_id) if row is None else row
            for item_id, row in zip(item_ids, built, strict=True)
        ]

    def nearest(
        self, query: NDArray[np.float32], count: int, allowed: NDArray[np.bool_] | None = None
    ) -> Nearest:
        """Find the rows with the largest inner products, in the build and in the delta.

        Args:
            query: shape (dimensions,).
            count: how many to find at most.
            allowed: which rows may be found, shape (at least ``len(self)``,); None for all. Make
                it read-only to have its preparation kept for the next search.

        Returns:
            At most `count` rows, best first; all of them allowed.
        """
        self._asked.append(query)
        near = self.index.nearest(query, count, self._in_build(allowed))
        return self._with_delta(near, query, count, allowed)

    def _with_delta(
        self,
        near: Nearest,
        query: NDArray[np.float32],
        count: int,
        allowed: NDArray[np.bool_] | None,
    ) -> Nearest:
        """The nearest of those of the build and of the delta."""
        if not len(self.rows):
            return near
        rows, scores = near
        fresh, products = self.rows, self.vectors @ query
        if len(rows) >= count > 0:  # most of the delta is further away than the last of the build
            close = np.flatnonzero(products >= scores[-1])
            fresh, products = fresh[close], products[close]
        if allowed is not None:
            passing = allowed[fresh]
            fresh, products = fresh[passing], products[passing]
        if not len(fresh):
            return near
        merged = np.concatenate([rows, fresh])
        order = np.argsort(merged, kind="stable")
        return best(merged[order], np.concatenate([scores, products])[order], count)

    @cached_property
    def stored(self) -> StoredVectors:
        """The vectors by row."""
        return StoredVectors(
            self.index.vectors, kept=self.kept, rows=self.rows, vectors=self.vectors
        )

    def changed(self, changes: Changes) -> Snapshot:
        """The index after some more changes.

        Raises:
            ModelError: if a vector has another length than those of the build.
        """
        dimensions = self.vectors.shape[1]
        delta: dict[int, NDArray[np.float32]] = {}
        new_ids, new_rows = list(self.new_ids), dict(self.new_rows)
        kept = np.ones(len(self.ids), np.bool_) if self.kept is None else self.kept.copy()
        replaced: list[int] = []
        for row, (item_id, vector) in zip(self.rows_of([*changes]), changes.items(), strict=True):
            if vector is not None and vector.shape != (dimensions,):
                raise ModelError(
                    f"the vector of an item has shape {vector.shape}, the index holds vectors "
                    f"of {dimensions}; both must come from the same training"
                )
            if row is None and vector is None:
                continue
            if row is None:
                row = len(self.ids) + len(new_ids)
                new_ids.append(item_id)
                new_rows[item_id] = row
            elif row < len(kept):
                kept[row] = False
            replaced.append(row)
            if vector is not None and vector.any():
                delta[row] = vector
        stays = np.isin(self.rows, replaced, invert=True)
        rows = np.concatenate([self.rows[stays], np.fromiter(delta, np.int64, len(delta))])
        more = np.array([*delta.values()], np.float32).reshape(-1, dimensions)
        order = np.argsort(rows, kind="stable")
        rows, vectors = rows[order], np.concatenate([self.vectors[stays], more])[order]
        kept.flags.writeable = False
        return Snapshot(
            ids=self.ids,
            index=self.index,
            new_ids=tuple(new_ids),
            new_rows=new_rows,
            rows=rows,
            vectors=vectors,
            kept=None if kept.all() else kept,
            _asked=self._asked,
        )

    def merged(
        self, *, target: float, exact_below: int, threads: int = 1
    ) -> tuple[ItemIds, VectorIndex]:
        """A build of what this snapshot holds; rows stay where they are.

        Tuned on what was asked lately, or on mixtures of items while little was.
        """
        vectors = np.zeros((len(self), self.vectors.shape[1]), np.float32)
        vectors[: len(self.ids)] = self.index.vectors
        if self.kept is not None:
            vectors[: len(self.ids)][~self.kept] = 0.0
        vectors[self.rows] = self.vectors
        asked = list(self._asked)
        queries = Queries(np.stack(asked), "requests") if len(asked) >= _ENOUGH else None
        index = VectorIndex.build(
            vectors,
            queries=queries,
            target=target,
            exact_below=exact_below,
            before=self.index,
            threads=threads,
        )
        return ItemIds.of([*self.ids, *self.new_ids]), index

    def _in_build(self, allowed: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """The filter for the build: without the rows that the delta replaces."""
        if self.kept is None or allowed is None:
            return self.kept if allowed is None else allowed
        for asked, passing in self._passing:
            if asked is allowed:
                return passing
        passing = allowed[: len(self.kept)] & self.kept
        if not allowed.flags.writeable:
            passing.flags.writeable = False
            self._passing[:] = [(allowed, passing)]
        return passing


class _Current(msgspec.Struct, frozen=True):
    build: int


class LiveIndex:
    """The index of one model on disk, followed by any number of processes.

    `update`, `merge` and `follow` are for one thread at a time (a lock sees to it); `snapshot` is
    for all.
    """

    def __init__(
        self,
        directory: Path,
        ids: ItemIds,
        index: VectorIndex,
        *,
        writes: bool,
        target: float = 0.95,
        exact_below: int = EXACT_BELOW,
    ) -> None:
        """Open, and take in what the journals say.

        Args:
            directory: of this index alone; made by the writer.
            ids: ids of the rows of `index`.
            index: what training made: build 0.
            writes: whether this process writes. Only one may.
            target: recall that builds are tuned to.
            exact_below: up to so many vectors builds are exact.

        Raises:
            ModelError: if the build that serves or a journal is damaged.
            StorageError: if it is opened to write, and another process has it open to write.
        """
        self._directory = directory
        self._made = Snapshot.of(ids, index)
        self._writes = writes
        self._target = target
        self._exact_below = exact_below
        self._lock = threading.Lock()
        self._merging = threading.Lock()
        self._build = -1
        self._read: dict[int, int] = {}
        self._journal: FileIO | None = None
        if writes:
            (directory / "builds").mkdir(parents=True, exist_ok=True)
            self._writer = _lock(directory / "writer.lock")
            remove_scratch(directory / "builds")
        self._snapshot = self._made
        self.follow()
        if writes:
            self._journal = self._append_to(max([self._build, *self._journals()]))

    @property
    def snapshot(self) -> Snapshot:
        """The index as it is now."""
        return self._snapshot

    @property
    def writes(self) -> bool:
        """Whether this process writes."""
        return self._writes

    @property
    def build(self) -> int:
        """Number of the build that serves."""
        return self._build

    @property
    def tuning(self) -> Tuning:
        """How the build that serves was tuned and what it reached."""
        return self._snapshot.index.tuning

    @property
    def merge_due(self) -> bool:
        """Whether there are so many changes that a new build pays."""
        return self._snapshot.changes > MERGE_ABOVE

    def update(self, changes: Changes) -> None:
        """Take in changes: written down, then found.

        Raises:
            ModelError: if a vector has the wrong length; then nothing is taken in.
            OSError: if the journal cannot be written; then nothing is found.
        """
        if not changes:
            return
        with self._lock:
            if self._journal is None:
                raise ModelError(f"{self._directory}: opened to read; its writer changes it")
            after = self._snapshot.changed(changes)
            records = b"".join(_record(item_id, vector) for item_id, vector in changes.items())
            _write_all(self._journal, records)
            self._snapshot = after

    def merge(self, *, threads: int = 1) -> Tuning:
        """Make a build of everything so far and move to it; searches and updates go on meanwhile.

        Returns:
            What the new build reached.
        """
        with self._merging:
            with self._lock:
                if self._journal is None:
                    raise ModelError(f"{self._directory}: opened to read; its writer merges")
                number = max([self._build, *self._journals()]) + 1
                self._journal.close()
                self._journal = self._append_to(number)
                before = self._snapshot
            ids, index = before.merged(
                target=self._target, exact_below=self._exact_below, threads=threads
            )
            place = self._place(number)
            index.save(place / "index")
            with sealing(place / "ids") as scratch:
                ids.save(scratch)
            replace_file(self._directory / "current.json", msgspec.json.encode(_Current(number)))
            tuning = self.follow()
            self._forget()
        _LOG.info("vector index: build %d serves, recall %.3f", number, tuning.recall)
        return tuning

    def follow(self) -> Tuning:
        """Move to the newest build and take in what the journals say beyond what is known.

        Raises:
            ModelError: if the newest build is damaged; what served before goes on.
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
                # The writer may have moved on, and deleted what was about to be read.
                if build == self._newest_build():
                    break
            self._snapshot, self._build, self._read = snapshot, build, read
            return snapshot.index.tuning

    def close(self) -> None:
        """Close the journal; the snapshot may still be searched."""
        with self._lock:
            if self._journal is not None:
                self._journal.close()
                self._writer.close()
                self._journal = None

    def __enter__(self) -> Self:
        """Use as a context that closes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _caught_up(self, build: int) -> tuple[Snapshot, dict[int, int]]:
        """A build with all that the journals say, and how far each of them was read."""
        known = build == self._build
        snapshot, read = (self._snapshot, dict(self._read)) if known else (self._open(build), {})
        if known and self._journal is not None:
            return snapshot, read  # what is written here was taken in when it was written
        for number in self._journals():
            if number >= build:
                changes, read[number] = _replay(self._path(number), read.get(number, 0))
                if changes:
                    snapshot = snapshot.changed(changes)
        return snapshot, read

    def _open(self, build: int) -> Snapshot:
        if build == 0:
            return self._made
        place = self._place(build)
        check_seal(place / "ids")
        snapshot = Snapshot.of(ItemIds.load(place / "ids"), VectorIndex.load(place / "index"))
        snapshot._asked.extend(self._snapshot._asked)
        return snapshot

    def _newest_build(self) -> int:
        path = self._directory / "current.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Current).build
        except FileNotFoundError:
            return 0
        except msgspec.DecodeError as error:
            raise ModelError(f"{path}: does not name a build: {error}") from error

    def _journals(self) -> list[int]:
        return sorted(
            int(path.stem.removeprefix("journal-"))
            for path in self._directory.glob("journal-*.log")
        )

    def _forget(self) -> None:
        """Delete builds and journals that the build which serves has made needless."""
        for number in self._journals():
            if number < self._build:
                self._path(number).unlink(missing_ok=True)
        for place in (self._directory / "builds").iterdir():
            if place.name.isdecimal() and int(place.name) != self._build:
                shutil.rmtree(place, ignore_errors=True)

    def _append_to(self, number: int) -> FileIO:
        """Open a journal to write, without a record that a crash cut off."""
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

    Returns:
        The changes, and where the last whole record ends.

    Raises:
        ModelError: if a record is whole but not what was written.
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
        item_id, held = msgspec.msgpack.decode(payload, type=tuple[str, bytes | None])
        changes[item_id] = None if held is None else np.frombuffer(held, "<f4").astype(np.float32)
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
