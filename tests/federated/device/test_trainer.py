"""A device trains on its own, sends little, and repeats itself exactly."""

import math
from typing import Any

import numpy as np
import pytest
from tests.federated.local_population import LocalPopulation

from tactful_federated.core.fedavg import RoundSettings, run_rounds, start
from tactful_federated.device.trainer import Device
from tactful_federated.errors import SettingsError, WeightsError
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.scores import Score
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, split_by_time, windows
from tactful_federated.model.vectors import l2_norm
from tactful_federated.simulation.baselines import fit_markov, fit_popularity

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)


def make(household: int = 0, settings: TrainerSettings | None = None, **more: Any) -> Device:
    history = sample_history(household)
    return Device(history, VOCABULARY, settings, **more)


@pytest.fixture
def weights() -> Any:
    return IntentModel(VOCABULARY.size, seed=1).vector()


def test_update_is_clipped_to_the_bound(weights: Any) -> None:
    wide = make(settings=TrainerSettings(update_norm=1e6)).train(weights, 1)
    narrow = make(settings=TrainerSettings(update_norm=0.25)).train(weights, 1)
    assert l2_norm(wide) > 0.25 >= l2_norm(narrow) > 0.249
    np.testing.assert_allclose(narrow, wide * (0.25 / l2_norm(wide)), rtol=1e-5, atol=1e-9)


def test_update_is_a_function_of_weights_round_and_device(weights: Any) -> None:
    device = make(seed=4)
    first = device.train(weights, 3)
    device.train(device_weights := weights + first, 4)
    device.evaluate(device_weights)
    assert np.array_equal(device.train(weights, 3), first)
    assert np.array_equal(make(seed=4).train(weights, 3), first)
    small = TrainerSettings(batch_size=1, scored=4)
    by_round = [make(settings=small).train(weights, number) for number in (3, 4)]
    assert not np.array_equal(by_round[0], by_round[1])


def test_gradient_clipping_bounds_a_step(weights: Any) -> None:
    settings = TrainerSettings(
        learning_rate=0.5, gradient_norm=1e-3, batch_size=1000, update_norm=1e6
    )
    assert l2_norm(make(settings=settings).train(weights, 1)) == pytest.approx(5e-4, rel=1e-3)


def test_held_out_baskets_are_not_trained_on(weights: Any) -> None:
    history = sample_history(0)
    latest = [[SAMPLE_CATALOGUE[0]] for _ in history[-8:]]
    mine = Device(history, VOCABULARY)
    other = Device(history[:-8] + latest, VOCABULARY)
    assert np.array_equal(mine.train(weights, 1), other.train(weights, 1))
    assert mine.evaluate(weights) != other.evaluate(weights)


@pytest.mark.parametrize("history", [[], [[]], [["bakery"]], [["unknown"]] * 30])
def test_device_with_nothing_to_tell_sends_zero(weights: Any, history: list[list[str]]) -> None:
    device = Device(history, VOCABULARY)
    update = device.train(weights, 1)
    assert update.shape == weights.shape
    assert device.evaluate(weights) == Score() and np.isfinite(update).all()
    if history != [["bakery"]]:
        assert not update.any()


def test_diverging_training_is_an_error_and_a_missing_report(
    weights: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broken = make(settings=TrainerSettings(learning_rate=1e38, gradient_norm=1e30, epochs=3))
    with pytest.raises(WeightsError, match="not finite"):
        broken.train(weights, 1)
    population = LocalPopulation({1: make(1), 2: broken, 3: make(3)})
    assert [number for number, _ in population.train([1, 2, 3], weights, 1)] == [1, 3]
    assert "a device failed" in caplog.text


def test_settings_out_of_range_are_refused() -> None:
    wrong = {"epochs": 0, "batch_size": 0, "scored": 0, "context": -1, "learning_rate": 0.0}
    wrong |= {"gradient_norm": math.inf, "update_norm": math.nan, "held_out": 1.0, "proximal": -0.1}
    for name, value in wrong.items():
        with pytest.raises(SettingsError):
            TrainerSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.slow
def test_rounds_learn_a_planted_chain_as_well_as_pooled_counts_do() -> None:
    devices = {number: make(number, seed=number) for number in range(16)}
    settings = RoundSettings(cohort=8, report_goal=8, minimum_reports=4)
    first = start(IntentModel(VOCABULARY.size, seed=1).vector())
    state, results = run_rounds(LocalPopulation(devices), first, settings, rounds=40, seed=1)
    parts = [split_by_time(sample_history(number), VOCABULARY, 0.2) for number in devices]
    past = [tokens[:cut] for tokens, cut in parts]
    scores = {
        name: sum((chain.evaluate(windows(t, start=c)) for t, c in parts), Score())
        for name, chain in (("unigram", fit_popularity(past)), ("markov", fit_markov(past)))
    }
    assert scores["markov"].top1_rate > scores["unigram"].top1_rate + 0.2
    assert results[-1].top1 > scores["unigram"].top1_rate + 0.2
    # The shoppers are such a chain, so nothing is beyond it.
    assert results[-1].top1 > scores["markov"].top1_rate - 0.02
    assert results[-1].loss < results[0].loss
    assert state.model.steps == 40


def test_a_proximal_device_stays_closer_to_where_it_began() -> None:
    """FedProx: a pull of mu to the broadcast weights, exact for one step from elsewhere."""

    def moved(proximal: float) -> float:
        settings = TrainerSettings(epochs=4, learning_rate=0.5, update_norm=1e6, proximal=proximal)
        return l2_norm(make(1, settings).train(IntentModel(VOCABULARY.size).vector(), 1))

    distances = [moved(mu) for mu in (0.0, 0.05, 0.5)]
    assert distances == sorted(distances, reverse=True) and distances[0] > 1.2 * distances[2] > 0
