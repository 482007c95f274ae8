"""Train the ranker from the log, on lists that were shown and on lists by replay.

Shown lists hold what users did with what they saw; their features are those that were served. Lists
by replay hold what users took among all candidates, so that the model also ranks candidates that
are never shown; before anything was shown they are the only source. A model learns from both, of
the same days, and is judged on the latest of both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.event_log.batches import SharedReading, reach_of, reach_to
from tactful.ranking.features import column_names, columns_fingerprint, layout
from tactful.ranking.model import START, Manifest, gains, margins_of, save_model
from tactful.ranking.own_columns import own_columns
from tactful.recall.index import Improve, RecallIndex, build_index
from tactful.schemas.interactions import at_least
from tactful.schemas.models import Loss
from tactful.schemas.positions import Position
from tactful.training.ablation import losses
from tactful.training.beliefs import with_beliefs
from tactful.training.boosting import fit
from tactful.training.crossings import CrossingData, learn_crossings
from tactful.training.discovery import choose_discovery
from tactful.training.evaluation import NdcgByTree
from tactful.training.history import History
from tactful.training.intent_trust import INTENDED, IntendedList, fit_trust, replayed_lists
from tactful.training.judging import calibrated, intervals, measure
from tactful.training.kept_rows import Asked, Keeper, Kept
from tactful.training.options import TrainingOptions
from tactful.training.questions import Question, sample_questions
from tactful.training.replay_rows import Progress, Rows, collect, replay_engine
from tactful.training.shown_rows import ShownLists, ShownReading, examination
from tactful.training.two_tower import TowerOptions, learn_vectors, require_torch
from tactful.util.checkpoint import Checkpoint
from tactful.util.mapped_arrays import portions
from tactful.vectors.content import EncodedItems
from tactful_streaming.definitions.model import Definitions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.event_log import EventLog

_DAY = 86_400_000
_HOUR = 3_600_000


@dataclass(frozen=True)
class Trained:
    """Result of a training."""

    manifest: Manifest
    curve: list[float]  # NDCG@20 on the replayed lists that were held back, after each tree
    example: NDArray[np.float32]  # a few rows of features
    held_back: Rows  # the replayed lists that were held back, to judge others on
    held_back_at: NDArray[np.int64]  # time of each of them, epoch milliseconds
    reach: Position  # position up to which the log was read
    replayed_from: int = 0  # offset at which the replay began; 0: the beginning of the log
    resumed: bool = False  # whether it continued a training that was killed
    trees: int = 0  # trees that are used: up to the best one
    # 95 % interval over users of each figure of the held-back lists
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, Loss]] = field(default_factory=dict)  # see `ablation`


@dataclass(frozen=True)
class _Work:
    """Arguments of `train` besides the log."""

    definitions: Definitions
    options: TrainingOptions
    identity: Identity | None
    checkpoint: Checkpoint | None
    keeper: Keeper | None
    encoded: EncodedItems | None
    crossing: CrossingData | None
    progress: Progress


@dataclass(frozen=True)
class _LaidOut:
    """Rows of all lists, and the index of the whole log."""

    learn: Rows
    judge: Rows
    intended: NDArray[np.float32]  # made-up intents of `judge`: their columns, shape (n, 2)
    asked: Asked
    held_back: int  # number of questions in `learn`; the others are in `judge`
    shown: ShownLists
    reading: ShownReading  # of the log, for the intents of requests
    index: RecallIndex
    label: str
    until: int  # time at which the log ends, epoch milliseconds
    replayed_from: int


@dataclass(frozen=True)
class _Sets:
    """Lists to learn from, which a fit takes away, and later ones to judge on."""

    learn: list[Rows]
    judge: Rows
    shown_judge: Rows
    later: ShownLists  # those of the later ones that were shown
    looked: NDArray[np.float64]  # chance with which each place is looked at
    intended: NDArray[np.float32]  # made-up intents of `judge`: their columns
    logged: Sequence[IntendedList]  # shown lists of requests with an intent


def train(
    log: EventLog,
    definitions: Definitions,
    directory: Path,
    options: TrainingOptions,
    *,
    identity: Identity | None = None,
    checkpoint: Checkpoint | None = None,
    keeper: Keeper | None = None,
    encoded: EncodedItems | None = None,
    crossing: CrossingData | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Trained:
    """Train a ranking model from a log and write it to `directory`.

    With a keeper, only what is new since the last training is replayed, and rows of earlier
    questions are those of that training.

    Args:
        log: events, items, users and lists from the beginning.
        definitions: the features the server computes.
        directory: of the model.
        options: of the training.
        identity: rules by which the server joins devices to users.
        checkpoint: keeps finished steps: after a kill, the same training goes on to the same end.
        keeper: what the last training kept, and where this one keeps it for the next.
        encoded: vectors of items by an encoder, which place items without events.
        crossing: profiles that crossed from other domains; None where none cross.
        progress: called with stage, done and total.

    Raises:
        ModelError: if the log holds too little to learn from; the message names what is missing.
    """
    work = _Work(definitions, options, identity, checkpoint, keeper, encoded, crossing, progress)
    reach, resumed = _begin(log, work)
    laid = _lay_out(log, reach if isinstance(reach, int) else log.end, work)
    judge, asked, held_back = laid.judge, laid.asked, laid.held_back
    facts = _facts(laid)
    example, index, replayed_from = judge.features[:5], laid.index, laid.replayed_from
    sets = _split(laid, options)
    del laid
    relevant, users = asked.relevant[held_back:], asked.user[held_back:]
    forest, curve = _fit(sets, relevant, work)
    manifest = _manifest(options, definitions, forest, sets, relevant, **facts)
    save_model(directory, manifest, forest, index)
    return Trained(
        manifest,
        curve,
        example,
        judge,
        asked.at[held_back:],
        reach,
        replayed_from,
        resumed,
        trees=forest.num_boosted_rounds(),
        intervals=intervals(forest, judge, relevant.tolist(), users),
        losses=losses(forest, judge, relevant.tolist(), users, manifest.features),
    )


def _lay_out(log: EventLog, end: int, work: _Work) -> _LaidOut:
    """Read the log, replay what is new, and return the rows of old and new questions."""
    options, definitions = work.options, work.definitions
    history = _read_history(log, end, work.progress)
    label, until = options.label or history.label(), history.until
    taking = at_least(label, history.types)
    since = until - int(options.label_days * _DAY)
    meaning, columns = _columns(definitions)
    kept, about = Kept.none(columns), _about(work, label, ordered=history.ordered)
    if work.keeper is not None:
        work.keeper.copy_state()
        kept = work.keeper.load(about, columns, begin=log.begin).still_in(history, since)
    kept, questions = _sample(history, since, options, taking, kept)
    reading = ShownReading(meaning, since, until, options, taking, columns=columns)
    shared = SharedReading(log, reading.add, end)
    shared.finish(kept.offset)
    first = questions[0].offset if questions else None
    past, index = _indexes(history, work, first=first)
    asked = kept.asked.then(Asked.of(questions))
    held_back = max(int(len(asked) * (1.0 - options.validation)), kept.whole)
    of_new = max(held_back - len(kept.asked), 0)
    learn, judge = kept.divided(held_back, options)
    if past is not None:
        opened = partial(replay_engine, definitions, state=kept.state)
        new = collect(
            shared,
            opened,
            past,
            with_beliefs(questions, history, of_new),
            of_new,
            options,
            work.identity,
            work.progress,
            checkpoint=work.checkpoint,
            history=history,
        )
        learn, judge = (one.then(other) for one, other in zip((learn, judge), new, strict=True))
    shared.finish()
    if work.keeper is not None:
        work.keeper.save(about, end, asked, learn, judge)
    _without_intents(learn)
    intended = _without_intents(judge)
    return _LaidOut(
        learn,
        judge,
        intended,
        asked,
        held_back,
        reading.close(),
        reading,
        index,
        label,
        until,
        kept.offset,
    )


def _without_intents(rows: Rows) -> NDArray[np.float32]:
    """Take made-up intents out of rows and return them; they only teach the worth of intents."""
    intended = np.empty((len(rows.labels), len(INTENDED)), np.float32)
    begin = 0
    for part in portions(rows.features):
        intended[begin : begin + len(part)] = part[:, INTENDED]
        part[:, INTENDED] = np.nan
        begin += len(part)
    return intended


def _columns(definitions: Definitions) -> tuple[str, int]:
    """Return the meaning of the columns, and their number."""
    return layout(columns_fingerprint(definitions)), len(column_names(own_columns(definitions)))


def _about(work: _Work, label: str, *, ordered: bool) -> dict[str, Any]:
    """Return what rows of two trainings have in common, if they may be put together."""
    return {
        "options": asdict(work.options),
        "columns": list(_columns(work.definitions)),
        "label": label,
        "ordered": ordered,
        **({} if work.encoded is None else {"encoder": work.encoded.name}),
        "identity": None if work.identity is None else _sorted(asdict(work.identity)),
    }


def _sorted(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with each set in order, which differs between processes."""
    sets = (set, frozenset)
    return {name: sorted(it) if isinstance(it, sets) else it for name, it in values.items()}


