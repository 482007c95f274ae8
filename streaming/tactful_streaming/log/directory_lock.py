"""The lock by which a log directory has one writer at a time."""

import fcntl
import os
from pathlib import Path

from tactful_streaming.errors import LogLockedError


def lock_directory(path: Path) -> int:
    """Take the writer's lock of a log directory; closing the descriptor releases it.

    Raises:
        LogLockedError: if another process has it.
    """
    file = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise LogLockedError(f"{path}: another process writes to this log") from None
    return file
