"""Train the forest: LambdaMART on the earlier lists, stopped by NDCG@20 on the later ones.

Trees grow in blocks. Every block starts from the trees so far and a seed of its own, so a training
that was killed grows the same trees as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xgboost
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.model import START, start_of
from tactful.training.options import TrainingOptions
from tactful.training.replay_rows import Progress, Rows
from tactful.util.checkpoint import Checkpoint
from tactful.util.mapped_arrays import portions, release
from tactful.util.process_tuning import return_free_pages

_BLOCK = 10
_BINS = 64
_MEASURED = {"objective": "rank:ndcg", "eval_metric": "ndcg@20"}
# A larger weight of an intent never lowers an item of its category, nor raises another one.
_DIRECTIONS = {"intent_weight": 1, "intent_place": -1}
_PART = 256  # lists that are given to XGBoost at once


def fit(
    learn: list[Rows],  # emptied as soon as XGBoost has them
    judge: Sequence[Rows],  # later lists, for early stopping
    options: TrainingOptions,
    *,
    start: str = START,  # column whose logarithm the trees correct, see `start_of`; empty for none
    checkpoint: Checkpoint | None = None,  # keeps the trees after each block
    progress: Progress = lambda stage, done, total: None,  # called with the stage `fit`
    watch: Callable[[NDArray[np.float32]], None] | None = None,  # see below
) -> tuple[xgboost.Booster, list[float]]:
    """Grow a forest; return it up to its best tree, and NDCG@20 of `judge` after each tree.

    XGBoost's measure leaves out lists without an answer, and weighs the others: it only chooses the
    number of trees. `watch` is called after each tree, in order, with the scores of all rows of
    `judge[0]`; for a training that resumes also with those of earlier trees.

    LambdaMART (Burges, "From RankNet to LambdaRank to LambdaMART", 2010) of XGBoost, on the lists
    in which something was taken, each with its weight. The trees correct `start_of`.

    Raises:
        ModelError: if no item was taken in all lists of one of the two.
    """
    training, judged = _Batches(learn, start), _Judged(judge, start, options.threads, watch)
    if not training.lists or not judged.lists:
        raise ModelError(
            "recall found none of the taken items, so there is nothing to rank: check that events "
            "carry the item ids of the catalogue"
        )
    # Each number becomes one of `_BINS` bins.
    matrix = xgboost.QuantileDMatrix(training, max_bin=_BINS)
    del training
    learn.clear()
    return_free_pages()
    total = options.rounds
    raw, curve = (None, []) if checkpoint is None else checkpoint.forest()
    if raw is not None:
        before = xgboost.Booster({"nthread": options.threads}, model_file=bytearray(raw))
        for number in range(len(curve)):
            judged.add(before[: number + 1], number)
    while not _ended(curve, options):
        raw = _grow(raw, matrix, judged, options, curve, lambda: progress("fit", len(curve), total))
        if checkpoint is not None:
            checkpoint.save_forest(raw, curve)
    progress("fit", total, total)
    forest = xgboost.Booster({"nthread": options.threads}, model_file=bytearray(raw or b""))
    return forest[: int(np.argmax(curve)) + 1], curve


def fixed_parameters() -> dict[str, Any]:
    """Return the parameters of XGBoost that no option changes."""
    return {
        **_MEASURED,
        "lambdarank_pair_method": "topk",
        "lambdarank_num_pair_per_sample": 20,
        "min_child_weight": 5,
        "subsample": 0.8,
        "tree_method": "hist",
        "max_bin": _BINS,
    }


def _grow(
    raw: bytes | None,
    training: xgboost.DMatrix,
    judged: _Judged,
    options: TrainingOptions,
    curve: list[float],
    grown: Callable[[], None],
) -> bytes:
    """Grow a block of trees on top of those so far, and append their figures to the curve."""
    start = len(curve)
    parameters = {
        **fixed_parameters(),
        "monotone_constraints": _directions(training.num_col()),
        "max_depth": options.depth,
        "eta": options.learning_rate,
        "nthread": options.threads,
        "seed": options.seed * 1_000_003 + start,
    }
    before = None if raw is None else bytearray(raw)
    forest = xgboost.Booster(parameters, [training], model_file=before)
    forest.set_param(parameters)
    for number in range(start, min(start + _BLOCK, options.rounds)):
        forest.update(training, number)
        curve.append(judged.add(forest, number))
        grown()
        if _ended(curve, options):
            break
    return bytes(forest.save_raw("ubj"))


def _directions(columns: int) -> str:
    """Return the direction in which each column may move a score, 0 for both."""
    names = RANKING_FEATURES[:columns]
    return f"({','.join(str(_DIRECTIONS.get(name, 0)) for name in names)})"


class _Judged:
    """The lists to judge on: their scores by the trees so far.

    XGBoost computes the measure from the scores alone: a matrix of the rows would take 500 bytes
    for each.
    """

    def __init__(
        self,
        sets: Sequence[Rows],
        start: str,
        threads: int,
        watch: Callable[[NDArray[np.float32]], None] | None = None,
    ) -> None:
        self._watch, self._watched = watch, len(sets[0].labels)
        answered = [_answered(rows) for rows in sets]
        self.lists = sum(int(kept.sum()) for kept in answered)
        self._features = [rows.features for rows in sets if len(rows.sizes)]
        self._inside = np.concatenate(
            [np.repeat(kept, rows.sizes) for kept, rows in zip(answered, sets, strict=True)]
        )
        if not self.lists:
            return
        chosen = list(zip(answered, sets, strict=True))
        self._scores = np.concatenate(
            [start_of(part, start) for features in self._features for part in portions(features)]
        )
        self._matrix = xgboost.DMatrix(
            np.zeros((int(self._inside.sum()), 1), np.float32),
            np.concatenate([rows.labels for rows in sets])[self._inside].astype(np.float32),
            weight=_unequal(np.concatenate([rows.weights[kept] for kept, rows in chosen])),
            group=np.concatenate([rows.sizes[kept] for kept, rows in chosen]),
        )
        self._measure = xgboost.Booster({**_MEASURED, "nthread": threads}, [self._matrix])
        # Its first use seeds the random numbers of the process, which the trees draw from.
        self._measure.eval(self._matrix)

    def add(self, forest: xgboost.Booster, begin: int) -> float:
        """Add the trees of a forest from number `begin` on; return NDCG@20."""
        parts, at = [], 0
        trees = (begin, forest.num_boosted_rounds())
        for part in (part for features in self._features for part in portions(features)):
            before = self._scores[at : at + len(part)]
            parts.append(
                forest.inplace_predict(
                    part, iteration_range=trees, predict_type="margin", base_margin=before
                )
            )
            at += len(part)
        self._scores = np.concatenate(parts)
        if self._watch is not None:
            self._watch(self._scores[: self._watched])
        self._matrix.set_base_margin(self._scores[self._inside])
        return float(self._measure.eval(self._matrix).rpartition(":")[2])


def _ended(curve: list[float], options: TrainingOptions) -> bool:
    if len(curve) >= options.rounds:
        return True
    return bool(curve) and len(curve) - 1 - int(np.argmax(curve)) >= options.patience


class _Batches(xgboost.DataIter):
    """The lists in which something was taken, some at a time: they are never copied as a whole."""

    def __init__(self, sets: Sequence[Rows], start: str) -> None:
        weights = np.concatenate([rows.weights[_answered(rows)] for rows in sets])
        self.lists = len(weights)
        self._is_weighted = _unequal(weights) is not None
        self._sets, self._start = sets, start
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Begin again."""
        self._parts = (part for rows in self._sets for part in _parts(rows))

    def next(self, input_data: Callable[..., Any]) -> bool:
        """Pass the next lists to `input_data`; return whether there are any."""
        part = next(self._parts, None)
        if part is None:
            return False
        input_data(
            data=part.features,
            label=part.labels.astype(np.float32),
            base_margin=start_of(part.features, self._start),
            group=part.sizes,
            weight=part.weights if self._is_weighted else None,
        )
        return True


def _unequal(weights: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Return weights, None if all are equal: XGBoost then computes exactly as without weights."""
    return weights if (weights != weights[:1]).any() else None


def _answered(rows: Rows) -> NDArray[np.bool_]:
    """Return whether something was taken, for each list."""
    answered = np.zeros(len(rows.sizes), np.bool_)
    lists = np.searchsorted(np.cumsum(rows.sizes), np.flatnonzero(rows.labels), side="right")
    answered[lists] = True
    return answered


def _parts(rows: Rows) -> Iterator[Rows]:
    """Yield the lists in which something was taken, some at a time."""
    kept = _answered(rows)
    while len(kept):
        part, rows = rows.split(_PART)
        chosen, kept = kept[:_PART], kept[_PART:]
        if chosen.all():
            yield part
            release(part.features)
        elif chosen.any():
            inside = np.repeat(chosen, part.sizes)
            columns = (part.features[inside], part.labels[inside])
            yield Rows(*columns, part.sizes[chosen], part.weights[chosen])
