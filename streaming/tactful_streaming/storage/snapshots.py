"""Snapshots of directories in an object store.

The content of files is divided into parts of at most 16 MiB, each an object named after its
SHA-256. The index, which is written last, makes a snapshot complete::

    FOLDER/parts/9f86d081…           content of one part
    FOLDER/snapshots/NAME.json       files of snapshot NAME, and the parts of each

A snapshot is therefore there as a whole or not at all. A part that is there already is not sent
again, so an interrupted transfer goes on where it ended, and snapshots of one folder share parts:
files of a state that have not changed are sent once. Every part is compared with its name when it
is read.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import sync
from tactful_streaming.errors import ObjectMissingError, SnapshotError
from tactful_streaming.storage.objects import ObjectStore

PART_BYTES = 16 * 1024 * 1024
"""Largest part, which is sent in one request."""

_AT_ONCE = 4  # parts that are sent or fetched at the same time, and held in memory
_PARTS, _INDEXES, _SUFFIX = "parts", "snapshots", ".json"
_FORMAT = 1

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Moved = Callable[[int], None]  # called with the size of every piece that was sent or fetched

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a snapshot."""

    path: str  # below the directory, with slashes
    size: Annotated[int, Meta(ge=0)]  # bytes
    parts: list[Digest]  # in the order of the content


