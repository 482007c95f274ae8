"""Measure how much noise in the weights increases the loss of a model."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import require
from tactful_federated.model.lstm_numpy import IntentPredictor, mean_loss
from tactful_federated.model.tokens import Windows

CURVATURE: Final = 0.0027
"""Default in nats, for use before a model exists. Measured on an intent model of 17,662 parameters
on the families of `online_retail`, at noise widths from 0.01 to 0.1
(`scripts/bench federated --only personal`)."""


def mean_curvature(
    model: IntentPredictor, questions: Windows, *, noise: float, draws: int = 20, seed: int = 0
) -> float:
    """Estimate the mean diagonal of the Hessian of the loss at one width of noise.

    Noise of width s on each of n parameters costs ``n * curvature * s^2 / 2`` to second order; the
    result is the curvature that makes this exact at the given width. Each draw is both added and
    subtracted, so the first order cancels.

    Args:
        model: Trained model.
        questions: Questions from data that are not private.
        noise: Width of the noise, best `TrainingPlan.model_noise`.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        Curvature in nats, for `TrainingPlan.expected_loss`.

    Raises:
        SettingsError: The width or the draws are out of range, or there is no question.
    """
    require(noise > 0 and draws >= 1, "noise must be above 0 and draws at least 1")
    require(questions.steps > 0, "there is no question to measure a loss on: give held-out visits")
    random = np.random.default_rng(seed)
    size = model.weights.size
    loss, noised_losses = _loss(model, model.weights, questions), []
    for _ in range(draws):
        offset = random.normal(0.0, noise, size).astype(np.float32)
        noised_losses += [
            _loss(model, model.weights + sign * offset, questions) for sign in (1, -1)
        ]
    return 2 * (float(np.mean(noised_losses)) - loss) / (size * noise**2)


def _loss(model: IntentPredictor, weights: NDArray[np.floating], questions: Windows) -> float:
    noised = IntentPredictor(
        weights.astype(np.float32),
        model.vocabulary_size,
        embedding=model.embedding,
        hidden=model.hidden,
        temperature=model.temperature,
    )
    return mean_loss(*noised.questions(questions), noised.temperature)
