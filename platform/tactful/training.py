"""Train the ranker from the log: replay, ask at the right moments, learn from what came next.

Point in time by construction: a second engine replays the log from its beginning; just before a
list would have been asked for, it is asked for the candidates and features the server would have
used at that moment. What the person then took are the positives. The recall index used for these
lists was built only from what the log held before the first of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import xgboost
from numpy.typing import NDArray

from tactful.candidates import Popularity, Quotas, gather, popular_rows
from tactful.catalogue import Catalogue
from tactful.errors import ModelError
from tactful.evaluation import list_metrics
from tactful.features import RANKING_FEATURES, assemble
from tactful.history import History
from tactful.live_catalogue import unlearned
from tactful.live_index import Snapshot
from tactful.ranking import Manifest, gains, save_model
from tactful.recall import RecallIndex, build_index
from tactful.situation import observe
from tactful_streaming import Definitions, Engine, EventLog, Identity, MemoryState

Progress = Callable[[str, int, int], None]
"""Told a stage, how much of it is done and how much there is."""

_DAY = 86_400_000
_CHUNK = 2_048


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        name: registered model name.
        label_days: the last so many days before the end give the lists to learn from.
        lists: how many lists to learn from at most.
        negatives: candidates that were not taken, kept per training list.
        validation: share of the lists, the latest ones, kept to stop early and to measure.
        task: what a list is asked for: the whole ``basket`` before its first item, the ``next``
            item within a visit, or ``auto``: next where the items of a visit have an order.
        rounds: most trees.
        patience: stop when so many trees brought nothing.
        depth: of a tree.
        learning_rate: shrinkage.
        threads: used by XGBoost.
        seed: of everything drawn.
    """

    name: str = "ranker"
    label_days: float = 35.0
    lists: int = 8_000
    negatives: int = 40
    validation: float = 0.15
    task: Literal["auto", "basket", "next"] = "auto"
    rounds: int = 300
    patience: int = 25
    depth: int = 6
    learning_rate: float = 0.1
    threads: int = 2
    seed: int = 0


@dataclass(frozen=True)
class Question:
    """A list that could have been asked for.

    Attributes:
        offset: log offset of the event it comes just before.
        at: when, epoch milliseconds.
        subject: key of the person in the engine, None for nobody.
        session_id: the visit.
        positives: item ids that were taken.
    """

    offset: int
    at: int
    subject: str | None
    session_id: str
    positives: frozenset[str]


@dataclass(frozen=True)
class Rows:
    """Training rows, list by list.

    Attributes:
        features: shape (n, len(RANKING_FEATURES)).
        labels: whether the item was taken, shape (n,).
        sizes: rows of each list, in time order, shape (lists,).
    """

    features: NDArray[np.float32]
    labels: NDArray[np.bool_]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        manifest: of the model.
        curve: NDCG@20 on the validation lists after each tree.
        example: a few rows of features.
    """

    manifest: Manifest
    curve: list[float]
    example: NDArray[np.float32]


def train(
    log: EventLog,
    definitions: Definitions,
    directory: Path,
    options: TrainingOptions,
    *,
    kernels: Path | None = None,
    identity: Identity | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Trained:
    """Train a ranking model from a log and write it to `directory`.

    Args:
        log: events, items and users from the beginning.
        definitions: the features the server computes.
        directory: where the model goes.
        options: how.
        kernels: where compiled code is kept for the server; None leaves it to numba.
        identity: how the server joins devices to people.
        progress: told how far it is.

    Returns:
        What was trained.

    Raises:
        ModelError: if the log holds too little to learn from; the message says what is missing.
    """
    history = History.read(log, progress=lambda done, total: progress("read", done, total))
    if not len(history.item):
        raise ModelError(
            "nothing to learn from: the log holds no add_to_cart or purchase of a known item; "
            "send items and such events first"
        )
    until = int(history.timestamp.max()) + 1
    labels_from = until - int(options.label_days * _DAY)
    questions = sample_questions(history, labels_from, options)
    if len(questions) < 20:
        raise ModelError(
            f"only {len(questions)} visits in the last {options.label_days:g} days; at least 20 "
            "are needed. Send more events, or look further back with --label-days"
        )
    progress("index", 0, 2)
    first = questions[0].offset
    past = build_index(
        history.item_ids,
        history.interactions(before=first),
        items=history.descriptions(before=first),
        threads=options.threads,
    )
    progress("index", 1, 2)
    index = build_index(
        history.item_ids,
        history.interactions(),
        items=history.descriptions(),
        threads=options.threads,
    )
    progress("index", 2, 2)

    held_back = int(len(questions) * (1.0 - options.validation))
    rows = collect(log, definitions, past, questions, held_back, options, identity, progress)
    forest, curve, metrics = _fit(rows, questions, held_back, options, progress)
    manifest = Manifest(
        name=options.name,
        features=RANKING_FEATURES,
        definitions=definitions.fingerprint,
        trained_until=until,
        data_hash=_hash(rows),
        rows=len(rows.labels),
        questions=len(questions),
        metrics=metrics,
        gains=dict(gains(forest, RANKING_FEATURES)),
    )
    save_model(directory, manifest, forest, index, kernels=kernels)
    return Trained(manifest, curve, rows.features[:5])


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

    Returns:
        The rows.
    """
    engine = Engine(definitions, MemoryState(), identity=identity)
    generator = np.random.default_rng(options.seed + 1)
    quotas = Quotas()
    catalogue = Catalogue(index.item_ids, {})
    search = Snapshot.of(index.item_ids, index.nearest)
    popular = Popularity.of(np.zeros(0, np.int64), 0)
    version, day = -1, -1
    parts: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.bool_]] = []
    for number, question in enumerate(_replay(engine, log, questions, progress)):
        if engine.items_version != version:
            version = engine.items_version
            catalogue = Catalogue(index.item_ids, engine.items)
            popular = popular.grown(catalogue.available)
            search = search.changed(unlearned(index, search, engine.items.values()))
        if question.at // _DAY != day:
            day = question.at // _DAY
            popular = popular_rows(engine, catalogue, index)
        situation = observe(
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
            situation,
            popular=popular,
            quotas=quotas,
            allowed=catalogue.available,
        )
        features = assemble(found, situation, source=engine, catalogue=catalogue)
        taken = np.array(
            [catalogue.item_ids[row] in question.positives for row in found.rows.tolist()],
            np.bool_,
        )
        if number < held_back:
            kept = _thin(taken, options.negatives, generator)
            features, taken = features[kept], taken[kept]
        parts.append(features)
        labels.append(taken)
    return Rows(
        features=np.concatenate(parts),
        labels=np.concatenate(labels),
        sizes=np.array([len(part) for part in labels], np.int64),
    )


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