class Snapshot(msgspec.Struct, kw_only=True, frozen=True):
    """Index of a snapshot."""

    format: int = _FORMAT
    files: list[StoredFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class _Sealed(msgspec.Struct, frozen=True):
    sha256: str  # of the encoded snapshot
    snapshot: msgspec.Raw


class Snapshots:
    """Snapshots in one folder of an object store.

    One writer at a time may use a folder. A second one damages no snapshot: its own may be
    incomplete, which `index` and `blocks` report.
    """

    def __init__(self, store: ObjectStore, folder: str = "") -> None:
        """Use a folder of a store; the whole store without one."""
        self._store = store
        self._folder = folder.strip("/")

    @property
    def place(self) -> str:
        """URL of the folder, for messages."""
        return f"{self._store.place}/{self._folder}".rstrip("/")

    def names(self) -> list[str]:
        """Return the names of the complete snapshots, sorted."""
        prefix = self._name(_INDEXES, "")
        found = (entry.name.removeprefix(prefix) for entry in self._store.list(prefix[:-1]))
        return sorted(
            name.removesuffix(_SUFFIX)
            for name in found
            if name.endswith(_SUFFIX) and not name.startswith(".")
        )

    def write(
        self, name: str, directory: Path, *, new: bool = False, sent: Moved = lambda size: None
    ) -> Snapshot:
        """Send the files of a directory, which nobody changes meanwhile.

        An exception of `sent` ends the transfer.

        Args:
            name: of the snapshot; an existing one is replaced at the end.
            directory: its files are sent, links and empty directories are not.
            new: refuse a name that is in use.
            sent: called with the size of every part.

        Raises:
            ObjectExistsError: if there is a snapshot of this name and it must be `new`.
            ObjectStoreError: if the store cannot be used, or a file cannot be read.
            SnapshotError: if another writer removed parts meanwhile.
        """
        stored = self._parts()
        files: list[StoredFile] = []

        def send(part: tuple[str, bytes]) -> int:
            digest, content = part
            if stored.get(digest) != len(content):
                self._store.put(self._name(_PARTS, digest), content)
            return len(content)

        for size in _in_turn(send, _pieces(directory, files)):
            sent(size)
        snapshot = Snapshot(files=files)
        present = self._parts()
        if any(digest not in present for file in files for digest in file.parts):
            raise SnapshotError(f"{self.place}: another process removed parts of {name}: try again")
        encoded = msgspec.json.encode(snapshot)
        sealed = _Sealed(hashlib.sha256(encoded).hexdigest(), msgspec.Raw(encoded))
        self._store.put(self._index(name), msgspec.json.encode(sealed), new=new)
        return snapshot

    def index(self, name: str) -> Snapshot:
        """Read the index of a snapshot.

        Raises:
            SnapshotError: if there is no complete one of this name, or its index is damaged.
        """
        place = f"{self._store.place}/{self._index(name)}"
        try:
            sealed = msgspec.json.decode(self._store.get(self._index(name)), type=_Sealed)
            if hashlib.sha256(sealed.snapshot).hexdigest() != sealed.sha256:
                raise SnapshotError(f"{place}: damaged: its checksum differs")
            snapshot = msgspec.json.decode(sealed.snapshot, type=Snapshot)
        except ObjectMissingError:
            raise SnapshotError(
                f"{self.place}: there is no complete snapshot {name!r}: its index, which is "
                "written last, is missing"
            ) from None
        except DECODE_ERRORS as error:
            raise SnapshotError(f"{place}: damaged: {error}") from error
        if snapshot.format != _FORMAT:
            raise SnapshotError(f"{place}: has format {snapshot.format}, {_FORMAT} is read")
        for file in snapshot.files:
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts or "\0" in file.path or not path.parts:
                raise SnapshotError(f"{place}: {file.path!r} is no path below a directory")
        return snapshot

    def blocks(self, file: StoredFile) -> Iterator[bytes]:
        """Yield the content of a file, part by part.

        Raises:
            SnapshotError: if a part is missing or damaged.
        """
        return _in_turn(self._part, file.parts)

    def read(self, name: str, directory: Path, *, fetched: Moved = lambda size: None) -> Snapshot:
        """Fetch all files of a snapshot into a new directory, forced to disk.

        Raises:
            SnapshotError: if it is not complete; the directory holds a part of it then.
            ObjectStoreError: if the store cannot be used.
            OSError: if the directory exists or cannot be written.
        """
        snapshot = self.index(name)
        directory.mkdir(mode=0o700, parents=True)
        for file in snapshot.files:
            target = directory / file.path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(
                os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as to:
                for block in self.blocks(file):
                    to.write(block)
                    fetched(len(block))
                to.flush()
                os.fsync(to.fileno())
        for path in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
            sync(path)
        return snapshot

    def delete(self, names: Iterable[str]) -> None:
        """Delete snapshots; `sweep` deletes the parts that only they had."""
        self._store.delete([self._index(name) for name in names])

    def sweep(self, *, before: float = float("inf")) -> int:
        """Delete what belongs to no snapshot, such as parts of an interrupted transfer.

        Args:
            before: delete only what was written earlier, epoch seconds, because another writer may
                be about to use what is later.

        Returns:
            Number of deleted objects.
        """
        kept = {self._index(name) for name in self.names()}
        for name in self.names():
            files = self.index(name).files
            kept |= {self._name(_PARTS, digest) for file in files for digest in file.parts}
        found = [*self._store.list(self._name(_PARTS)), *self._store.list(self._name(_INDEXES))]
        lost = [
            entry.name for entry in found if entry.name not in kept and entry.written_at < before
        ]
        self._store.delete(lost)
        return len(lost)

    def _part(self, digest: str) -> bytes:
        name = self._name(_PARTS, digest)
        try:
            content = self._store.get(name)
        except ObjectMissingError as error:
            raise SnapshotError(f"{self.place}: not complete: part {name} is missing") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise SnapshotError(f"{self.place}: damaged: part {name} has another checksum")
        return content

    def _parts(self) -> dict[str, int]:
        """Return the sizes of the parts that are there."""
        found = self._store.list(self._name(_PARTS))
        return {PurePosixPath(entry.name).name: entry.size for entry in found}

    def _index(self, name: str) -> str:
        return self._name(_INDEXES, f"{name}{_SUFFIX}")

    def _name(self, *names: str) -> str:
        return "/".join([self._folder, *names] if self._folder else names)


def _pieces(directory: Path, files: list[StoredFile]) -> Iterator[tuple[str, bytes]]:
    """Yield the parts of all files with their digests, and append the files to a list."""
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        parts: list[str] = []
        size = 0
        with path.open("rb") as file:
            while content := file.read(PART_BYTES):
                parts.append(hashlib.sha256(content).hexdigest())
                size += len(content)
                yield parts[-1], content
        files.append(StoredFile(path.relative_to(directory).as_posix(), size, parts))


def _in_turn(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
    """Yield the results in the order of the items, of which a few are worked on at once."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="objects") as pool:
        waiting: deque[Future[_Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == _AT_ONCE:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
