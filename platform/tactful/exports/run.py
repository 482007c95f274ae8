"""Exports of the users of a file, delivered batch by batch; a killed run resumes.

Progress is in ``$XDG_STATE_HOME/tactful/exports`` under a digest of the users, the target and the
request, and is removed at the end, so the next run begins anew.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tactful.errors import DatasetError
from tactful.exports.targets import Batch, Target, without_password
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

BATCH = 100
"""Users of a batch."""

Row = Mapping[str, Any]
Rows = Callable[[Sequence[str]], Mapping[str, Row]]
"""Returns the rows of users by their id; a user without one is absent."""


class Progress(msgspec.Struct):
    """Progress of an export.

    Attributes:
        identity: random id of the export, which its batches have in their keys.
        done: users of delivered batches.
        rows: rows that were delivered.
    """

    identity: str
    done: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Export:
    """An export: of which users, to which target, of what kind."""

    kind: str  # ``recommendations``, or ``segment`` and its name
    users: Sequence[str]
    address: str
    request: Mapping[str, Any] = field(default_factory=dict)  # what else decides the rows

    @property
    def digest(self) -> str:
        """Digest by which a run finds the progress of an earlier one."""
        parts = [self.kind, without_password(self.address), self.request, self.users]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()


def export(
    job: Export,
    rows: Rows,
    target: Target,
    *,
    state: Path,
    rate: float,
    new_id: Callable[[], str] = lambda: os.urandom(8).hex(),
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    advanced: Callable[[int], object] = lambda users: None,
) -> Progress:
    """Deliver the rows of all users, and return what was delivered, also by an earlier run.

    Args:
        job: the export.
        rows: makes the rows of some users.
        target: takes the batches; a batch whose delivery was interrupted comes again.
        state: directory of the progress.
        rate: most users in a second, on average.
        new_id: makes the id of an export.
        monotonic: seconds that never go back.
        sleep: waits some seconds.
        advanced: called with the number of users of each step.

    Raises:
        DatasetError: if the target takes no more, or the progress cannot be stored.
        ClientError: if the server refuses.
    """
    path = state / f"{job.digest}.json"
    progress = _load(path) or Progress(new_id())
    advanced(progress.done)
    began, first = monotonic(), progress.done
    while progress.done < len(job.users):
        users = job.users[progress.done : progress.done + BATCH]
        found = rows(users)
        absent = [user for user in users if user not in found]
        target.deliver(Batch(f"{progress.identity}-{progress.done}", job.kind, found, absent))
        progress.done += len(users)
        progress.rows += len(found)
        _store(path, progress, complete=progress.done == len(job.users))
        advanced(len(users))
        early = began + (progress.done - first) / rate - monotonic()
        if early > 0 and progress.done < len(job.users):
            sleep(early)
    return progress


def state_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory of progress: in ``$XDG_STATE_HOME``, else in ``~/.local/state``."""
    state = Path(environ.get("XDG_STATE_HOME", ""))
    base = state if state.is_absolute() else Path("~/.local/state").expanduser()
    return base / "tactful" / "exports"


def _load(path: Path) -> Progress | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        return None
    except (OSError, *DECODE_ERRORS) as error:
        raise DatasetError(f"{path}: cannot be read: {error}; remove it to begin anew") from error


def _store(path: Path, progress: Progress, *, complete: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if complete:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, msgspec.json.encode(progress))
    except OSError as error:
        raise DatasetError(f"{path}: progress cannot be stored: {error}") from error
