"""Erasure of users from the files of a killed backfill or rescaling."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.schemas.users import ErasureStep
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.erasure import delete_subjects
from tactful_streaming.errors import StateError
from tactful_streaming.state.store import RocksState

BACKFILL = "backfill"
"""Folder of a backfill's states in the data directory."""

RESCALING = ("partitions.rescaling", "rescaling.json")
"""Files of an unfinished rescaling in the data directory; without them it restarts."""


def purge_unfinished(
    settings: Settings, definitions: Definitions, traces: SubjectIds
) -> ErasureStep:
    """Delete users from an unfinished backfill, and discard an unfinished rescaling.

    The backfill can be resumed; the rescaling starts again.

    Raises:
        StorageError: while one runs.
        StateError: if the disk refused; it may be repeated.
    """
    data, removed = settings.storage.data, 0
    for path in _states_in(data / BACKFILL):
        with _held(path) as store:
            removed += delete_subjects(store, traces, definitions, {})
            store.purge()
    draft, note = (data / name for name in RESCALING)
    for path in _states_in(draft):
        with _held(path):
            removed += 1
    if not (data / "partitions").exists():  # else the note means that all is done
        note.unlink(missing_ok=True)  # first: it must not outlive deleted states
    shutil.rmtree(draft, ignore_errors=True)
    return ErasureStep(place="unfinished work", removed=removed)


def _states_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("CURRENT"))


def _held(path: Path) -> contextlib.closing[RocksState]:
    try:
        return contextlib.closing(RocksState(path))
    except StateError as error:
        raise StorageError(
            f"{path}: a backfill or rescaling uses this state; run the erasure again when it has "
            f"ended: {error}"
        ) from error
