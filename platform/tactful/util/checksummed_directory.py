"""Directories of immutable files with checksums, replaced atomically.

A directory is filled beside its place, sealed with the size and checksum of every file, synced to
disk and then renamed. A reader sees all of it or nothing, and checksums find later damage. Any
number of processes may map the files into memory, since no process writes to them again.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec

from tactful.errors import ModelError
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import sync

_SEAL = "seal.json"
_BLOCK = 1 << 22


class _File(msgspec.Struct, frozen=True):
    size: int
    crc32: int


class _Seal(msgspec.Struct, frozen=True):
    files: dict[str, _File]


@contextmanager
def sealing(directory: Path) -> Iterator[Path]:
    """Yield a scratch directory that takes the place of `directory` at once, or not at all.

    A block without an error seals it and renames it, in place of an existing directory; an error
    deletes it. A nested directory needs a seal of its own.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = directory.parent / f".{directory.name}.{uuid4().hex}"
    scratch.mkdir()
    try:
        yield scratch
        names = sorted(path.name for path in scratch.iterdir() if path.is_file())
        seal = _Seal({name: _measure(scratch / name) for name in names})
        (scratch / _SEAL).write_bytes(msgspec.json.encode(seal))
        for name in (*names, _SEAL):
            sync(scratch / name)
        sync(scratch)
        if directory.exists():
            old = directory.parent / f".{directory.name}.{uuid4().hex}"
            directory.rename(old)
            scratch.rename(directory)
            shutil.rmtree(old)
        else:
            scratch.rename(directory)
        sync(directory.parent)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def check_seal(directory: Path) -> None:
    """Read every file of a sealed directory and compare it with the seal.

    Raises:
        ModelError: if a file is missing, truncated or changed, or the seal is missing.
    """
    path = directory / _SEAL
    try:
        seal = msgspec.json.decode(path.read_bytes(), type=_Seal)
    except (OSError, *DECODE_ERRORS) as error:
        raise ModelError(
            f"{path}: cannot be read, so the files beside it cannot be trusted: {error}"
        ) from error
    for name, wanted in seal.files.items():
        try:
            found = _measure(directory / name)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            raise ModelError(f"{directory / name}: cannot be read: {error}") from error
        if found != wanted:
            raise ModelError(
                f"{directory / name}: damaged: {found.size} bytes with checksum {found.crc32:08x} "
                f"where {wanted.size} with {wanted.crc32:08x} were written"
            )


def remove_scratch(directory: Path) -> None:
    """Delete scratch directories of interrupted `sealing` calls; for the single writer only."""
    for path in directory.glob(".*.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _measure(path: Path) -> _File:
    size, checksum = 0, 0
    with path.open("rb", buffering=0) as file:
        # One block for all reads: allocating for each read would delay other threads.
        block = memoryview(bytearray(min(_BLOCK, path.stat().st_size)))
        while count := file.readinto(block):
            size += count
            checksum = zlib.crc32(block[:count], checksum)
    return _File(size, checksum)
