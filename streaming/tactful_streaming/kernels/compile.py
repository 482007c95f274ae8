"""Compiles functions with numba, and caches the machine code for later processes.

The cache is one private folder: ``$NUMBA_CACHE_DIR/tactful``, else ``~/.cache/tactful``
(``$XDG_CACHE_HOME``). Write access to it allows to run code here, so it is used only if it belongs
to this user and nobody else may enter it; it is in no backup. Each file has one function for one
signature and processor, behind a checksum: numba's own files are unpickled unchecked, and a damaged
one may end the process.

    tactful-3f9a….nbc    SHA-256 of the rest, 32 bytes | pickled machine code
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import pickle
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numba
from numba import types
from numba.core import compiler, serialize

from tactful_privacy.durable_files import replace_file

_logger = logging.getLogger(__name__)

_DIGEST = 32


class Compilation(NamedTuple):
    """One function that was compiled, since the cache did not have it."""

    name: str
    seconds: float
    folder: Path | None  # that has it for later processes; None if there is none


_observed: ContextVar[list[Compilation]] = ContextVar("compilations")


@contextmanager
def compilations() -> Iterator[list[Compilation]]:
    """Collect the functions that this thread compiles, and does not find in the cache."""
    found: list[Compilation] = []
    token = _observed.set(found)
    try:
        yield found
    finally:
        _observed.reset(token)


def array(kind: Any, dimensions: int = 1, *, readonly: bool = False) -> Any:
    """Return the numba type of contiguous arrays of `kind`."""
    return types.Array(kind, dimensions, "C", readonly=readonly)


def compiled(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    """Compile `function` for arguments of the types of `signature`, and no others.

    The code is compiled again when the file of its module changes; other files do not count.
    """
    kernel: Any = numba.njit(error_model="numpy")(function)
    cache = kernel._cache = CodeCache(function, cache_folder())
    started = time.perf_counter()
    kernel.compile(signature)
    kernel.disable_compile()
    if cache.missed:
        took = time.perf_counter() - started
        _observed.get([]).append(Compilation(function.__name__, took, cache.cache_path))
    result: Callable[..., Any] = kernel
    return result


def cache_folder() -> Path | None:
    """Return the folder of machine code, made if absent; None if others may write to it."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or home) / "tactful"
    problem: object = (
        "it belongs to another user, is a link, or others may enter it (mode 0700), or replace it "
        "in a folder above"
    )
    try:
        folder = folder.expanduser()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        about = folder.lstat()
        private = about.st_uid == os.geteuid() and about.st_mode & 0o170077 == 0o040000
        if private and not any(map(_others_may_replace, folder.resolve().parents)):
            return folder
    except (OSError, RuntimeError) as error:  # no place to write, or no home
        problem = error
    _logger.warning("kernels are compiled at each start: no cache in %s: %s", folder, problem)
    return None


def _others_may_replace(folder: Path) -> bool:
    """Whether another user, who is not root, may rename what is in a folder."""
    about = folder.stat()
    # The first group of a user has often no other members.
    others = 0o002 if about.st_gid == os.getegid() else 0o022
    writable = about.st_mode & others and not about.st_mode & stat.S_ISVTX
    return bool(writable) or about.st_uid not in (0, os.geteuid())


def _read_own(path: Path) -> bytes:
    """Read a file of this user; the folder above may have been replaced since it was checked."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if about.st_uid != os.geteuid() or about.st_mode & 0o022:
            raise PermissionError(f"{path} belongs to another user, or others may write it")
        return file.read()


class CodeCache:
    """Cache of the machine code of one function, as numba's dispatcher calls it."""

    def __init__(self, function: Callable[..., Any], folder: Path | None) -> None:
        """Keep code in `folder`; None keeps none."""
        self.cache_path = folder
        self.missed = False  # whether code was compiled
        source = Path(inspect.getfile(function)).read_bytes()
        self._about = (
            *(numba.__version__, sys.version, numba.config.BOUNDSCHECK),  # type: ignore[attr-defined]
            *(function.__module__, function.__qualname__, hashlib.sha256(source).hexdigest()),
        )

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the compiled function, or None where there is no whole file of it."""
        context.refresh()
        path = self._path(signature, context)
        try:
            stored = b"" if path is None else _read_own(path)
            code = stored[_DIGEST:]
            if hashlib.sha256(code).digest() == stored[:_DIGEST]:
                rebuild: Any = compiler.CompileResult._rebuild
                return rebuild(context, *pickle.loads(code))
            if stored:
                _logger.warning("%s is damaged: the kernel is compiled anew", path)
        except FileNotFoundError:
            pass
        except Exception as error:  # another library may raise anything for code of another build
            _logger.warning("%s cannot be used, the kernel is compiled anew: %r", path, error)
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Write a compiled function; a full disk costs later processes time only."""
        self.missed = True
        path = self._path(signature, result.target_context)
        if path is None:
            return
        dumps: Callable[..., bytes] = serialize.dumps
        code = dumps(result._reduce())
        try:
            replace_file(path, hashlib.sha256(code).digest() + code)
        except OSError as error:
            _logger.warning("compiled code cannot be kept: %s", error)

    def _path(self, signature: Any, context: Any) -> Path | None:
        if self.cache_path is None:
            return None
        about = repr((self._about, str(signature), context.codegen().magic_tuple()))
        return self.cache_path / f"tactful-{hashlib.sha256(about.encode()).hexdigest()[:32]}.nbc"
