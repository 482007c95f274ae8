"""The gain of coupons by user: the linear model and the forest, with known truth and on Hillstrom.

In the simulator a user's true gain is known; on Hillstrom's e-mail test (customers who got the
e-mail for women or none) only whether a ranking finds those who react. Rankings are judged on users
that neither model was learnt from.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import Figure
from tactful.coupons.gain_fit import DrawnUsers, GainFit, choose_gain
from tactful.coupons.gain_model import Gain

FIGURES = [
    ("uplift_forest_error_vs_linear", "1"),
    ("uplift_false_forests_share", "1"),
    ("uplift_hillstrom_qini_gain", "1"),
    ("uplift_decision_us", "us"),
]
_NAMES = ("visits", "orders", "share")


def figures(quick: bool) -> list[Figure]:
    """Fit both models where the truth is known, and on Hillstrom's data."""
    seeds, people = (2, 2_000) if quick else (20, 4_000)
    return [
        *_with_known_truth(seeds, people),
        _on_hillstrom(),
    ]


def simulated(
    seed: int, people: int, truth: Callable[[np.ndarray], np.ndarray]
) -> tuple[DrawnUsers, np.ndarray]:
    """Return drawn users, six of ten with a coupon, and their true gains."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.gamma(2, 2, people), rng.poisson(3, people), rng.random(people)])
    offered = (rng.random(people) < 0.6).astype(np.float64)
    gain = truth(x)
    value = 5 + 2 * x[:, 0] + 4 * (x[:, 2] > 0.5) + offered * gain + rng.normal(0, 6, people)
    return DrawnUsers(x, offered, value, np.full(people, 0.6)), gain


def _the_middle(x: np.ndarray) -> np.ndarray:
    return 6.0 * ((x[:, 2] > 0.35) & (x[:, 2] < 0.65) & (x[:, 1] >= 2))


def _fitted(users: DrawnUsers, names: tuple[str, ...] = _NAMES) -> GainFit:
    return choose_gain(users, names, campaign="simulated", margin=1.0, at=0)


def _with_known_truth(seeds: int, people: int) -> list[Figure]:
    ratios, wrong, spent = [], 0, 0.0
    others, gain = simulated(999, 5_000, _the_middle)
    for seed in range(seeds):
        found = _fitted(simulated(seed, people, _the_middle)[0])
        chosen, linear = Gain(found.chosen), Gain(found.linear)
        errors = [
            float(np.sqrt(np.mean((each.of_all(others.features) - gain) ** 2)))
            for each in (chosen, linear)
        ]
        ratios.append(errors[0] / errors[1])
        nothing = _fitted(simulated(seed, people, lambda x: np.zeros(len(x)))[0])
        wrong += nothing.chosen.kind == "forest"
        if found.chosen.kind == "forest":
            began = time.process_time()
            for row in others.features[:500]:
                chosen.of(row)
            spent = (time.process_time() - began) / 500 * 1e6
    ratio = float(np.mean(ratios))
    note = f"root mean square error of the chosen gain over the linear one, {people:,} drawn users"
    return [
        Figure("uplift_forest_error_vs_linear", ratio, "1", min(ratios), max(ratios), seeds, note),
        Figure(
            "uplift_false_forests_share",
            wrong / seeds,
            "1",
            runs=seeds,
            note="forest chosen where coupons have no effect on anybody",
        ),
        Figure("uplift_decision_us", spent or None, "us", note="one gain by a forest, CPU time"),
    ]


def _on_hillstrom() -> Figure:
    path = Path(os.environ.get("TACTFUL_SHARED", "shared")) / "data/hillstrom/hillstrom.parquet"
    rows = pq.read_table(path).to_pandas()
    rows = rows[rows["segment"] != "Mens E-Mail"]
    offered = (rows["segment"] != "No E-Mail").to_numpy(np.float64)
    names = ("recency", "history", "mens", "womens", "newbie")
    x = rows[list(names)].to_numpy(np.float64)
    share = np.full(len(offered), offered.mean())
    found = _fitted(DrawnUsers(x, offered, rows["visit"].to_numpy(np.float64), share), names)
    assert found.comparison is not None
    low, high = found.comparison.qini_gain.low, found.comparison.qini_gain.high
    linear, forest = found.comparison.qini_areas
    note = f"Qini area of the forest minus that of the linear model, visits: {found.chosen.kind}"
    return Figure("uplift_hillstrom_qini_gain", forest - linear, "1", low, high, 1, note)
