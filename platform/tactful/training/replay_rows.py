"""Training rows by replay: requests that could have been made, with the features of that moment.

Point in time by construction: a second engine replays the log from its beginning, or from a state
of the server. Just before a request would have been made, the rows get the candidates and features
the server would have used then. The positives are the items that the user then took. The recall
index of these requests is built only from the log before the first of them.
"""

from __future__ import annotations

import gc
import math
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Container,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import build_context
from tactful.event_log.batches import Readable
from tactful.ranking.features import RANKING_FEATURES, assemble
from tactful.ranking.own_columns import own_columns
from tactful.recall.candidates import CatalogueView, Quotas, gather
from tactful.recall.index import RecallIndex
from tactful.recall.live_view import unlearned
from tactful.recall.popularity import Popularity, popular_rows
from tactful.training.history import History
from tactful.training.options import TrainingOptions
from tactful.training.questions import Question
from tactful.util.checkpoint import Checkpoint
from tactful.util.mapped_arrays import mapped, release
from tactful.util.process_tuning import drop_code, return_free_pages
from tactful.vectors.ivf_index import Snapshot
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Item
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity, unclaimed_key
from tactful_streaming.state.store import MemoryState, RocksState

Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""

_DAY = 86_400_000
_HOUR = 3_600_000
_CHUNK = 2_048
_PART = 256
_LOADED_BYTES = 64 << 20  # of a stored state; other users are read when they are needed
_IDS = 100_000  # a repetition comes soon after the event: it is a retry


@dataclass(frozen=True)
class Rows:
    """Training rows, list by list."""

    features: NDArray[np.float32]  # shape (n, columns)
    labels: NDArray[np.bool_]  # whether the item was taken, shape (n,)
    sizes: NDArray[np.int64]  # rows of each list, shape (lists,)
    weights: NDArray[np.float32]  # weight of each list, shape (lists,)

    @classmethod
    def none(cls, columns: int = len(RANKING_FEATURES)) -> Rows:
        """Return rows of no list."""
        features = np.zeros((0, columns), np.float32)
        return cls(features, np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0, np.float32))

    def split(self, lists: int) -> tuple[Rows, Rows]:
        """Return the first so many lists, and the others."""
        cut = int(self.sizes[:lists].sum())
        return (
            Rows(self.features[:cut], self.labels[:cut], self.sizes[:lists], self.weights[:lists]),
            Rows(self.features[cut:], self.labels[cut:], self.sizes[lists:], self.weights[lists:]),
        )

    def of_lists(self, lists: NDArray[np.intp]) -> Rows:
        """Return some of the lists, by their numbers in ascending order."""
        chosen = np.zeros(len(self.sizes), np.bool_)
        chosen[lists] = True
        rows = np.repeat(chosen, self.sizes)
        return Rows(self.features[rows], self.labels[rows], self.sizes[lists], self.weights[lists])

    def then(self, later: Rows) -> Rows:
        """Return these lists and later ones."""
        if not len(self.sizes) or not len(later.sizes):
            return later if len(later.sizes) else self
        return Rows(
            np.concatenate([self.features, later.features]),
            np.concatenate([self.labels, later.labels]),
            np.concatenate([self.sizes, later.sizes]),
            np.concatenate([self.weights, later.weights]),
        )

    def thinned(self, negatives: int, seed: int) -> Rows:
        """Return all taken items of each list, and at most so many others by chance."""
        if not len(self.sizes):
            return self
        begins = np.cumsum(self.sizes) - self.sizes
        kept = [
            begin + _thin(taken, negatives, np.random.default_rng((seed, number)))
            for number, (begin, taken) in enumerate(
                zip(begins.tolist(), np.split(self.labels, begins[1:]), strict=True)
            )
        ]
        rows, sizes = np.concatenate(kept), np.array([len(it) for it in kept], np.int64)
        return Rows(self.features[rows], self.labels[rows], sizes, self.weights)