def _facts(laid: _LaidOut) -> dict[str, Any]:
    """Return the facts of a manifest about the rows that were laid out."""
    labels = (laid.learn.labels, laid.judge.labels, laid.shown.taken)
    return {
        "data_hash": _hash(laid.learn, laid.judge, laid.shown),
        "rows": sum(map(len, labels)),
        "questions": len(laid.asked),
        "shown": len(laid.shown),
        "trained_until": laid.until,
        "label": laid.label,
    }


def _fit(
    sets: _Sets, relevant: NDArray[np.int64], work: _Work
) -> tuple[xgboost.Booster, list[float]]:
    """Fit the forest; the second value is NDCG@20 of the lists to judge on after each tree."""
    by_tree = NdcgByTree(sets.judge.labels, sets.judge.sizes, relevant.tolist())
    forest, _ = fit(
        sets.learn,
        (sets.judge, sets.shown_judge),
        work.options,
        checkpoint=work.checkpoint,
        progress=work.progress,
        watch=by_tree.add,
    )
    return forest, by_tree.values


def _manifest(
    options: TrainingOptions,
    definitions: Definitions,
    forest: xgboost.Booster,
    sets: _Sets,
    relevant: NDArray[np.int64],  # items that were taken, by held-back question
    **facts: Any,
) -> Manifest:
    judge, names = sets.judge, column_names(own_columns(definitions))
    margins = margins_of(forest, judge.features)
    discovery = choose_discovery(margins, judge.labels, judge.sizes, judge.features)
    metrics = measure(margins, forest, sets.judge, sets.shown_judge, relevant.tolist())
    metrics |= {f"discovery_{name}": value for name, value in discovery._asdict().items()}
    return Manifest(
        name=options.name,
        features=names,
        definitions=columns_fingerprint(definitions),
        start=START,
        looked=sets.looked.tolist(),
        metrics=metrics,
        discovery=discovery.share,
        trust=fit_trust(replayed_lists(judge, sets.intended, margins), sets.logged),
        gains=dict(gains(forest, names)),
        calibration=calibrated(forest, sets.later, sets.judge),
        **facts,
    )


