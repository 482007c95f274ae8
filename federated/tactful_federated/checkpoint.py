"""A run's state on disk: whole or not at all, and there before anybody is told of it."""

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

Arrays = Mapping[str, NDArray[np.generic]]


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file by its new content; after a power cut it holds the old or the new one.

    Only its owner can read it: a run's state holds what takes the noise away.
    """
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write named arrays in one file, whole or not at all."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **dict(arrays))
    write_whole(path, file.getvalue())


def load_arrays(path: Path) -> dict[str, NDArray[np.generic]] | None:
    """Read what `save_arrays` wrote; None if there is nothing.

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
    """Keep other processes out of a run's directory; returns what `os.close` gives it back with.

    Raises:
        CheckpointError: Another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handle = os.open(directory / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise CheckpointError(f"another server runs in {directory}: stop it first") from error
    return handle
