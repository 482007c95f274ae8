"""The state of one partition, on the disk of its owner and in shared checkpoints.

A state is a directory that one process at a time can open. It moves with its partition: on one host
the next owner opens the directory; on another host it begins with the newest checkpoint in a place
that the hosts share, or at the beginning of the log. Any state of a partition, however old, leads
to the same state by applying the log from the offset stored in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path

from tactful_streaming.errors import StateError
from tactful_streaming.state.checkpoints import Checkpoints, restore_newest
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.store import RocksState

_logger = logging.getLogger(__name__)

_POLL_S = 0.05


class PartitionState:
    """The opened state of a partition.

    `offset` is the next one of the log to apply, when it was opened.
    """

    def __init__(
        self, folder: Path, *, checkpoints: Checkpoints | None = None, patience_s: float = 30.0
    ) -> None:
        """Open the state in `folder` of this host, or the newest checkpoint if that is further.

        All hosts share the place of `checkpoints`, if there is one. Another process that has the
        state open is waited for `patience_s` seconds. If the checkpoints cannot be read, a state of
        this host is used as it is.

        Raises:
            StateError: if another process keeps it, it is damaged, or there is none and the
                checkpoints cannot be read.
        """
        self._folder = folder
        self._checkpoints = checkpoints
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._take_lock(time.monotonic() + patience_s)
            self.store, self.offset = self._open()
        except BaseException:
            os.close(self._lock)
            raise

    def checkpoint(self) -> None:
        """Write the committed state as the newest checkpoint; keep one older one."""
        assert self._checkpoints is not None
        meta = read_meta(self.store)
        if meta is not None:
            self._checkpoints.write(self.store, meta.offset)

    def replace_checkpoints(self) -> None:
        """Replace all checkpoints by one of the committed state."""
        if self._checkpoints is not None:
            meta = read_meta(self.store)
            self._checkpoints.replace(self.store, None if meta is None else meta.offset)

    def close(self) -> None:
        """Release the state to its next owner. Closing twice is harmless."""
        if self._lock < 0:
            return
        try:
            if self._checkpoints is not None:
                self._checkpoints.close()
            self.store.close()
        finally:
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self, until: float) -> None:
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise StateError(
                        f"{self._folder}: another process has this state open: end it if it hangs"
                    ) from error
            time.sleep(_POLL_S)

    def _open(self) -> tuple[RocksState, int]:
        state = self._folder / "state"
        store = RocksState(state) if state.exists() else None
        offset = _offset(store)
        if self._checkpoints is not None:
            if store is not None:
                store.close()
            try:
                restore_newest(self._checkpoints, state, offset)
            except StateError as error:
                if not offset:
                    raise
                _logger.warning("the state of this host is used: %s", error)
            store = RocksState(state)
            offset = _offset(store)
        return (RocksState(state) if store is None else store), offset


def _offset(store: RocksState | None) -> int:
    meta = read_meta(store) if store is not None else None
    return 0 if meta is None else meta.offset
