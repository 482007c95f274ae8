"""Files that hold the old content or the new one, whole, also after a power cut."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """New content for a file: it takes the file's place, forced to disk, where the block ends well.

    Where the block raises, the file is as it was. A process that is killed meanwhile leaves its
    draft behind, so this is not for secrets and what must be erased.

    Args:
        path: the file, there or not; its directory is there.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    force(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Give a file new content, as `replacing` does."""
    with replacing(path) as file:
        file.write(content)


def force(path: Path) -> None:
    """Force a file's content, or the names in a directory, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