def collect(
    log: Readable,
    opened: Callable[[EngineOptions], Engine],  # see `replay_engine`
    index: RecallIndex,  # recall index of the log before the first question
    questions: Sequence[Question],  # in log order
    held_back: int,  # from this question on, all candidates are kept; before, a sample
    options: TrainingOptions,  # number of the others, and the seed
    identity: Identity | None = None,  # rules by which the server joins devices to users
    progress: Progress = lambda stage, done, total: None,  # called with the stage `replay`
    *,
    checkpoint: Checkpoint | None = None,
    history: History | None = None,  # of the log: items before their description, users of devices
) -> tuple[Rows, Rows]:
    """Replay the log and lay out the rows of every request as the server would have.

    Returns those to learn from and those that are held back. Each list counts 1. A training resumed
    from a checkpoint replays the log again, but lays out only the missing rows.
    """
    met = None if history is None else history.met
    tracked = {} if met is None else _tracked(questions, met)
    engine = opened(EngineOptions(identity=identity, most_ids=_IDS, tracked=tracked))
    view = _View(engine, index, () if history is None else history.undescribed())
    parts = _Parts(checkpoint)
    finished = parts.lists
    for number, question in enumerate(_replay(engine, log, questions, progress)):
        view.update(question)
        if number < finished:
            continue
        features, taken = view.rows(question)
        if number == finished:
            drop_code()  # of the compiler: by now it has loaded the kernels
        if number < held_back:
            generator = np.random.default_rng((options.seed + 1, number))
            kept = _thin(taken, options.negatives, generator)
            features, taken = features[kept], taken[kept]
        parts.add(features, taken)
    # The state of the engine is as large as the rows, which the trees need next.
    engine.close()
    del engine, view
    gc.collect()
    return_free_pages()
    drop_code()
    return parts.close(held_back)


def replay_engine(
    definitions: Definitions, options: EngineOptions, *, state: Path | None = None
) -> Engine:
    """Open an engine that never commits, on a copy of a server's state or on an empty one."""
    if state is None:
        return Engine(definitions, MemoryState(), options)
    options = replace(options, memory_bytes=_LOADED_BYTES)
    return Engine(definitions, RocksState(state), options)


def _tracked(
    questions: Sequence[Question], met: Collection[tuple[str, str]]
) -> Mapping[str, Container[str]]:
    """Return the users and visits whose features are asked for.

    The history of a device may be that of a user it met, and of users that of devices they met.
    """
    asked = {question.subject for question in questions if question.subject is not None}
    users = asked | {user for user, device in met if device in asked}
    devices = {device for user, device in met if user in users} | asked
    unclaimed = {unclaimed_key(device.removeprefix(DEVICE_PREFIX)) for device in devices}
    visits = {question.session_id for question in questions if question.session_id is not None}
    return {"user": users | devices | unclaimed, "session": visits}


