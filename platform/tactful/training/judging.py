"""Figures of a trained forest on the lists that were held back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xgboost
from numpy.typing import NDArray

from tactful.ranking.calibration import Calibration, calibrate
from tactful.ranking.model import margins_of
from tactful.training.baselines import baselines
from tactful.training.evaluation import FIGURES, list_figures, list_metrics, user_intervals
from tactful.training.replay_rows import Rows
from tactful.training.shown_rows import ShownLists


def measure(
    margins: NDArray[np.float32],  # of the replayed lists
    forest: xgboost.Booster,
    judge: Rows,  # the replayed lists that were held back
    shown_judge: Rows,  # the shown ones
    relevant: Sequence[int],  # items that were taken, by held-back question
) -> dict[str, float]:
    """Compute the figures of a manifest, and those of orders without a model."""
    metrics = list_metrics(margins, judge.labels, judge.sizes, relevant)
    for name, scores in baselines(judge.features, judge.sizes).items():
        others = list_metrics(scores, judge.labels, judge.sizes, relevant)
        metrics |= {f"{measure}_{name}": others[measure] for measure in ("hr20", "ndcg20")}
    if len(shown_judge.sizes):
        ranked, served = _judge_shown(forest, shown_judge)
        metrics |= {"shown_ndcg": ranked, "shown_ndcg_as_served": served}
    return metrics


def _judge_shown(forest: xgboost.Booster, rows: Rows) -> tuple[float, float]:
    """Return the weighted NDCG of shown lists as the forest orders them, and as served."""
    scores = margins_of(forest, rows.features)
    ends = np.cumsum(rows.sizes)[:-1]
    gains = []
    for margins, labels in zip(np.split(scores, ends), np.split(rows.labels, ends), strict=True):
        place = int(np.argmax(labels))  # each of these lists holds one item that was taken
        above = int((margins > margins[place]).sum())
        gains.append((1.0 / np.log2(above + 2), 1.0 / np.log2(place + 2)))
    ranked, served = np.average(np.array(gains), axis=0, weights=rows.weights).tolist()
    return ranked, served


def calibrated(forest: xgboost.Booster, shown: ShownLists, judge: Rows) -> Calibration | None:
    """Calibrate on shown lists, or on all candidates where too little of those was taken."""
    if len(shown):
        half = int(shown.sizes[: len(shown) // 2].sum())
        margins = margins_of(forest, shown.features)
        calibration = calibrate(margins, shown.taken, half, "shown")
        if calibration is not None:
            return calibration
    half = int(judge.sizes[: len(judge.sizes) // 2].sum())
    margins = margins_of(forest, judge.features)
    return calibrate(margins, judge.labels, half, "candidates")


def intervals(
    forest: xgboost.Booster, judge: Rows, relevant: Sequence[int], users: NDArray[np.int64]
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each figure of the held-back lists."""
    if not len(judge.sizes):
        return {}
    margins = margins_of(forest, judge.features)
    bounds = user_intervals(list_figures(margins, judge.labels, judge.sizes, relevant), users)
    return {name: (low, high) for name, (low, high) in zip(FIGURES, bounds.tolist(), strict=True)}
