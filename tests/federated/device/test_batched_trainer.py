"""A simulated cohort takes the very steps of its devices, one by one."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.federated.torch_device import TorchDevice
from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.device.trainer import Device
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, Windows, windows
from tactful_federated.model.vectors import l2_norm

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
SETTINGS = TrainerSettings(epochs=2, batch_size=3, scored=6, context=4, held_out=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("proximal", [0.0, 0.3])
def test_stacked_devices_train_as_they_would_alone(proximal: float) -> None:
    settings = replace(SETTINGS, proximal=proximal)
    histories = {n: sample_history(n, baskets=5 + 7 * n) for n in range(5)}
    questions = {
        n: windows(VOCABULARY.sequence(history), scored=6, context=4)
        for n, history in histories.items()
    }

    def population(asked: dict[int, Windows], threads: int = 1) -> SimulatedPopulation:
        more = {"seed": 40, "group": 3, "threads": threads}
        return SimulatedPopulation(asked, VOCABULARY.size, settings=settings, **more)

    weights = IntentModel(VOCABULARY.size, seed=9).vector()
    together = dict(population(questions).train(list(histories), weights, 7))
    threaded = population({n: of.compact() for n, of in questions.items()}, threads=2)
    for number, update in threaded.train(list(histories), weights, 7):
        assert np.array_equal(update, together[number])
    for number, history in histories.items():
        alone = Device(history, VOCABULARY, settings, seed=40 + number).train(weights, 7)
        assert l2_norm(alone) > 0.1
        assert np.abs(alone - together[number]).max() < 2e-4 * np.abs(alone).max() + 1e-6
        model = IntentModel(VOCABULARY.size)
        torch = TorchDevice(history, VOCABULARY, model, settings, seed=40 + number)
        assert np.abs(torch.train(weights, 7) - alone).max() < 2e-4 * np.abs(alone).max() + 1e-6


def test_a_device_without_questions_sends_zeros() -> None:
    empty = windows(np.zeros(0, dtype=np.int64), scored=6, context=4)
    padded = Windows(np.ones((1, 10), dtype=np.int64), np.zeros((1, 10), dtype=np.int64))
    population = SimulatedPopulation({1: empty, 2: padded}, VOCABULARY.size, settings=SETTINGS)
    weights = IntentModel(VOCABULARY.size, seed=9).vector()
    found = dict(population.train([1, 2], weights, 1))
    assert set(found) == {1, 2}
    assert not any(update.any() for update in found.values())
