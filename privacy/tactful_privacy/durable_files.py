"""Atomic replacement and creation of files, forced to disk."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a draft that replaces a file, forced to disk, after a block without error.

    After an error, a kill or a power cut the file holds the old content or the new, whole. A
    `private` file is readable by its owner only, and the draft that a killed process leaves is
    replaced by the next one; for secrets and for data that must be erased. One thread at a time
    may write such a file; others may have several writers, of which the last one wins.
    """
    draft = path.with_name(f".{path.name}.new") if private else _draft(path)
    draft.unlink(missing_ok=True)
    try:
        handle = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace_file(path: Path, content: bytes, *, private: bool = False) -> None:
    """Give a file new content, as `replacing` does."""
    with replacing(path, private=private) as file:
        file.write(content)


def create_file(path: Path, content: bytes) -> None:
    """Create a file that only its owner may read, forced to disk, if absent.

    Exactly one of several concurrent threads or processes succeeds; none leaves a part of a file.
    """
    draft = _draft(path)
    draft.unlink(missing_ok=True)
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one thread of all processes at a time run a block that reads and replaces a file.

    The lock is a file beside it, which stays. Raises `OSError` if it cannot be opened.
    """
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Force a file's content, or the names in a directory, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _draft(path: Path) -> Path:
    """Return the name of a draft that no other thread of any process uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