class _View:
    """Catalogue, index and popularity of the server at the present place of a replay."""

    def __init__(
        self, engine: Engine, index: RecallIndex, undescribed: Sequence[tuple[int, Item]]
    ) -> None:
        self._engine = engine
        self._index = index
        self._own = own_columns(engine.definitions)
        self._undescribed = deque(undescribed)
        self._dealt_with: dict[str, Item] = {}
        self._quotas = Quotas()
        self._catalogue = Catalogue(index.item_ids, {})
        self._search = Snapshot.of(index.item_ids, index.nearest)
        self._popular = Popularity.of(np.zeros(0, np.int64), 0)
        self._version, self._day, self._shown = -1, -1, 0

    def update(self, question: Question) -> None:
        """Follow the engine: new items at once, popularity on each new day."""
        engine, index = self._engine, self._index
        while self._undescribed and self._undescribed[0][0] < question.offset:
            _, item = self._undescribed.popleft()
            self._dealt_with[item.item_id] = item
        # A new catalogue costs more than a question: it waits until a twentieth has come.
        grown = len(self._dealt_with) > 1.05 * self._shown
        if engine.items_version != self._version or grown:
            self._version, self._shown = engine.items_version, len(self._dealt_with)
            items = {**self._dealt_with, **engine.items}
            self._catalogue = Catalogue(index.item_ids, items)
            self._popular = self._popular.grown(self._catalogue.available)
            added = unlearned(index, self._search, items.values())
            self._search = self._search.changed(added)
        # Popularity of the present changes by the hour.
        day = question.at // (_HOUR if index.blends.popular == "now" else _DAY)
        if day != self._day:
            self._day = day
            self._popular = popular_rows(engine, self._catalogue, index)

    def rows(self, question: Question) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the features of all candidates of a request, and whether each was taken."""
        catalogue = self._catalogue
        context = build_context(
            self._engine,
            catalogue,
            subject=question.subject,
            session_id=question.session_id,
            at=question.at,
        )
        candidates = gather(
            CatalogueView(self._index, self._search, catalogue, self._popular),
            context,
            quotas=self._quotas,
            allowed=catalogue.available,
            intent=question.intent,
        )
        features = assemble(
            candidates, context, source=self._engine, catalogue=catalogue, own=self._own
        )
        # Rows of the few positives: the ids of all candidates took as long as their features.
        taken = [row for row in catalogue.rows.of_many([*question.positives]) if row is not None]
        return features, np.isin(candidates.rows, taken)


class _Parts:
    """Rows laid out so far; with a checkpoint, all but the latest 256 lists are on disk alone."""

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._saved: list[dict[str, NDArray[Any]]] = []  # without a checkpoint
        self._features: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.bool_]] = []
        self._all_labels: list[NDArray[np.bool_]] = []
        saved = () if checkpoint is None else checkpoint.parts()
        for part in saved:
            self._all_labels += np.split(part["labels"], np.cumsum(part["sizes"])[:-1])
        self._number = math.ceil(self.lists / _PART)

    @property
    def lists(self) -> int:
        """Number of lists so far."""
        return len(self._all_labels)

    def add(self, features: NDArray[np.float32], labels: NDArray[np.bool_]) -> None:
        self._features.append(features)
        self._labels.append(labels)
        self._all_labels.append(labels)
        if len(self._labels) == _PART:
            self._save()

    def close(self, lists: int) -> tuple[Rows, Rows]:
        """Return the first so many lists, and the others; with a checkpoint, in files."""
        if self._labels:
            self._save()
        sizes = np.array([len(labels) for labels in self._all_labels], np.int64)
        labels = np.concatenate(self._all_labels)
        cut = int(sizes[:lists].sum())
        halves: list[NDArray[np.float32]] = []
        # Part by part, so that they are never in memory twice.
        begin = 0
        for part in self._parts():
            rows = part.pop("features")
            if not halves:
                shapes = ((count, rows.shape[1]) for count in (cut, len(labels) - cut))
                halves = [self._empty(shape) for shape in shapes]
            first = rows[: max(cut - begin, 0)]
            halves[0][begin : begin + len(first)] = first
            after = max(begin - cut, 0)
            halves[1][after : after + len(rows) - len(first)] = rows[len(first) :]
            begin += len(rows)
            for half in halves:
                release(half)
        ones = np.ones(len(sizes), np.float32)
        return (
            Rows(halves[0], labels[:cut], sizes[:lists], ones[:lists]),
            Rows(halves[1], labels[cut:], sizes[lists:], ones[lists:]),
        )

    def _empty(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        if self._checkpoint is None:
            return np.empty(shape, np.float32)
        return mapped(shape, self._checkpoint.place("rows").parent)

    def _parts(self) -> Iterable[dict[str, NDArray[Any]]]:
        return self._saved if self._checkpoint is None else self._checkpoint.parts()

    def _save(self) -> None:
        part = {
            "features": np.concatenate(self._features),
            "labels": np.concatenate(self._labels),
            "sizes": np.array([len(labels) for labels in self._labels], np.int64),
        }
        if self._checkpoint is None:
            self._saved.append(part)
        else:
            self._checkpoint.save_part(self._number, part)
        self._number += 1
        self._features.clear()
        self._labels.clear()


def _replay(
    engine: Engine, log: Readable, questions: Sequence[Question], progress: Progress
) -> Iterator[Question]:
    """Apply the log, and yield each question just before its event is applied."""
    end = questions[-1].offset
    waiting, position = 0, max(log.begin, engine.offset)
    while waiting < len(questions):
        records = log.read(position, _CHUNK)
        applied = 0
        while waiting < len(questions) and questions[waiting].offset <= position + len(records):
            until = questions[waiting].offset - position
            if until > applied:
                engine.apply(records[applied:until])
                applied = until
            yield questions[waiting]
            waiting += 1
        engine.apply(records[applied:])
        position += len(records)
        progress("replay", min(position, end), end)
    progress("replay", end, end)


def _thin(
    taken: NDArray[np.bool_], negatives: int, generator: np.random.Generator
) -> NDArray[np.intp]:
    """Return the rows of all positives and a sample of the others, in their order."""
    others = np.flatnonzero(~taken)
    if len(others) > negatives:
        others = generator.choice(others, size=negatives, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(taken), others]))
