"""A synthetic report, drawn by a seeded generator: shaped like the demo's, measured by nobody."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

FIRST_PANE = datetime(2021, 3, 1, tzinfo=UTC)
UNIT = "one user, one UTC day"
CATEGORIES = ("DAIRY", "SOFT DRINKS", "BAKED GOODS", "FROZEN MEALS", "PET_FOOD $*", "SEAFOOD")
SECTIONS = (
    *("quality", "verdict", "latency_ms", "freshness_ms", "experiment", "statistics"),
    *("federated", "model", "real_and_simulated", "timings_s", "environment"),
)
FEATURES = (
    "own_purchases_90d covisitation_last_3 item_purchases_7d days_since_own_purchase"
    " category_views_30d vector_similarity price hour_of_day"
)


def report(seed: int = 7, *, panes: int = 72) -> dict[str, Any]:
    """A finished report with every section."""
    random_ = random.Random(seed)
    return {
        "name": "demo",
        "data": "synthetic shopping (invented for tests)",
        "quick": False,
        "started_at": "2026-01-05T09:00:00Z",
        "finished_at": "2026-01-05T09:03:41Z",
        "stage": "done",
        "progress": 1.0,
        "protocol": "Invented numbers. Each question hides one basket and asks for 20 items.",
        "questions": 4213,
        "quality": [
            _ranking("served", "Served by tactful", 0.412),
            _ranking("popularity", "Popularity", 0.071),
            _ranking("frequency", "Own frequency", 0.355),
            _ranking("covisitation", "Co-visitation", 0.301),
        ],
        "verdict": "The served ranking beats every baseline on HR@20 (0.412 against 0.355).",
        "latency_ms": {"p50": 3.42, "p99": 11.8, "requests": 4213},
        "freshness_ms": {"p50": 4.1, "p99": 18.6, "samples": 900},
        "experiment": {
            "key": "ranker-canary",
            "arms": [_arm("control", 720, 3790, 0.409), _arm("treatment", 81, 423, 0.418)],
            "difference": {"value": 0.009, "low": -0.041, "high": 0.059, "method": "sequence"},
        },
        "statistics": statistics(random_, panes=panes),
        "federated": {
            "households": 48,
            "rounds": [
                {
                    "round": number,
                    "loss": 3.1 * math.exp(-number / 6) + 2.2,
                    "top1": 0.28 * (1 - math.exp(-number / 4)) + random_.uniform(-0.006, 0.006),
                    "top5": 0.47 * (1 - math.exp(-number / 4)) + random_.uniform(-0.006, 0.006),
                }
                for number in range(1, 21)
            ],
            "markov_top1": 0.254,
            "markov_top5": 0.425,
            "privacy": "Clipped updates are summed in the clear here; noise is not switched on.",
        },
        "model": {
            "name": "tactful-ranker",
            "version": "3",
            "alias": "champion",
            "run_id": "0f3c9a7be1d24c55",
            "rows": 183204,
            "features": [
                {"name": name, "gain": 900 * 0.72**place}
                for place, name in enumerate(FEATURES.split())
            ],
        },
        "real_and_simulated": [
            "Real: nothing. This report was invented for the tests of the dashboard.",
            "Simulated: every number, by a seeded generator.",
        ],
        "timings_s": {"load the data": 9.8, "train the ranker": 34.5, "replay and ask": 88.1},
        "environment": {"python": "3.11.7", "cpus": 2, "machine": "x86_64", "tactful": "0.1.0"},
    }


def partial(stage: str = "train the ranker", progress: float = 0.4) -> dict[str, Any]:
    """A report that has only just begun: no section is there."""
    begun = {key: value for key, value in report().items() if key not in SECTIONS}
    return {**begun, "finished_at": None, "stage": stage, "progress": progress, "questions": None}


def malformed() -> dict[str, Any]:
    """Every section present, every value null, of the wrong type or not a number."""
    return {
        **report(),
        "started_at": "yesterday",
        "progress": "half",
        "questions": None,
        "quality": [
            {"name": "served", "label": None, "hr20": {"value": None, "low": None, "high": 1}},
            {"name": "popularity", "hr20": {"value": 0.07, "low": None, "high": None}},
            {"name": None},
            None,
            "rubbish",
        ],
        "verdict": None,
        "latency_ms": {"p50": None, "p99": "fast"},
        "freshness_ms": [],
        "experiment": {
            "key": None,
            "arms": [{"arm": "control", "rate": 0.4, "low": None}, {"arm": "treatment"}],
            "difference": {"value": 0.01, "low": None, "high": None, "method": None},
        },
        "statistics": {
            "name": None,
            "epsilon": None,
            "cap": None,
            "unit": None,
            "released_panes": None,
            "sample": [
                {"pane_start": None, "key": "DAIRY", "value": 3, "low": 1, "high": 5},
                {"pane_start": 1e300, "key": "DAIRY", "value": 3, "low": 1, "high": 5},
                {"pane_start": 1614556800000, "key": None, "value": 4, "low": None, "high": None},
                {"pane_start": 1614556800000, "key": "DAIRY", "value": None},
            ],
        },
        "federated": {"households": None, "rounds": [{"round": 1, "top1": None}, {"round": None}]},
        "model": {"name": None, "version": 3, "features": [{"name": "x", "gain": None}, 5]},
        "real_and_simulated": None,
        "timings_s": {"load": None, "train": "long"},
        "environment": {"python": None, "nested": {"a": [1, None]}},
    }


def statistics(random_: random.Random, *, panes: int = 72) -> dict[str, Any]:
    """Noisy counts by hour and category with their intervals, some below zero."""
    epsilon, cap = 1.0, 20
    half = round(3.0 * cap / epsilon)
    sample = []
    for hour in range(panes):
        start = FIRST_PANE + timedelta(hours=hour)
        for place, key in enumerate(CATEGORIES):
            wave = 1 + math.sin((hour % 24 - 8) * math.pi / 12)
            noise = random_.choice((-1, 1)) * random_.expovariate(epsilon / cap)
            value = round(420 * wave / (place + 1) ** 1.5 + noise)
            cell = {"pane_start": round(start.timestamp() * 1000), "key": key, "value": value}
            sample.append({**cell, "low": value - half, "high": value + half})
    return {
        "name": "category_purchases_hourly",
        "epsilon": epsilon,
        "cap": cap,
        "unit": UNIT,
        "released_panes": panes,
        "sample": sample,
    }


def statistics_of_days(days: int) -> dict[str, Any]:
    """One key counted once a day."""
    start = round(FIRST_PANE.timestamp() * 1000)
    sample = [
        {"pane_start": start + day * 86_400_000, "key": "DAIRY", "value": day, "low": 0, "high": 99}
        for day in range(days)
    ]
    return {"name": "daily", "epsilon": 1.0, "cap": 20, "unit": UNIT, "sample": sample}


def _ranking(name: str, label: str, hits: float) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "hr20": _interval(hits, 0.015),
        "ndcg20": _interval(0.52 * hits, 0.009),
        "mrr20": _interval(0.38 * hits, 0.008),
        "coverage20": _interval(0.02 if name == "popularity" else 0.2 + 0.5 * hits, 0.01),
    }


def _interval(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def _arm(name: str, units: int, questions: int, rate: float) -> dict[str, Any]:
    half = 1.96 * math.sqrt(rate * (1 - rate) / questions)
    counts = {"units": units, "questions": questions, "hits": round(rate * questions)}
    return {"arm": name, **counts, "rate": rate, "low": rate - half, "high": rate + half}
