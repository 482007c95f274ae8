"""Checkpoints of a training, which resumes after a kill and starts anew after a failure.

A directory: ``about.json`` identifies the training, ``parts/`` holds computed rows,
``forest.ubj`` and ``curve.json`` the trees so far, ``next/`` what the training after this one will
begin with, and ``kept/`` what this one began with. Every file is written aside and moved to its
place, so a reader finds it whole or not at all.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.errors import ModelError, TrainingBusy
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file, replacing

_STALE_S = 86_400
_KEPT_S = 14 * 86_400
_RUN = "mlflow-run"
_ATTEMPTS = 4  # to lock the directory

Arrays = Mapping[str, NDArray[Any]]


def _locked(holder: IO[bytes], *, pause: float = 0.05) -> bool:
    """Lock a file; if another process holds it, wait a moment, as that may only have looked."""
    try:
        fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        time.sleep(pause)
        return False
    return True


class Checkpoint:
    """Checkpoint directory of one training, locked by this process; see `hold`."""

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        """Use a directory that `hold` prepared."""
        self._directory = directory
        self._clock = clock

    @classmethod
    @contextlib.contextmanager
    def hold(
        cls, directory: Path, *, clock: Callable[[], float] = time.time
    ) -> Iterator[Checkpoint]:
        """Create and lock a directory of this training alone while the context lasts.

        Raises:
            TrainingBusy: if another process trains there.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (directory / "lock").open("ab") as holder:
            if not any(map(_locked, itertools.repeat(holder, _ATTEMPTS))):
                raise TrainingBusy(
                    f"{directory}: another process trains this model; wait until it has ended"
                )
            yield cls(directory, clock)

    @staticmethod
    def is_held(directory: Path) -> bool:
        """Return whether a process trains there; it holds the lock for a moment."""
        try:
            with (directory / "lock").open("rb") as holder:
                return not _locked(holder, pause=0.0)
        except OSError:
            return False

    @contextlib.contextmanager
    def cleared_on_failure(self, *, but: type[Exception]) -> Iterator[None]:
        """Delete the checkpoint if the context raises an error; a kill or Ctrl-C keeps it.

        A failed training that resumed would read the log as it was before its cause was mended.

        Args:
            but: errors that pass by themselves; they keep it as a kill does.
        """
        try:
            yield
        except but:
            raise
        except Exception:
            with contextlib.suppress(OSError):  # the error itself matters more
                self.clear()
            raise

    def about(self) -> dict[str, Any] | None:
        """Return the identity of an unfinished training of the last day, or None."""
        path = self._directory / "about.json"
        try:
            if self._clock() - path.stat().st_mtime > _STALE_S:
                return None
            found = msgspec.json.decode(path.read_bytes())
        except (FileNotFoundError, *DECODE_ERRORS):
            return None
        return found if isinstance(found, dict) else None

    def begin(self, about: Mapping[str, Any]) -> None:
        """Delete the checkpoint and begin another training, with what was kept for it."""
        self._delete(but=("lock", "kept", _RUN))
        replace_file(self._directory / "about.json", msgspec.json.encode(about))

    def end(self) -> None:
        """Delete the checkpoint, and keep what the next training begins with."""
        if (self._directory / "next" / "about.json").exists():
            shutil.rmtree(self._directory / "kept", ignore_errors=True)
            (self._directory / "next").rename(self._directory / "kept")
        self._delete(but=("lock", "kept"))

    def clear(self) -> None:
        """Delete the checkpoint, and what was kept for the next training."""
        self._delete(but=("lock", _RUN))

    def note_run(self, run_id: str) -> None:
        """Keep the id of the run of MLflow until the training has ended well."""
        replace_file(self._directory / _RUN, run_id.encode())

    def run(self) -> str | None:
        """Return the id that `note_run` kept last, or None."""
        try:
            return (self._directory / _RUN).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def discard_old(self) -> None:
        """Delete what was kept for the next training two weeks ago, and a checkpoint of that age.

        Both hold data of users that nobody needs any more.
        """
        for name in ("about.json", "kept/about.json"):
            with contextlib.suppress(FileNotFoundError):
                if self._clock() - (self._directory / name).stat().st_mtime > _KEPT_S:
                    self.clear()

    def _delete(self, *, but: Collection[str]) -> None:
        for path in self._directory.iterdir():
            if path.is_dir() and path.name not in but:
                shutil.rmtree(path)
            elif path.name not in but:
                path.unlink()

    def place(self, name: str) -> Path:
        """Return the path of a file that its writer replaces atomically."""
        return self._directory / name

    def save_part(self, number: int, part: Arrays) -> None:
        """Keep the rows of part `number`, from 0."""
        (self._directory / "parts").mkdir(exist_ok=True)
        path = self._directory / "parts" / f"{number:06}.npz"
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **part)

    def parts(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the computed rows, part by part, up to the first missing part."""
        for number in itertools.count():
            path = self._directory / "parts" / f"{number:06}.npz"
            if not path.exists():
                return
            try:
                with np.load(path) as arrays:
                    found = {name: arrays[name] for name in arrays.files}
            except Exception as error:  # zipfile and numpy may raise anything
                raise ModelError(f"{path}: damaged: {error}; train again from the start") from error
            yield found

    def save_forest(self, forest: bytes, curve: Sequence[float]) -> None:
        """Store the trees so far and the score after each."""
        replace_file(self._directory / f"forest-{len(curve)}.ubj", forest)
        # The curve comes last: its length names the forest.
        replace_file(self._directory / "curve.json", msgspec.json.encode(list(curve)))
        for path in self._directory.glob("forest-*.ubj"):
            if path.name != f"forest-{len(curve)}.ubj":
                path.unlink()

    def forest(self) -> tuple[bytes | None, list[float]]:
        """Return the trees so far, or None, and the score after each."""
        try:
            curve = msgspec.json.decode(
                (self._directory / "curve.json").read_bytes(), type=list[float]
            )
            return (self._directory / f"forest-{len(curve)}.ubj").read_bytes(), curve
        except (FileNotFoundError, *DECODE_ERRORS):
            return None, []
