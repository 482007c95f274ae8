"""Long jobs of an installation: which ones run, how far they are, and how they ended.

Each job writes a small file in ``jobs/`` of the data directory, also one of the command line, and
holds a lock on it. The kernel releases the lock at the end of a process, however that ends, so a
job that says it is running while nobody holds its lock was killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from tactful.schemas.operations import JobInfo, JobKind, JobState
from tactful.util.clock import now_ms
from tactful_privacy.decoding import DECODE_ERRORS

FOLDER = "jobs"

_SIZE = 1024  # bytes of a file: a write of this size is not torn
_BETWEEN_S = 0.5
_KEPT = 100
_ATTEMPTS = 3


class Job:
    """A job of this process; see `tracked`."""

    def __init__(self, handle: int, info: JobInfo, clock: Callable[[], int]) -> None:
        """Write the progress of `info` to an open file."""
        self._handle = handle
        self._info = info
        self._clock = clock
        self._written = 0.0
        self.write(info)

    def advance(self, done: float, total: float, stage: str = "") -> None:
        """Note the progress, at most twice a second and at each change of the stage."""
        now = time.monotonic()
        if now - self._written < _BETWEEN_S and stage == self._info.stage and done < total:
            return
        self._written = now
        share = min(1.0, max(0.0, done / total)) if total > 0 else None
        self._info = msgspec.structs.replace(
            self._info, stage=stage[:100], progress=share, updated_at=self._clock()
        )
        self.write(self._info)

    def end(self, state: JobState) -> None:
        """Note the end."""
        now = self._clock()
        self._info = msgspec.structs.replace(self._info, state=state, updated_at=now, ended_at=now)
        self.write(self._info)

    def write(self, info: JobInfo) -> None:
        """Write the file; a full disk ends no job."""
        with contextlib.suppress(OSError):
            os.pwrite(self._handle, msgspec.json.encode(info).ljust(_SIZE), 0)


@contextlib.contextmanager
def tracked(data: Path, kind: JobKind, *, clock: Callable[[], int] = now_ms) -> Iterator[Job]:
    """Show a job of a data directory for as long as the context lasts.

    A directory that cannot be written does not hinder the job: it is not shown then.
    """
    folder = data / FOLDER
    started = clock()
    name = f"{started}-{kind}-{os.getpid()}"
    info = JobInfo(id=name, kind=kind, state="running", started_at=started, updated_at=started)
    handle = _open(folder, name)
    job = Job(handle, info, clock)
    try:
        yield job
    except BaseException as error:
        ended_well = isinstance(error, SystemExit) and not error.code
        job.end("done" if ended_well else "failed")
        raise
    else:
        job.end("done")
    finally:
        os.close(handle)


def _open(folder: Path, name: str) -> int:
    """Create and lock the file of a job; where that fails, open a file that keeps nothing."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        _discard_old(folder)
        # The lock comes before the name: nobody sees a job that runs without a lock.
        draft = folder / f".{name}"
        handle = os.open(draft, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX)
        draft.rename(folder / f"{name}.json")
    except OSError:
        return os.open(os.devnull, os.O_RDWR)
    return handle


def jobs_of(data: Path) -> list[JobInfo]:
    """List the jobs of a data directory, newest first."""
    found = (_read(path) for path in _files(data / FOLDER))
    return [info for info in found if info is not None]


def _files(folder: Path) -> list[Path]:
    """List the files of jobs, newest first: a name begins with the time."""
    if not folder.is_dir():
        return []
    return sorted(folder.glob("[0-9]*.json"), reverse=True)


def _read(path: Path) -> JobInfo | None:
    """Read a file; None if it was removed or holds no job."""
    for _ in range(_ATTEMPTS):
        try:
            with path.open("rb") as file:
                alive = _is_locked(file.fileno())
                info = msgspec.json.decode(file.read(_SIZE), type=JobInfo)
        except OSError:
            return None
        except DECODE_ERRORS:
            continue
        if info.state == "running" and not alive:
            return msgspec.structs.replace(info, state="killed")
        return info
    return None


def _is_locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _discard_old(folder: Path) -> None:
    """Delete the oldest ended jobs, but the latest of each kind that succeeded."""
    succeeded: set[str] = set()
    for number, path in enumerate(_files(folder)):
        info = _read(path)
        if info is not None and info.state == "done" and info.kind not in succeeded:
            succeeded.add(info.kind)
        elif number >= _KEPT and (info is None or info.state != "running"):
            path.unlink(missing_ok=True)
