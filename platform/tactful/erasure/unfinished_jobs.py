"""Removes people from what a backfill or a rescaling has left that was killed and not resumed."""

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
"""Folder in a data directory of the states that a backfill computes."""

RESCALING = ("partitions.rescaling", "rescaling.json")
"""What an unfinished rescaling into a data directory keeps there; without it, it begins anew."""


def purge_unfinished(
    settings: Settings, definitions: Definitions, traces: SubjectIds
) -> ErasureStep:
    """Take people out of an unfinished backfill, and give up an unfinished rescaling.

    Both go on afterwards, or begin anew, as if these people had never been there.

    Raises:
        StorageError: while one is under way; it ends by itself.
        StateError: if the disk refused; it may be done again.
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
    if not (data / "partitions").exists():  # else the note says that all is done
        note.unlink(missing_ok=True)  # first: it would speak for states that are partly gone
    shutil.rmtree(draft, ignore_errors=True)
    return ErasureStep(place="unfinished work", removed=removed)


def _states_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.rglob("CURRENT"))


def _held(path: Path) -> contextlib.closing[RocksState]:
    try:
        return contextlib.closing(RocksState(path))
    except StateError as error:
        raise StorageError(
            f"{path}: a backfill or rescaling is at work here; run the erasure again when it has "
            f"ended: {error}"
        ) from error