def _read_history(log: EventLog, end: int, progress: Progress) -> History:
    history = History.read(log, until=end, progress=partial(progress, "read"))
    if not len(history.item):
        raise ModelError(
            "nothing to learn from: the log holds no event about a known item; send items, and "
            "views, clicks, carts or purchases of them first"
        )
    return history


def _sample(
    history: History, since: int, options: TrainingOptions, taking: Collection[str], kept: Kept
) -> tuple[Kept, list[Question]]:
    """Draw new questions, and as many of the kept ones as there is room for."""
    # At least half of the history remains for the recall of the questions.
    labels_from = max(since, int(np.median(history.timestamp)))
    share = 1.0
    if len(kept.asked):
        share = history.share_of_visits(labels_from, kept.until)
    drawn = replace(options, lists=math.ceil(share * options.lists))
    questions = sample_questions(history, labels_from, drawn, taking, after=kept.until)
    kept = kept.thinned(options.lists - len(questions), np.random.default_rng(options.seed))
    if len(kept.asked) + len(questions) < 20:
        days = (history.until - labels_from) / _DAY
        raise ModelError(
            f"only {len(questions)} questions in the last {days:.3g} days, whose answer is an item "
            f"with an event of type {' or '.join(sorted(taking))}; at least 20 are needed. Send "
            "more events, look further back with --label-days, or name a type with --label"
        )
    return kept, questions


