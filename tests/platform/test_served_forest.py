"""A forest evaluated by two: the bits are those of one."""

from __future__ import annotations

import os
import random
import sys
import time

import numpy as np
import pytest
import xgboost

from tactful.companion import Companion
from tactful.forest import bin_forest
from tactful.forest_kernel import load_kernel
from tactful.served_forest import ServedForest

COLUMNS = 7


@pytest.fixture(scope="module")
def forest() -> xgboost.Booster:
    generator = np.random.default_rng(3)
    rows = generator.standard_normal((3_000, COLUMNS)).astype(np.float32)
    rows[generator.random(rows.shape) < 0.1] = np.nan
    labels = np.nansum(rows[:, :3] ** 2, axis=1) + generator.standard_normal(len(rows))
    options = {"nthread": 1, "max_depth": 6, "max_bin": 64}
    return xgboost.train(options, xgboost.DMatrix(rows, labels), 40)


@pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="for Linux with a second core",
)
def test_a_companion_changes_no_bit_of_a_margin(forest: xgboost.Booster) -> None:
    served = ServedForest(bin_forest(forest, load_kernel()), None)
    generator, chance = np.random.default_rng(4), random.Random(5)
    with Companion() as companion:
        for number in range(200):
            count = chance.choice([0, 1, 511, 512, 513, 1_000, 1_024, 1_025, 2_000])
            rows = generator.standard_normal((COLUMNS, count)).astype(np.float32).T
            rows[generator.random(rows.shape) < 0.1] = np.nan
            if number % 3:
                companion.rouse()
                time.sleep(chance.choice([0.0, 0.0002]))
            given = np.ascontiguousarray(rows) if number % 5 == 0 else rows
            wanted = forest.inplace_predict(rows, predict_type="margin") if count else rows[:, 0]
            assert served.margins(given, companion).tobytes() == wanted.tobytes()
            assert served.margins(given).tobytes() == wanted.tobytes()
