"""The forest: what XGBoost measures of the later lists, without a matrix of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import xgboost

from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.model import START
from tactful.training.boosting import _Batches, _Judged, fit
from tactful.training.options import TrainingOptions
from tactful.training.replay_rows import Rows

OPTIONS = TrainingOptions(rounds=15, patience=15, threads=1)


def drawn(lists: int, seed: int, *, weighted: bool = False) -> Rows:
    """Lists in most of which an item is taken, by its first columns; others are often missing."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 40, lists)
    features = generator.normal(size=(int(sizes.sum()), len(RANKING_FEATURES))).astype(np.float32)
    chance = 1 / (1 + np.exp(3 - features[:, 0] - features[:, 1]))
    missing = np.resize([0, 0, 0, 0, 0.5, 0.9, 0.99, 1], features.shape[1])
    features[generator.random(features.shape) < missing] = np.nan
    weights = generator.uniform(0.2, 3, lists) if weighted else np.ones(lists)
    labels = generator.random(len(features)) < chance
    return Rows(features, labels, sizes, weights.astype(np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
def test_the_curve_is_that_of_xgboost(monkeypatch: pytest.MonkeyPatch, weighted: bool) -> None:
    """Also over the blocks of trees, and with the lists in several pieces of unequal length."""
    learn = [drawn(300, 1, weighted=weighted), drawn(40, 2, weighted=weighted)]
    judge = [drawn(290, 3, weighted=weighted), Rows.none(), drawn(3, 4, weighted=weighted)]
    matrix = xgboost.QuantileDMatrix(_Batches(learn, START), max_bin=64)
    judged = xgboost.QuantileDMatrix(_Batches(judge, START), max_bin=64, ref=matrix)
    wanted: list[float] = []
    honest = _Judged.add

    def compared(self: _Judged, forest: xgboost.Booster, begin: int) -> float:
        wanted.append(float(forest.eval_set([(judged, "")], begin).rpartition(":")[2]))
        return honest(self, forest, begin)

    _, alone = fit([*learn], judge, OPTIONS)
    monkeypatch.setattr(_Judged, "add", compared)
    forest, curve = fit([*learn], judge, OPTIONS)
    assert curve == wanted == alone and len(curve) == 15
    assert forest.num_boosted_rounds() == int(np.argmax(curve)) + 1


def test_trees_do_not_depend_on_the_measure() -> None:
    """A measure that seeds the random numbers between two trees changes what these draw."""
    learn, judge = drawn(300, 1), drawn(100, 3)
    seen, _ = fit([learn], [judge], OPTIONS)
    parameters = {"objective": "rank:ndcg", "lambdarank_pair_method": "topk", "nthread": 1}
    parameters |= {"lambdarank_num_pair_per_sample": 20, "max_depth": OPTIONS.depth}
    parameters |= {"eta": OPTIONS.learning_rate, "min_child_weight": 5, "subsample": 0.8}
    parameters |= {"tree_method": "hist", "max_bin": 64, "seed": OPTIONS.seed * 1_000_003}
    forest = xgboost.train(
        parameters, xgboost.QuantileDMatrix(_Batches([learn], START), max_bin=64), 10
    )
    rounds = min(seen.num_boosted_rounds(), 10)
    assert rounds > 1
    assert forest[:rounds].get_dump() == seen[:rounds].get_dump()


_PROGRAM = """
import resource, sys
import numpy as np
from tactful.training.boosting import fit
from tactful.training.options import TrainingOptions
from tactful.training.replay_rows import Rows

def lists(count):
    features = np.random.default_rng(count).random((count * 100, 40), np.float32)
    features[:, :4][features[:, :4] < 0.9] = np.nan
    labels = np.tile(np.arange(100) == 0, count)
    return Rows(features, labels, np.full(count, 100), np.ones(count, np.float32))

fit([lists(50)], [lists(50)], TrainingOptions(rounds=1), start="")
learn, judge = lists(100), lists(2_500)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fit([learn], [judge], TrainingOptions(rounds=1), start="")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / judge.features.nbytes)
"""


@pytest.mark.slow
def test_the_judged_rows_are_in_memory_once() -> None:
    """XGBoost's matrix of them took three times as much: 280 MB of a training of 1,000 MB."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, check=True)
    assert float(done.stdout) < 0.5
