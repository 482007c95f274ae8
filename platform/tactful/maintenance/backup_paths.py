"""Paths that a backup may contain, and safe access to its files."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO

from tactful.config.settings import DOMAIN_KEYS, Settings
from tactful.errors import BackupError
from tactful.lifecycle.stored import FILE as LIFE_CYCLE
from tactful.maintenance.retention import PROGRESS
from tactful.metadata.file_identity import MARK
from tactful.metrics.history import FILE as METRICS
from tactful.understanding.vector_store import FOLDER as UNDERSTANDING
from tactful.util.jobs import FOLDER as JOBS
from tactful.util.signing import ADOPTED_MODELS, SIGNING_KEY

# Files of unfinished jobs, charts, vectors that are made anew from the items, and the fit of life
# cycles. The progress of retention may be ahead of the copied log.
_JOBS = ("backfill", "erasures", JOBS, PROGRESS, METRICS, UNDERSTANDING, LIFE_CYCLE)
_CURE = "use another backup"
_CODE = (".nbc", ".nbi", ".pyc", ".pyo")


def is_left_out(path: PurePath) -> bool:
    """Whether no backup contains a path of the data directory."""
    parts = path.parts
    return (
        parts[0] in _JOBS
        or "training" in parts[:2]
        or path.name.casefold() in ("lock", SIGNING_KEY, ADOPTED_MODELS, DOMAIN_KEYS)
        or path.name.endswith((".new", "-wal", "-shm", "-journal", f".db{MARK}"))
        or any(part.startswith(".") for part in parts)
    )


def is_code(path: PurePath) -> bool:
    """Whether a path is one of compiled code, which runs where it is read."""
    folders = set(path.parts[:-1])
    return path.suffix.casefold() in _CODE or bool({"kernels", "__pycache__"} & folders)


def secret_files(settings: Settings) -> frozenset[Path]:
    """List secrets in the data directory that no backup contains and no restore replaces."""
    data = settings.storage.data
    named = (
        settings.privacy.master_key_file,
        settings.log.password_file,
        settings.log.key_file,
        settings.actions.secret_file,
        settings.domain_keys,
    )
    inside = (path.absolute() for path in named if path != Path())
    within = {path.relative_to(data.absolute()) for path in inside if _is_in(path, data)}
    own = (Path(SIGNING_KEY), Path(ADOPTED_MODELS), Path(DOMAIN_KEYS))
    return frozenset(data / path for path in {*within, *own})


def refuse_foreign_paths(manifest: Path | str, names: Iterable[str]) -> None:
    """Raise BackupError if the paths of a manifest are not those of different plain files."""
    folders: dict[str, str] = {}
    files: set[str] = set()
    for name in names:
        path = PurePosixPath(name)
        if problem := _problem(name, path):
            raise BackupError(f"{manifest}: it names {name!r}, which {problem}; {_CURE}")
        # Some file systems hold one file for names that differ in case or in Unicode's forms.
        for folder in map(str, path.parents):
            if folder != "." and folders.setdefault(_folded(folder), folder) != folder:
                raise BackupError(
                    f"{manifest}: it names {name!r}, whose folder has two spellings; {_CURE}"
                )
        if _folded(name) in files:
            raise BackupError(f"{manifest}: it names {name!r}, which it names twice; {_CURE}")
        files.add(_folded(name))
    if both := files & folders.keys():
        raise BackupError(f"{manifest}: it names {min(both)!r} as a file and as a folder; {_CURE}")


def open_plain(root: Path, name: str) -> BinaryIO:
    """Open a file below a directory; BackupError if a part of its path is a link."""
    *folders, last = PurePosixPath(name).parts
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        # Without waiting for the other end of a named pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.fdopen(os.open(last, flags, dir_fd=handle), "rb")
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise BackupError(f"{root / name}: a link, which no backup contains") from error
        raise
    finally:
        os.close(handle)
    about = os.fstat(file.fileno())
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        file.close()
        raise BackupError(
            f"{root / name}: not a plain file of one name, as all files of a backup are: copy the "
            "backup without links"
        )
    return file


def _problem(name: str, path: PurePosixPath) -> str | None:
    if not path.parts or path.is_absolute() or ".." in path.parts or path.as_posix() != name:
        return "is no path below a data directory"
    if any(unicodedata.category(sign) in ("Cc", "Cs") or sign == "\\" for sign in name):
        return "has a character that no path of a backup has"
    if is_left_out(path):
        return "no backup contains"
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _is_in(path: Path, directory: Path) -> bool:
    return path.is_relative_to(directory.absolute())
