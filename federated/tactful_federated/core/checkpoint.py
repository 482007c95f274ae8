"""Atomic files, checkpoints, the lock of the directory of a run, and its counter of rounds."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import CheckpointError
from tactful_privacy.durable_files import replace_file
from tactful_privacy.errors import PermissionsError
from tactful_privacy.permissions import secure_directory

_log = logging.getLogger(__name__)

Arrays = Mapping[str, NDArray[np.generic]]


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file atomically; after a power cut it is the old or the new one.

    Only its owner can read it, since the state of a run contains its noise.
    """
    replace_file(path, data, private=True)


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays to one file, atomically."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **dict(arrays))
    write_whole(path, file.getvalue())


def load_arrays(path: Path) -> dict[str, NDArray[np.generic]] | None:
    """Read the arrays of `save_arrays`; None if there is no file.

    Raises:
        CheckpointError: The file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile and numpy may raise anything
        raise CheckpointError(f"{path} is damaged: restore it, or begin a new run") from error


def private_directory(directory: Path) -> None:
    """Create a directory for this user only, or close one to other users.

    Raises:
        CheckpointError: Another user owns it or may write in it.
    """
    try:
        secure_directory(directory)
    except PermissionsError as error:
        raise CheckpointError(str(error)) from error


def lock_directory(directory: Path) -> int:
    """Lock the directory of a run; `os.close` on the returned descriptor unlocks it.

    Raises:
        CheckpointError: Another process has locked it, or other users may write in it.
    """
    private_directory(directory)
    descriptor = os.open(directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CheckpointError(f"another process uses {directory}: stop it first") from error
    return descriptor


class RoundCounter:
    """Highest round of a run, stored outside its directory to detect a restored older copy.

    A checkpoint and a ledger restored together agree with each other, and releases would be drawn
    again. The file is `tactful/rounds/NAME` in `$XDG_STATE_HOME` (default `~/.local/state`), with
    the name that the ledger has.

    Assumed: the file is not restored with the directory. If it is missing, as on another machine,
    a warning is logged, it is created again, and an older copy is not detected.
    """

    def __init__(self, directory: Path, name: str, *, new: bool) -> None:
        """Find the file; a new run has none yet.

        Raises:
            CheckpointError: The name is damaged.
        """
        if not re.fullmatch("[0-9a-f]{32}", name):
            raise CheckpointError(f"the ledger in {directory} is damaged: restore it")
        self._new = new
        state = Path(os.environ.get("XDG_STATE_HOME", ""))
        if not state.is_absolute():
            try:
                state = Path("~/.local/state").expanduser()
            except RuntimeError:  # the user of the process has no home
                state = directory.absolute().parent
        self._path = state / "tactful" / "rounds" / name

    def check(self, round_number: int) -> None:
        """Compare the round of a checkpoint with the counter.

        Raises:
            CheckpointError: The checkpoint is older, or the counter cannot be read.
        """
        try:
            highest = int(self._path.read_text("ascii"))
        except (FileNotFoundError, PermissionError):
            if not self._new:
                _log.warning(
                    "%s is missing or not readable: if the run was restored from an older copy,"
                    " stop it, since its releases would be drawn again",
                    self._path,
                )
            return
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self._path} cannot be read: {error}") from error
        if highest > round_number:
            raise CheckpointError(
                f"the run was restored from an older copy: {self._path} counts {highest} rounds,"
                f" and the checkpoint {round_number}, so releases would be drawn again: restore the"
                " newest copy, or begin a new run"
            )

    def write(self, round_number: int) -> None:
        """Write the round, durably; a failure is logged, since the checkpoint is saved already."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._path, str(round_number).encode("ascii"))
        except OSError as error:
            _log.warning("an older copy of the run will not be detected: %s", error)
