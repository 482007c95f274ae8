"""Devices on Ray's workers train as they do in one process."""

from pathlib import Path

import numpy as np
import pytest

from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.errors import SettingsError
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, windows
from tactful_federated.simulation.private import PrivateSimulationSettings, simulate_privately

pytest.importorskip("ray", reason="needs the extra ray")
pytestmark = pytest.mark.slow
VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)


def test_updates_are_those_of_one_process() -> None:
    from tactful_federated.simulation.ray import RayPopulation

    questions = {n: windows(VOCABULARY.sequence(sample_history(n))) for n in range(1, 8)}
    weights = IntentModel(VOCABULARY.size).vector()
    settings = TrainerSettings(learning_rate=1.0, update_norm=1.0)
    alone = SimulatedPopulation(questions, VOCABULARY.size, settings=settings, seed=5)
    with pytest.raises(SettingsError):
        RayPopulation(questions, VOCABULARY.size, workers=0)
    shared = RayPopulation(questions, VOCABULARY.size, workers=2, settings=settings, seed=5)
    try:
        assert list(shared.ids()) == list(alone.ids())
        asked = [6, 1, 4, 3]
        ours, theirs = (dict(p.train(asked, weights, 3)) for p in (shared, alone))
        assert set(ours) == set(asked) == set(theirs)
        assert all(np.allclose(ours[n], theirs[n], atol=1e-6) for n in asked)
    finally:
        shared.close()


def test_a_private_simulation_runs_on_ray(tmp_path: Path) -> None:
    import ray

    found = simulate_privately(
        tmp_path,
        PrivateSimulationSettings(devices=40, rounds=2, report_goal=8, epsilon=8.0, ray_workers=2),
    )
    assert found.releases == 2 and found.void == 0
    assert not ray.is_initialized()
