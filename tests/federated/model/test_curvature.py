"""What noise costs is foreseen to second order, and measured as what it is."""

import numpy as np
import pytest

from tactful_federated.errors import SettingsError
from tactful_federated.model.curvature import mean_curvature
from tactful_federated.model.lstm_numpy import IntentPredictor, mean_loss
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.tokens import Vocabulary, windows
from tactful_federated.model.vectors import layer_shapes, layers, parameter_count

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
ASKED = windows(VOCABULARY.sequence(sample_history(1, baskets=60)))


def test_it_is_the_trace_of_the_hessian_where_that_is_known() -> None:
    """At weights of zero only the last bias matters: its softmax has a Hessian of p (1 - p)."""
    size = parameter_count(VOCABULARY.size)
    flat = IntentPredictor(np.zeros(size, dtype=np.float32), VOCABULARY.size)
    count = len(SAMPLE_CATALOGUE)
    exact = count * (1 / count) * (1 - 1 / count) / size
    found = mean_curvature(flat, ASKED, noise=0.01, draws=40)
    # Noise in the other layers adds what is of fourth order in its width.
    assert found == pytest.approx(exact, rel=0.35)


def test_a_plan_foresees_what_noise_then_costs() -> None:
    model = IntentPredictor(IntentModel(VOCABULARY.size, seed=1).vector(), VOCABULARY.size)
    curvature = mean_curvature(model, ASKED, noise=0.03, draws=30)
    foreseen = model.weights.size * curvature * 0.05**2 / 2
    random, losses = np.random.default_rng(9), []
    for _ in range(60):
        away = random.normal(0, 0.05, model.weights.size).astype(np.float32)
        for noised in (model.weights + away, model.weights - away):
            losses.append(mean_loss(*IntentPredictor(noised, VOCABULARY.size).questions(ASKED)))
    cost = float(np.mean(losses)) - mean_loss(*model.questions(ASKED))
    assert cost == pytest.approx(foreseen, rel=0.35) and cost > 0


def test_what_cannot_be_measured_is_refused() -> None:
    shapes = layer_shapes(VOCABULARY.size, embedding=32, hidden=32)
    weights = np.zeros(parameter_count(VOCABULARY.size), dtype=np.float32)
    layers(weights, shapes)[-1][0] = 1.0
    model = IntentPredictor(weights, VOCABULARY.size)
    nothing = windows(VOCABULARY.sequence([]))
    for asked, noise, draws in ((ASKED, 0.0, 1), (ASKED, 0.1, 0), (nothing, 0.1, 1)):
        with pytest.raises(SettingsError):
            mean_curvature(model, asked, noise=noise, draws=draws)
