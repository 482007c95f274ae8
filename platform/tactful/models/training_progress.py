"""Progress of a training for other processes: a file beside its checkpoint, and its lock."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tactful.util.checkpoint import Checkpoint
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file

_FILE = "progress.json"
_EVERY_S = 0.5

Report = Callable[[str, int, int], None]


class Progress(msgspec.Struct, frozen=True):
    """How far a training is."""

    stage: str
    done: int
    total: int


def kept_progress(
    models: Path, report: Report, *, monotonic: Callable[[], float] = time.monotonic
) -> Report:
    """Return a function that reports progress and also writes it to the file, twice a second."""
    path, last = training_directory(models) / _FILE, [("", 0.0)]

    def keep(stage: str, done: int, total: int) -> None:
        report(stage, done, total)
        now, (before, at) = monotonic(), last[0]
        if stage != before or now - at >= _EVERY_S:
            last[0] = (stage, now)
            with contextlib.suppress(OSError):  # a full disk ends the training elsewhere
                replace_file(path, msgspec.json.encode(Progress(stage, done, total)))

    return keep


def running_training(models: Path) -> Progress | None:
    """Return how far the training of a models directory is; None if none runs."""
    directory = training_directory(models)
    if not Checkpoint.is_held(directory):
        return None
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=Progress)
    except (OSError, *DECODE_ERRORS):
        return Progress("", 0, 0)


def training_directory(models: Path) -> Path:
    """Return the directory of the checkpoint of a training."""
    return models / "training"
