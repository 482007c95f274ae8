"""Rows and state that a training keeps, so that the next one replays new records alone.

::

    kept/about.json   meaning of the rows, and how far they reach
    kept/rows.npz     rows of the questions that were asked, with their places in the log
    kept/state/       features of all users at an offset: a copy of the state of the server

The next training opens a second engine on the copy, replays the log from there, and asks about new
visits alone. The history is still read as a whole: a question whose event is no longer in it, after
a withdrawn consent or by retention, is left out. An erasure deletes everything kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.training.history import History
from tactful.training.options import TrainingOptions
from tactful.training.questions import Question
from tactful.training.replay_rows import Rows
from tactful.util.checkpoint import Checkpoint
from tactful.util.mapped_arrays import save_arrays
from tactful_privacy.durable_files import replace_file, replacing
from tactful_streaming.definitions.model import Definitions, dump_definitions
from tactful_streaming.errors import StateError
from tactful_streaming.state.key_layout import read_meta
from tactful_streaming.state.store import copy_state, open_beside

logger = logging.getLogger(__name__)

_COLUMNS = ("offset", "at", "relevant", "user")
_ROWS = ("features", "labels", "sizes", "weights")
_ROOM = 3  # free space by the size of the state: a copy may not fill the disk of the log


@dataclass(frozen=True)
class Asked:
    """Questions in log order, as columns of equal length."""

    offset: NDArray[np.int64]  # log offset of the event that each comes just before
    at: NDArray[np.int64]  # time of each, epoch milliseconds
    relevant: NDArray[np.int64]  # number of items that were taken
    user: NDArray[np.int64]  # a number of the user, the same for all of their questions

    @classmethod
    def of(cls, questions: Sequence[Question]) -> Asked:
        """Return the columns of some questions."""
        values = [(it.offset, it.at, len(it.positives), _number(it)) for it in questions]
        return cls(*np.array(values, np.int64).reshape(-1, len(_COLUMNS)).T)

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.offset)

    def then(self, later: Asked) -> Asked:
        """Return these questions and later ones."""
        return Asked(
            *(np.concatenate([getattr(it, name) for it in (self, later)]) for name in _COLUMNS)
        )


def _number(question: Question) -> int:
    """Return a number of the user; a question of no user has one of its own."""
    name = f"offset {question.offset}" if question.subject is None else question.subject
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class _About(msgspec.Struct, frozen=True):
    """Identity of kept rows."""

    meaning: dict[str, Any]
    until: int  # offset before which questions were asked
    offset: int  # that of the state


@dataclass(frozen=True)
class Kept:
    """Rows of an earlier training, in log order, and where a replay can begin.

    Attributes:
        asked: the questions.
        rows: their rows.
        whole: from this question on, all candidates are kept; before, a sample.
        until: offset from which on nothing was asked.
        offset: that of the state; 0 if there is none.
        state: copy of the state; None if nothing is kept.
    """

    asked: Asked
    rows: Rows
    whole: int = 0
    until: int = 0
    offset: int = 0
    state: Path | None = None

    @classmethod
    def none(cls, columns: int) -> Kept:
        """Return rows of no question."""
        return cls(Asked.of([]), Rows.none(columns))

    def still_in(self, history: History, since: int) -> Kept:
        """Leave out questions before `since`, epoch milliseconds, and those of lost events."""
        found = np.searchsorted(history.offset, self.asked.offset)
        found = np.minimum(found, len(history.offset) - 1)
        same = history.offset[found] == self.asked.offset
        same &= history.timestamp[found] == self.asked.at
        return self._chosen(np.flatnonzero(same & (self.asked.at >= since)))

    def thinned(self, most: int, generator: np.random.Generator) -> Kept:
        """Keep a sample of the questions where there are more than `most`."""
        if len(self.asked) <= most:
            return self
        return self._chosen(np.sort(generator.permutation(len(self.asked))[:most]))

    def divided(self, lists: int, options: TrainingOptions) -> tuple[Rows, Rows]:
        """Return the rows of the first so many lists, to learn from, and those of the others."""
        learn, judge = self.rows.split(lists)
        if lists <= self.whole:
            return learn, judge
        sampled, all_candidates = learn.split(self.whole)
        return sampled.then(all_candidates.thinned(options.negatives, options.seed + 1)), judge

    def _chosen(self, questions: NDArray[np.intp]) -> Kept:
        if len(questions) == len(self.asked):
            return self
        asked = Asked(*(getattr(self.asked, name)[questions] for name in _COLUMNS))
        whole = int(np.searchsorted(questions, self.whole))
        return replace(self, asked=asked, rows=self.rows.of_lists(questions), whole=whole)


class Keeper:
    """Reads what the last training kept, and keeps what the next one needs.

    It is kept once :meth:`Checkpoint.end` has put it in the place of the former.
    """

    def __init__(self, checkpoint: Checkpoint, state: Path, definitions: Definitions) -> None:
        """Keep in the directory of a checkpoint; `state` is that of the server."""
        self._checkpoint = checkpoint
        self._state = state
        self._definitions = dump_definitions(definitions)

    @property
    def _next(self) -> Path:
        return self._checkpoint.place("next")

    def load(self, meaning: Mapping[str, Any], columns: int, *, begin: int) -> Kept:
        """Return what was kept by a training of this meaning, or nothing.

        The log, which begins at offset `begin`, must hold all that the state does not.
        """
        place = self._checkpoint.place("kept")
        nothing = Kept.none(columns)
        try:
            about = msgspec.json.decode((place / "about.json").read_bytes(), type=_About)
            if about.meaning != meaning or about.offset < begin:
                return nothing
            if not (place / "state" / "CURRENT").is_file():
                return nothing
            with np.load(place / "rows.npz") as arrays:
                asked = Asked(*(arrays[name] for name in _COLUMNS))
                whole = len(arrays["learn_sizes"])
                rows = Rows(
                    *(
                        np.concatenate([arrays[f"{part}_{name}"] for part in ("learn", "judge")])
                        for name in _ROWS
                    )
                )
        except FileNotFoundError:
            return nothing
        except Exception as error:  # zipfile and numpy may raise anything
            logger.warning("%s: what the last training kept is not used: %s", place, error)
            return nothing
        if rows.features.shape[1:] != (columns,) or len(rows.sizes) != len(asked):
            return nothing
        return Kept(asked, rows, whole, about.until, about.offset, place / "state")

    def copy_state(self) -> None:
        """Copy the present state of the server, if there is one."""
        place = self._next / "state"
        if place.exists() or not (self._state / "CURRENT").is_file():
            return
        unfinished = self._next / "copying"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._next.mkdir(exist_ok=True)
        try:
            size = sum(file.stat().st_size for file in self._state.iterdir())
            if shutil.disk_usage(self._next).free < _ROOM * size:
                logger.warning(
                    "%s: no room for a copy of the state: the next training will replay the whole "
                    "log; free %d MB to prevent that",
                    self._next,
                    _ROOM * size >> 20,
                )
                return
            copy_state(self._state, unfinished)
            unfinished.rename(place)
        except (StateError, OSError) as error:
            logger.warning("the next training will replay the whole log: %s", error)

    def save(
        self, meaning: Mapping[str, Any], until: int, asked: Asked, learn: Rows, judge: Rows
    ) -> None:
        """Keep the rows of all questions that were asked before offset `until`."""
        try:
            with contextlib.closing(open_beside(self._next / "state")) as store:
                meta = read_meta(store)
        except StateError:
            return
        if meta is None or meta.missing or meta.definitions != self._definitions:
            return  # features would differ from those of a replay
        arrays = {name: getattr(asked, name) for name in _COLUMNS}
        for part, rows in (("learn", learn), ("judge", judge)):
            arrays |= {f"{part}_{name}": getattr(rows, name) for name in _ROWS}
        with replacing(self._next / "rows.npz") as file:
            save_arrays(file, arrays)
        about = _About(dict(meaning), until=max(until, meta.offset), offset=meta.offset)
        replace_file(self._next / "about.json", msgspec.json.encode(about))