def _split(laid: _LaidOut, options: TrainingOptions) -> _Sets:
    """Divide the shown lists in time as the others, and weigh how often each place is looked at.

    A list whose outcomes cross the cut is left out: what followed from it lies beyond.
    """
    cut = int(laid.asked.at[min(laid.held_back, len(laid.asked) - 1)])
    lasts = int(options.outcome_hours * _HOUR)
    earlier, later = laid.shown.between(0, cut - lasts), laid.shown.between(cut, laid.until)
    looked = np.ones(1)  # the same for all places where nothing is to be corrected
    if options.debias:
        seen = (earlier.features, earlier.taken, earlier.place)
        looked = examination(*seen, threads=options.threads, seed=options.seed)
    learn = [laid.learn, earlier.rows(looked)]
    logged = laid.reading.intended(looked)
    return _Sets(learn, laid.judge, later.rows(looked), later, looked, laid.intended, logged)


def _begin(log: EventLog, work: _Work) -> tuple[Position, bool]:
    """Return where the log ends for this training, and whether it continues a killed one."""
    options, checkpoint = work.options, work.checkpoint
    if options.vectors == "two_tower":
        require_torch()
    if checkpoint is None:
        return reach_of(log), False
    first = log.read(log.begin, 1)
    about: dict[str, Any] = {
        "options": asdict(options),
        "layout": layout(columns_fingerprint(work.definitions)),
        "encoder": "" if work.encoded is None else work.encoded.name,
        "log": [log.begin, hashlib.sha256(first[0][1]).hexdigest() if first else ""],
    }
    held = checkpoint.about() or {}
    end = held.pop("end", None)
    if held == about and reach_to(log, end):
        return end, True
    reach = reach_of(log)
    checkpoint.begin({**about, "end": reach})
    return reach, False


def _indexes(
    history: History, work: _Work, *, first: int | None
) -> tuple[RecallIndex | None, RecallIndex]:
    """Return the recall index of the log before the first question, and that of the whole log."""
    work.progress("index", 0, 2)
    past = None
    if first is not None:
        past = _index(history, work, "past", before=first)
    work.progress("index", 1, 2)
    whole = _index(history, work, "index")
    work.progress("index", 2, 2)
    return past, whole


def _index(history: History, work: _Work, name: str, *, before: int | None = None) -> RecallIndex:
    """Build the recall index of the log before an offset, or load it from the checkpoint."""
    options, checkpoint = work.options, work.checkpoint
    if checkpoint is not None and (place := checkpoint.place(name)).exists():
        return RecallIndex.load(place)
    improve: Improve | None = None
    if options.vectors == "two_tower":
        improve = partial(
            learn_vectors,
            options=TowerOptions(threads=options.threads, seed=options.seed),
            checkpoint=None if checkpoint is None else checkpoint.place(f"towers-{name}.pt"),
            progress=partial(work.progress, f"vectors of {name}"),
        )
    index = build_index(
        history.item_ids,
        history.interactions(before=before),
        items=history.descriptions(before=before),
        encoded=work.encoded,
        cohorts=history.cohorts(before=before),
        improve=improve,
        threads=options.threads,
    )
    if before is None:  # the index of earlier events does not serve
        index = replace(index, pairs=history.common_pairs(options.minimum_people))
        if work.crossing is not None:
            index = replace(index, crossings=learn_crossings(history, work.crossing))
    if checkpoint is None:
        return index
    index.save(checkpoint.place(name))
    # Loaded even if just built, so that a resumed training works with the very same index.
    return RecallIndex.load(checkpoint.place(name))


def _hash(learn: Rows, judge: Rows, shown: ShownLists) -> str:
    arrays: list[NDArray[Any]] = []
    for name in ("features", "labels", "sizes"):
        arrays += [getattr(learn, name), getattr(judge, name)]
    if len(shown):
        arrays += [shown.features, shown.taken, shown.sizes]
    digest = hashlib.sha256()
    for array in arrays:
        for part in portions(array):
            digest.update(part.view(np.uint8).data)
    return digest.hexdigest()
