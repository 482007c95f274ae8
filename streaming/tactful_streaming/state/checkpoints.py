"""Checkpoints of a partition's state, which other hosts begin with.

A checkpoint is named after its offset: the next record of the log to apply. In a folder that all
hosts mount it is a directory of hard links. In a place of objects it is a snapshot: files that have
not changed since the checkpoint before are not sent again.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from tactful_streaming.errors import ObjectStoreError, SnapshotError, StateError
from tactful_streaming.state.store import RocksState, restore_checkpoint
from tactful_streaming.storage.objects import ObjectStore, open_objects
from tactful_streaming.storage.snapshots import Snapshots

_logger = logging.getLogger(__name__)

_KEPT = 2
_CLOSE_S = 5.0  # longest time to wait for parts that are being sent
_WRITER_S = 3600.0  # longest time that a former owner may still send a checkpoint


class Checkpoints(Protocol):
    """Checkpoints of one partition, newest last; each method may raise StateError."""

    def offsets(self) -> list[int]:
        """Return the offsets of the complete checkpoints, ascending."""
        ...

    def write(self, store: RocksState, offset: int) -> None:
        """Begin to write the committed state of `offset`; two checkpoints are kept."""
        ...

    def replace(self, store: RocksState, offset: int | None) -> None:
        """Replace all checkpoints by one of the committed state; None: it is empty, so by none."""
        ...

    def restore(self, offset: int, state: Path) -> None:
        """Make the state directory `state` from a checkpoint; StateError if it is damaged."""
        ...

    def close(self) -> None:
        """End the writing of a checkpoint that is not complete."""
        ...


OpenCheckpoints = Callable[[str], Checkpoints]
"""Opens the checkpoints of a partition by the name of its folder."""


class FolderCheckpoints:
    """Checkpoints in a folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which the first checkpoint creates."""
        self._folder = folder

    def offsets(self) -> list[int]:
        """Return the offsets of the directories."""
        with suppress(FileNotFoundError):
            return sorted(int(path.name) for path in self._folder.iterdir() if path.name.isdigit())
        return []

    def write(self, store: RocksState, offset: int) -> None:
        """Link the files of the state."""
        target = self._path(offset)
        if not target.exists():
            store.checkpoint(target)
        for old in self.offsets()[:-_KEPT]:
            shutil.rmtree(self._path(old), ignore_errors=True)

    def replace(self, store: RocksState, offset: int | None) -> None:
        """Link the files of the state in the place of all checkpoints."""
        old = self.offsets()
        if not old:
            return
        draft = self._folder / "new"
        shutil.rmtree(draft, ignore_errors=True)
        if offset is not None:
            store.checkpoint(draft)
        try:
            for checkpoint in old:
                shutil.rmtree(self._path(checkpoint))
            if offset is not None:
                draft.rename(self._path(offset))
        except OSError as error:
            raise StateError(f"{self._folder}: cannot be replaced: {error}") from error

    def restore(self, offset: int, state: Path) -> None:
        """Link or copy the files of a checkpoint."""
        restore_checkpoint(self._path(offset), state)

    def close(self) -> None:
        """Nothing is written in the background."""

    def _path(self, offset: int) -> Path:
        return self._folder / f"{offset:020}"


class StoredCheckpoints:
    """Checkpoints in a place of objects, sent by a thread beside the owner of the state.

    A killed owner leaves parts, which the next checkpoint deletes an hour later.
    """

    def __init__(self, store: ObjectStore, partition: str, scratch: Path) -> None:
        """Use the folder of a partition.

        Args:
            store: place of the checkpoints of all partitions.
            partition: name of the folder in it.
            scratch: path on the disk of the state; the files of a checkpoint are linked there
                while they are sent.
        """
        self._snapshots = Snapshots(store, partition)
        self._scratch = scratch
        self._sender: threading.Thread | None = None
        self._written: int | None = None  # offset of the last checkpoint
        self._stopping = threading.Event()
        shutil.rmtree(scratch, ignore_errors=True)  # of a killed owner

    def offsets(self) -> list[int]:
        """Return the offsets of the snapshots."""
        try:
            return sorted(int(name) for name in self._snapshots.names() if name.isdigit())
        except ObjectStoreError as error:
            raise StateError(f"checkpoints cannot be listed: {error}") from error

    def write(self, store: RocksState, offset: int) -> None:
        """Link the files of the state and send them, unless an earlier one is still being sent."""
        if offset == self._written:
            return
        if self._sender is not None and self._sender.is_alive():
            _logger.warning(
                "%s: the checkpoint before is still being sent, so this one is left out: raise "
                "worker.checkpoint_s",
                self._snapshots.place,
            )
            return
        shutil.rmtree(self._scratch, ignore_errors=True)
        store.checkpoint(self._scratch)
        self._stopping.clear()
        self._written = offset
        send = partial(self._send, offset)
        self._sender = threading.Thread(target=send, name="checkpoint", daemon=True)
        self._sender.start()

    def replace(self, store: RocksState, offset: int | None) -> None:
        """Send the state, and delete all other checkpoints with their parts."""
        self._stop()  # it must write nothing afterwards
        old = self.offsets()
        try:
            if old and offset is not None:
                store.checkpoint(self._scratch)
                self._snapshots.write(_name(offset), self._scratch)
            self._snapshots.delete(_name(other) for other in old if other != offset)
            self._snapshots.sweep()
        except ObjectStoreError as error:
            raise StateError(f"checkpoints cannot be replaced: {error}") from error
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def restore(self, offset: int, state: Path) -> None:
        """Fetch the files of a checkpoint, and compare them with their checksums."""
        unfinished = state.with_name(f"{state.name}.restoring")
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            self._snapshots.read(_name(offset), unfinished)
            unfinished.rename(state)
        except OSError as error:
            raise StateError(f"{state}: the checkpoint cannot be restored: {error}") from error

    def close(self) -> None:
        """Stop to send before the next part."""
        self._stop(_CLOSE_S)

    def _stop(self, patience_s: float | None = None) -> None:
        self._stopping.set()
        if self._sender is not None:
            self._sender.join(patience_s)
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _send(self, offset: int) -> None:
        try:
            self._snapshots.write(_name(offset), self._scratch, sent=self._check)
            self._snapshots.delete(_name(old) for old in self.offsets()[:-_KEPT])
            self._snapshots.sweep(before=time.time() - _WRITER_S)
        except _Stopped:
            pass
        except (OSError, StateError) as error:
            self._written = None
            _logger.warning("no checkpoint was written; the previous one stays valid: %s", error)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _check(self, size: int) -> None:
        if self._stopping.is_set():
            raise _Stopped


class _Stopped(Exception):
    """The owner of the state is closed."""


def checkpoints_in_folder(folder: Path) -> OpenCheckpoints:
    """Return a function that opens checkpoints in a folder that all hosts mount."""
    return lambda partition: FolderCheckpoints(folder / partition)


def stored_checkpoints(url: str, states: Path) -> OpenCheckpoints:
    """Return a function that opens checkpoints below a URL.

    Args:
        url: such as ``s3://BUCKET/PREFIX``.
        states: folder of the states of all partitions on this host.

    Raises:
        ObjectStoreError: if the URL is invalid.
    """
    store = open_objects(url)
    return lambda partition: StoredCheckpoints(store, partition, states / partition / "sending")


def restore_newest(checkpoints: Checkpoints, state: Path, offset: int) -> bool:
    """Make a state from the newest whole checkpoint, if it is further than `offset`.

    An existing state is replaced when the checkpoint has been read. A damaged or partial checkpoint
    is left out.
    """
    draft = state.with_name(f"{state.name}.checkpoint")
    for newest in reversed(checkpoints.offsets()):
        if newest <= offset:
            return False
        shutil.rmtree(draft, ignore_errors=True)
        try:
            checkpoints.restore(newest, draft)
        except StateError as error:
            if not isinstance(error.__cause__, SnapshotError):
                raise
            _logger.warning("an earlier checkpoint is taken: %s", error)
            continue
        if state.exists():
            shutil.rmtree(state)
        draft.rename(state)
        _logger.info("the state begins with the checkpoint of offset %d", newest)
        return True
    return False


def _name(offset: int) -> str:
    return f"{offset:020}"