def _fit(
    rows: Rows,
    questions: Sequence[Question],
    held_back: int,
    options: TrainingOptions,
    progress: Progress,
) -> tuple[xgboost.Booster, list[float], dict[str, float]]:
    """LambdaMART on the earlier lists, stopped by NDCG@20 on the later ones."""
    bounds = np.concatenate([[0], np.cumsum(rows.sizes)])
    cut = int(bounds[held_back])
    learn = _matrix(rows, 0, held_back, bounds)
    judge = _matrix(rows, held_back, len(rows.sizes), bounds)
    if learn is None or judge is None:
        raise ModelError(
            "recall found nothing of what was taken, so there is nothing to rank: check that "
            "events carry the item ids of the catalogue"
        )
    curve: dict[str, dict[str, list[float]]] = {}
    parameters = {
        "objective": "rank:ndcg",
        "eval_metric": "ndcg@20",
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": 20,
        "max_depth": options.depth,
        "eta": options.learning_rate,
        "min_child_weight": 5,
        "subsample": 0.8,
        "tree_method": "hist",
        "max_bin": 64,
        "nthread": options.threads,
        "seed": options.seed,
    }
    forest = xgboost.train(
        parameters,
        learn,
        options.rounds,
        evals=[(judge, "validation")],
        evals_result=curve,
        early_stopping_rounds=options.patience,
        verbose_eval=False,
        callbacks=[_Report(options.rounds, progress)],
    )
    forest = forest[: forest.best_iteration + 1]
    scores = forest.inplace_predict(rows.features[cut:], predict_type="margin")
    metrics = list_metrics(
        scores,
        rows.labels[cut:],
        rows.sizes[held_back:],
        [len(question.positives) for question in questions[held_back:]],
    )
    progress("fit", options.rounds, options.rounds)
    return forest, curve["validation"]["ndcg@20"], metrics


def _matrix(rows: Rows, first: int, last: int, bounds: NDArray[np.int64]) -> xgboost.DMatrix | None:
    """The lists [first, last) that hold a positive; None when none does."""
    kept: list[NDArray[np.int64]] = []
    sizes: list[int] = []
    for number in range(first, last):
        start, end = int(bounds[number]), int(bounds[number + 1])
        if rows.labels[start:end].any():
            kept.append(np.arange(start, end))
            sizes.append(end - start)
    if not kept:
        return None
    chosen = np.concatenate(kept)
    return xgboost.DMatrix(
        rows.features[chosen], rows.labels[chosen].astype(np.float32), group=np.array(sizes)
    )


class _Report(xgboost.callback.TrainingCallback):
    """Tell the progress after each tree."""

    def __init__(self, rounds: int, progress: Progress) -> None:
        super().__init__()
        self._rounds = rounds
        self._progress = progress

    def after_iteration(self, model: xgboost.Booster, epoch: int, evals_log: object) -> bool:
        """Report; never ask to stop."""
        self._progress("fit", epoch + 1, self._rounds)
        return False


def _hash(rows: Rows) -> str:
    digest = hashlib.sha256()
    for array in (rows.features, rows.labels, rows.sizes):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def plot_training(trained: Trained, directory: Path) -> dict[str, Path]:
    """Draw the learning curve and what each feature brought.

    Args:
        trained: what was trained.
        directory: where the pictures go; it is made.

    Returns:
        Path by picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    curve = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(curve)
    axis = curve.subplots()
    axis.plot(range(1, len(trained.curve) + 1), trained.curve)
    axis.set(xlabel="trees", ylabel="NDCG@20 on later lists", title="Learning curve")
    gain = Figure(figsize=(7, 7), layout="constrained")
    FigureCanvasAgg(gain)
    axis = gain.subplots()
    names = list(trained.manifest.gains)[::-1]
    axis.barh(names, [trained.manifest.gains[name] for name in names])
    axis.set(xlabel="total gain", title="What each feature brought")
    paths = {"learning_curve": directory / "learning_curve.png", "gain": directory / "gain.png"}
    curve.savefig(paths["learning_curve"], dpi=110)
    gain.savefig(paths["gain"], dpi=110)
    return paths
