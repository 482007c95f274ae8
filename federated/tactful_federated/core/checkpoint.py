"""Atomic files, checkpoints and the lock of the directory of a run."""

from __future__ import annotations

import fcntl
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import CheckpointError
from tactful_privacy.durable_files import replace_file

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
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged: restore it, or begin a new run") from error


def lock_directory(directory: Path) -> int:
    """Lock the directory of a run; `os.close` on the returned descriptor unlocks it.

    Raises:
        CheckpointError: Another process has locked it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CheckpointError(f"another process uses {directory}: stop it first") from error
    return descriptor
