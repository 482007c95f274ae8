"""Ranking alone: the compiled kernel against XGBoost, on one forest and the same candidates.

The forest is learned from made-up rows of our own width: some columns are the same for the whole
list, as what is known of a person is, some are counts, some have gaps. What counts for speed is its
size, 300 trees of depth 6, the product's default of at most so many.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import xgboost
from numpy.typing import NDArray

from benchmarks.figures import Figure, interleave, percentile_figure
from tactful.kernels.forest import load_kernel
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.forest import BinnedForest, bin_forest

CANDIDATES = 1_000
_TREES = 300
_DEPTH = 6
_COLUMNS = len(RANKING_FEATURES)
_T = TypeVar("_T")


def ranking_figures(quick: bool) -> list[Figure]:
    """Equality first, then speed, then what a first start and a later one cost."""
    with (
        tempfile.TemporaryDirectory(prefix="tactful-bench-") as name,
        patch.dict(os.environ, NUMBA_CACHE_DIR=name),
    ):
        kernel, compile_s = _seconds(load_kernel.__wrapped__)
        _, load_s = _seconds(load_kernel.__wrapped__)
    forests = [
        forest(objective, seed, trees=60 if quick else _TREES)
        for seed, objective in enumerate(("rank:ndcg", "binary:logistic"))
    ]
    binned = [bin_forest(forest, kernel) for forest in forests]
    figures = [_equality(forests, binned, lists=20 if quick else 200)]
    lists = [_rows(np.random.default_rng(seed), CANDIDATES) for seed in range(20)]
    rounds = 60 if quick else 400
    # Each gets the order of memory that it is faster with.
    ours, theirs = cycle([*map(np.asfortranarray, lists)]), cycle(lists)
    timings = interleave(
        {
            "kernel": lambda: binned[0].margins(next(ours), kernel),
            "xgboost": lambda: forests[0].inplace_predict(next(theirs), predict_type="margin"),
        },
        rounds,
        time.thread_time,
    )
    shape = (
        f"{CANDIDATES} candidates of {_COLUMNS} columns, {forests[0].num_boosted_rounds()} trees"
    )
    for who, timing in timings.items():
        figures.append(percentile_figure(f"ranking_{who}_p50_ms", timing.seconds, 50, shape))
        figures.append(percentile_figure(f"ranking_{who}_p99_ms", timing.seconds, 99, shape))
    ratio = timings["xgboost"].ratio(timings["kernel"])
    figures += [
        Figure(
            "ranking_vs_xgboost",
            ratio.median,
            "1",
            low=float(np.percentile(ratio.seconds, 5)),
            high=float(np.percentile(ratio.seconds, 95)),
            runs=rounds,
            note=f"our time by theirs, in turn, 5th to 95th percentile; {shape}",
        ),
        Figure("ranking_compile_s", compile_s, "s", runs=1, note="first start on a machine"),
        Figure("ranking_kernel_load_s", load_s, "s", runs=1, note="later starts"),
    ]
    return figures


def _equality(forests: list[xgboost.Booster], binned: list[BinnedForest], *, lists: int) -> Figure:
    kernel = load_kernel()
    same = total = 0
    for number in range(lists):
        rows = _rows(np.random.default_rng(1_000 + number), CANDIDATES)
        forest, mine = forests[number % len(forests)], binned[number % len(binned)]
        wanted = forest.inplace_predict(rows, predict_type="margin")
        same += int((mine.margins(rows, kernel).view(np.int32) == wanted.view(np.int32)).sum())
        total += len(rows)
    return Figure(
        "scores_bit_identical_share",
        same / total,
        "1",
        runs=total,
        note="scores with the bits of XGBoost's margin, LambdaMART and logistic",
    )


def forest(objective: str, seed: int, *, trees: int, columns: int = _COLUMNS) -> xgboost.Booster:
    """Learn a forest from made-up rows."""
    generator = np.random.default_rng(seed)
    count = 40_000
    rows = _rows(generator, count, columns)
    clean = np.nan_to_num(rows)
    signal = clean[:, 0] * clean[:, 9] + np.sin(2 * clean[:, 1]) + 0.5 * clean[:, 14] - clean[:, 24]
    labels = (signal + generator.standard_normal(count) > 1.5).astype(np.float32)
    groups = np.full(count // 40, 40) if objective.startswith("rank") else None
    parameters = {
        "objective": objective,
        "max_depth": _DEPTH,
        "eta": 0.1,
        "max_bin": 64,
        "tree_method": "hist",
        "nthread": 1,
        "seed": seed,
    }
    forest = xgboost.train(parameters, xgboost.DMatrix(rows, labels, group=groups), trees)
    forest.set_param({"nthread": 1})
    return forest


def _rows(
    generator: np.random.Generator, count: int, columns: int = _COLUMNS
) -> NDArray[np.float32]:
    rows = generator.standard_normal((count, columns)).astype(np.float32)
    rows[:, 9:20] = np.round(np.abs(rows[:, 9:20]) * 5)
    rows[:, -5:] = rows[0, -5:] if count == CANDIDATES else np.round(rows[:, -5:] * 10)
    rows[generator.random(rows.shape) < 0.02] = np.nan
    return rows


def _seconds(work: Callable[[], _T]) -> tuple[_T, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started
