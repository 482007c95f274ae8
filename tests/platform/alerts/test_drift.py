"""Distances of histograms against evidently, scipy and a brute-force count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from tactful.alerts.drift import holm, ks_distance, ks_p_value, psi

# Computed once by evidently, which is no dependency: the file says by which version and how.
_FILE = Path(__file__).with_name("evidently.json")
_CASES: list[dict[str, Any]] = json.loads(_FILE.read_text("utf-8"))["cases"]


@pytest.mark.parametrize("case", _CASES)
def test_psi_is_that_of_evidently(case: dict[str, Any]) -> None:
    assert psi(case["reference"], case["current"]) == pytest.approx(case["psi"], rel=1e-9)


@pytest.mark.parametrize("case", _CASES)
def test_the_test_decides_as_evidently_does(case: dict[str, Any]) -> None:
    reference, current = case["reference"], case["current"]
    distance = ks_distance(reference, current)
    ours = ks_p_value(distance, sum(reference), sum(current))
    # Evidently's p-value is exact for small samples, ours asymptotic.
    assert ours == pytest.approx(case["ks_p_value"], rel=0.35, abs=0.02)
    assert (ours < 0.001) == (case["ks_p_value"] < 0.001)


@given(
    st.lists(st.integers(0, 40), min_size=3, max_size=8).filter(lambda it: sum(it) > 0),
    st.randoms(use_true_random=False),
)
def test_the_distance_is_that_of_scipy(counts: list[int], draw: Any) -> None:
    other = [draw.randint(0, 40) for _ in counts]
    if not sum(other):
        return
    samples = [np.repeat(np.arange(len(it)), it) for it in (counts, other)]
    assert ks_distance(counts, other) == pytest.approx(ks_2samp(*samples).statistic, abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_its_steps_reject(p_values: list[float]) -> None:
    alpha, rejected = 0.05, 0
    for rank, p_value in enumerate(sorted(p_values)):
        if p_value * (len(p_values) - rank) >= alpha:
            break
        rejected += 1
    assert sum(value < alpha for value in holm(p_values)) == rejected


def test_many_drift_tests_of_the_same_data_seldom_find_something() -> None:
    noise, found = np.random.default_rng(4), 0
    for _ in range(200):
        p_values = []
        for _ in range(20):
            reference, current = (
                noise.multinomial(2000, [0.1] * 10),
                noise.multinomial(500, [0.1] * 10),
            )
            p_values.append(ks_p_value(ks_distance(reference, current), 2000, 500))
        found += min(holm(p_values)) < 0.05
    assert found / 200 <= 0.08  # without the correction it would be about two thirds
