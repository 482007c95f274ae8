"""Directories of files that are whole or refused.

A directory is filled beside its place, sealed with the size and the checksum of every file, forced
to disk and only then moved to its place. A reader sees all of it or nothing; damage that comes
later is found by the checksum. Files may then be mapped into memory by any number of processes,
since nobody ever writes to them again.
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
    """Fill a directory that appears at once, or not at all.

    Args:
        directory: where it goes; one that is there already is replaced.

    Yields:
        A scratch directory beside it; a directory within it is to be sealed by itself. When the
        block ends well it is sealed and takes the place of `directory`; when it raises, nothing
        remains.
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
        ModelError: if a file is missing, was cut off, has changed, or was never sealed.
    """
    path = directory / _SEAL
    try:
        seal = msgspec.json.decode(path.read_bytes(), type=_Seal)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelError(
            f"{path}: cannot be read, so the files beside it cannot be trusted: {error}"
        ) from error
    for name, wanted in seal.files.items():
        try:
            found = _measure(directory / name)
        except OSError as error:
            raise ModelError(f"{directory / name}: cannot be read: {error}") from error
        if found != wanted:
            raise ModelError(
                f"{directory / name}: damaged: {found.size} bytes with checksum {found.crc32:08x} "
                f"where {wanted.size} with {wanted.crc32:08x} were written"
            )


def remove_scratch(directory: Path) -> None:
    """Delete what interrupted `sealing` left in `directory`; only for its single writer."""
    for path in directory.glob(".*.*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


def _measure(path: Path) -> _File:
    size, checksum = 0, 0
    with path.open("rb", buffering=0) as file:
        # One block for all: to take and give back memory each time holds other threads up.
        block = memoryview(bytearray(min(_BLOCK, path.stat().st_size)))
        while count := file.readinto(block):
            size += count
            checksum = zlib.crc32(block[:count], checksum)
    return _File(size, checksum)
