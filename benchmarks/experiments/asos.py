"""Real experiments, looked at whenever data came: what is claimed by peeking, and what is not.

78 experiments of ASOS with 99 pairs of arms and up to some 130 days of checkpoints, the first of
four metrics (ASOS Digital Experiments Dataset, CC BY 4.0). Nobody knows which effects are real.
What can be counted is how many pairs each rule calls different at some checkpoint, how many are
still called so at the end, and how many claims the end takes back.
"""

from typing import Any

import numpy as np

from benchmarks.experiments.oracle import shared_file
from benchmarks.figures import Figure
from tactful_bandits.analysis.comparison import compare
from tactful_bandits.analysis.samples import Mean

FIGURES = [
    ("asos_claims_fixed_at_end", "pairs"),
    ("asos_claims_peeking", "pairs"),
    ("asos_claims_sequential", "pairs"),
    ("asos_claims_taken_back_peeking", "pairs"),
    ("asos_claims_taken_back_sequential", "pairs"),
]


def figures() -> list[Figure]:
    """Claims by each rule over all pairs."""
    import pandas as pd

    path = shared_file("asos_experiments", "asos_digital_experiments.parquet")
    data = pd.read_parquet(path)
    metric = data[data["metric_id"] == 1].dropna().sort_values("time_since_start")
    metric = metric[(metric["count_c"] >= 2) & (metric["count_t"] >= 2)]
    at_end = peeking = sequential = back_peeking = back_sequential = 0
    pairs = 0
    for _, looks in metric.groupby(["experiment_id", "variant_id"]):
        pairs += 1
        naive, anytime = _claims(looks.to_dict("records"))
        at_end += naive[-1]
        peeking += any(naive)
        sequential += any(anytime)
        back_peeking += any(naive) and not naive[-1]
        back_sequential += any(anytime) and not naive[-1]
    note = f"of {pairs} pairs, metric 1, 5 % each"
    return [
        Figure("asos_claims_fixed_at_end", at_end, "pairs", note=f"{note}; one look, at the end"),
        Figure("asos_claims_peeking", peeking, "pairs", note=f"{note}; Welch at every checkpoint"),
        Figure(
            "asos_claims_sequential",
            sequential,
            "pairs",
            note=f"{note}; confidence sequence at every checkpoint, tightest at 20,000 units",
        ),
        Figure(
            "asos_claims_taken_back_peeking",
            back_peeking,
            "pairs",
            note="claimed by peeking, not significant at the end",
        ),
        Figure(
            "asos_claims_taken_back_sequential",
            back_sequential,
            "pairs",
            note="claimed by the confidence sequence, not significant at the end by one look",
        ),
    ]


def _claims(looks: list[dict[Any, Any]]) -> tuple[list[bool], list[bool]]:
    naive, anytime = [], []
    for look in looks:
        control, treatment = (
            _mean(look[f"count_{arm}"], look[f"mean_{arm}"], look[f"variance_{arm}"])
            for arm in "ct"
        )
        got = compare(control, treatment, tightest_at=20_000)
        naive.append(0 not in got.fixed_horizon)
        anytime.append(got.conclusive)
    return naive, anytime


def _mean(count: float, mean: float, variance: float) -> Mean:
    units = int(np.round(count))
    return Mean(units, units * mean, (units - 1) * variance + units * mean**2)
