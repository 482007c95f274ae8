"""Rows to learn from, by replay: lists that could have been asked for, as they would have been.

Point in time by construction: a second engine replays the log from its beginning; just before a
list would have been asked for, it is asked for the candidates and features the server would have
used at that moment. What the person then took are the positives. The recall index used for these
lists was built only from what the log held before the first of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import build_context
from tactful.ranking.features import RANKING_FEATURES, assemble
from tactful.recall.candidates import Popularity, Quotas, gather, popular_rows
from tactful.recall.index import RecallIndex
from tactful.recall.live_view import unlearned
from tactful.training.history import History
from tactful.training.options import TrainingOptions
from tactful.util.checkpoint import Checkpoint
from tactful.vectors.updatable_index import Snapshot
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.embedded_log import EventLog
from tactful_streaming.state.store import MemoryState

Progress = Callable[[str, int, int], None]
"""Told a stage, how much of it is done and how much there is."""

_DAY = 86_400_000
_CHUNK = 2_048
_PART = 256


@dataclass(frozen=True)
class Question:
    """A list that could have been asked for.

    Attributes:
        offset: log offset of the event it comes just before.
        at: when, epoch milliseconds.
        subject: key of the person in the engine, None for nobody.
        session_id: the visit; None where it is not told.
        positives: item ids that were taken.
        intent: what the device sends along, weight by category; None for nothing.
    """

    offset: int
    at: int
    subject: str | None
    session_id: str | None
    positives: frozenset[str]
    intent: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Rows:
    """Training rows, list by list.

    Attributes:
        features: shape (n, len(RANKING_FEATURES)).
        labels: whether the item was taken, shape (n,).
        sizes: rows of each list, shape (lists,).
        weights: what each list counts, shape (lists,).
    """

    features: NDArray[np.float32]
    labels: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    weights: NDArray[np.float32]

    @classmethod
    def none(cls) -> Rows:
        """No list."""
        width = len(RANKING_FEATURES)
        return cls(
            np.zeros((0, width), np.float32),
            np.zeros(0, np.bool_),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
        )

    def split(self, lists: int) -> tuple[Rows, Rows]:
        """The first so many lists, and the others."""
        cut = int(self.sizes[:lists].sum())
        return (
            Rows(self.features[:cut], self.labels[:cut], self.sizes[:lists], self.weights[:lists]),
            Rows(self.features[cut:], self.labels[cut:], self.sizes[lists:], self.weights[lists:]),
        )

    def and_(self, others: Rows) -> Rows:
        """These lists and others."""
        return Rows(
            np.concatenate([self.features, others.features]),
            np.concatenate([self.labels, others.labels]),
            np.concatenate([self.sizes, others.sizes]),
            np.concatenate([self.weights, others.weights]),
        )


def sample_questions(
    history: History, labels_from: int, options: TrainingOptions
) -> list[Question]:
    """Draw the lists to learn from, in log order.

    Args:
        history: what happened.
        labels_from: earliest start of a visit that may give lists, epoch milliseconds.
        options: the task and how many.

    Returns:
        At most `options.lists` questions.
    """
    task = options.task
    if task == "auto":
        task = "next" if history.ordered else "basket"
    candidates: list[Question] = []
    for visit in history.visits(labels_from):
        ids = [history.item_ids[row] for row in history.item[visit].tolist()]
        subject, session_id = history.subject_of(visit), history.session_id_of(visit)
        places = range(1, len(ids)) if task == "next" else range(1)
        for place in places:
            taken = ids[place : place + 1] if task == "next" else ids
            candidates.append(
                Question(
                    offset=int(history.offset[visit[place]]),
                    at=int(history.timestamp[visit[place]]),
                    subject=subject,
                    session_id=session_id,
                    positives=frozenset(taken),
                )
            )
    generator = np.random.default_rng(options.seed)
    count = min(options.lists, len(candidates))
    drawn = generator.permutation(len(candidates))[:count].tolist()
    return sorted((candidates[place] for place in drawn), key=lambda question: question.offset)


def collect(
    log: EventLog,
    definitions: Definitions,
    index: RecallIndex,
    questions: Sequence[Question],
    held_back: int,
    options: TrainingOptions,
    identity: Identity | None = None,
    progress: Progress = lambda stage, done, total: None,
    *,
    checkpoint: Checkpoint | None = None,
) -> Rows:
    """Replay the log and lay out the rows of every question as the server would have seen it.

    Args:
        log: from the beginning.
        definitions: the features to compute.
        index: recall index that knows nothing of the questions.
        questions: in log order.
        held_back: questions from this one on keep all their candidates; earlier ones keep the
            positives and a sample of the others.
        options: how many others, and the seed.
        identity: how the server joins devices to people.
        progress: told how far it is.
        checkpoint: keeps rows as they are laid out. The log is replayed again by who goes on, but
            only what is not there yet is laid out.

    Returns:
        The rows, each list counting 1.
    """
    engine = Engine(definitions, MemoryState(), identity=identity)
    quotas = Quotas()
    catalogue = Catalogue(index.item_ids, {})
    search = Snapshot.of(index.item_ids, index.nearest)
    popular = Popularity.of(np.zeros(0, np.int64), 0)
    version, day = -1, -1
    done = [] if checkpoint is None else checkpoint.parts()
    finished = sum(len(part["sizes"]) for part in done)
    parts: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.bool_]] = []

    def close_part() -> None:
        part = {
            "features": np.concatenate(parts),
            "labels": np.concatenate(labels),
            "sizes": np.array([len(it) for it in labels], np.int64),
        }
        if checkpoint is not None:
            checkpoint.save_part(len(done), part)
        done.append(part)
        parts.clear()
        labels.clear()

    for number, question in enumerate(_replay(engine, log, questions, progress)):
        if engine.items_version != version:
            version = engine.items_version
            catalogue = Catalogue(index.item_ids, engine.items)
            popular = popular.grown(catalogue.available)
            search = search.changed(unlearned(index, search, engine.items.values()))
        if question.at // _DAY != day:
            day = question.at // _DAY
            popular = popular_rows(engine, catalogue, index)
        if number < finished:
            continue
        context = build_context(
            engine,
            catalogue,
            subject=question.subject,
            session_id=question.session_id,
            at=question.at,
        )
        found = gather(
            index,
            search,
            catalogue,
            context,
            popular=popular,
            quotas=quotas,
            allowed=catalogue.available,
            intent=question.intent,
        )
        features = assemble(found, context, source=engine, catalogue=catalogue)
        taken = np.array(
            [catalogue.item_ids[row] in question.positives for row in found.rows.tolist()],
            np.bool_,
        )
        if number < held_back:
            generator = np.random.default_rng((options.seed + 1, number))
            kept = _thin(taken, options.negatives, generator)
            features, taken = features[kept], taken[kept]
        parts.append(features)
        labels.append(taken)
        if len(labels) == _PART:
            close_part()
    if labels:
        close_part()
    features, taken, sizes = (
        np.concatenate([part[name] for part in done]) for name in ("features", "labels", "sizes")
    )
    return Rows(features, taken, sizes, np.ones(len(sizes), np.float32))


def _replay(
    engine: Engine, log: EventLog, questions: Sequence[Question], progress: Progress
) -> Iterator[Question]:
    """Apply the log and stop just before the event of each question."""
    end = questions[-1].offset
    waiting, position = 0, log.begin
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
    """All positives and a sample of the others, in their order."""
    others = np.flatnonzero(~taken)
    if len(others) > negatives:
        others = generator.choice(others, size=negatives, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(taken), others]))
