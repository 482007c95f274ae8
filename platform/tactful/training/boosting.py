"""Train the forest: LambdaMART on the earlier lists, stopped by NDCG@20 on the later ones.

Trees grow in blocks. Every block starts from the trees so far and a seed of its own, so a training
that was killed grows the same trees as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xgboost
from numpy.typing import NDArray

from tactful.errors import ModelError
from tactful.training.options import TrainingOptions
from tactful.training.replay_rows import Progress, Rows
from tactful.util.checkpoint import Checkpoint

_BLOCK = 10
_BINS = 64


def fit(
    learn: Rows,
    judge: Rows,  # later lists, for early stopping
    options: TrainingOptions,
    *,
    checkpoint: Checkpoint | None = None,  # keeps the trees after each block
    progress: Progress = lambda stage, done, total: None,  # called with the stage `fit`
) -> tuple[xgboost.Booster, list[float]]:
    """Grow a forest; return it up to its best tree, and NDCG@20 of `judge` after each tree.

    LambdaMART (Burges, "From RankNet to LambdaRank to LambdaMART", 2010) of XGBoost, on the lists
    in which something was taken, each with its weight.

    Raises:
        ModelError: if no item was taken in all lists of one of the two.
    """
    training = _matrix(learn)
    validation = None if training is None else _matrix(judge, training)
    if training is None or validation is None:
        raise ModelError(
            "recall found none of the taken items, so there is nothing to rank: check that events "
            "carry the item ids of the catalogue"
        )
    total = options.rounds
    raw, curve = (None, []) if checkpoint is None else checkpoint.forest()
    while not _ended(curve, options):
        raw = _grow(
            raw, training, validation, options, curve, lambda: progress("fit", len(curve), total)
        )
        if checkpoint is not None:
            checkpoint.save_forest(raw, curve)
    progress("fit", total, total)
    forest = xgboost.Booster({"nthread": options.threads}, model_file=bytearray(raw or b""))
    return forest[: int(np.argmax(curve)) + 1], curve


def _grow(
    raw: bytes | None,
    training: xgboost.DMatrix,
    validation: xgboost.DMatrix,
    options: TrainingOptions,
    curve: list[float],
    grown: Callable[[], None],
) -> bytes:
    """Grow a block of trees on top of those so far, and append their figures to the curve."""
    start = len(curve)
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
        "max_bin": _BINS,
        "nthread": options.threads,
        "seed": options.seed * 1_000_003 + start,
    }
    before = None if raw is None else bytearray(raw)
    forest = xgboost.Booster(parameters, [training, validation], model_file=before)
    forest.set_param(parameters)
    for number in range(start, min(start + _BLOCK, options.rounds)):
        forest.update(training, number)
        figures = forest.eval_set([(validation, "validation")], number)
        curve.append(float(figures.rpartition(":")[2]))
        grown()
        if _ended(curve, options):
            break
    return bytes(forest.save_raw("ubj"))


def _ended(curve: list[float], options: TrainingOptions) -> bool:
    if len(curve) >= options.rounds:
        return True
    return bool(curve) and len(curve) - 1 - int(np.argmax(curve)) >= options.patience


def _matrix(rows: Rows, like: xgboost.DMatrix | None = None) -> xgboost.DMatrix | None:
    """Return the lists in which something was taken; None when there is none.

    The numbers are held as one of `_BINS` bins, those of the matrix `like`, if any: a byte each in
    place of eight.
    """
    lists = np.repeat(np.arange(len(rows.sizes)), rows.sizes)
    taken = np.bincount(lists, weights=rows.labels, minlength=len(rows.sizes)) > 0
    kept: NDArray[np.intp] = np.flatnonzero(taken)
    if not len(kept):
        return None
    inside = taken[lists]
    weights = rows.weights[kept]
    return xgboost.QuantileDMatrix(
        rows.features if inside.all() else rows.features[inside],
        rows.labels[inside].astype(np.float32),
        group=rows.sizes[kept],
        # Equal weights are left out: XGBoost then computes exactly as without weights.
        weight=None if (weights == weights[0]).all() else weights,
        max_bin=_BINS,
        ref=like,
    )
