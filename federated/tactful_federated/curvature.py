"""How much noise in its weights costs a model: measured by adding some."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import require
from tactful_federated.inference import IntentPredictor, mean_loss
from tactful_federated.tokens import Windows

CURVATURE: Final = 0.0027
"""Nats; of an intent model of 17,662 parameters on the families of `online_retail`, at widths from
0.01 to 0.1 (`scripts/bench federated --only personal`). A start for who has no model yet."""


def mean_curvature(
    model: IntentPredictor, asked: Windows, *, noise: float, draws: int = 20, seed: int = 0
) -> float:
    """Mean of the diagonal of the loss's Hessian, as noise of one width sees it.

    Noise of width s on each of n parameters costs ``n * curvature * s^2 / 2`` to second order; this
    is the curvature for which that is right at the given width. Each draw is added and taken away,
    so that the first order cancels.

    Args:
        model: Trained.
        asked: Questions, of data that may be looked at.
        noise: Width, best that of a plan: `TrainingPlan.model_noise`.
        draws: Of noise.
        seed: Of the draws.

    Returns:
        Nats; for `TrainingPlan.expected_loss`.

    Raises:
        SettingsError: The width or the draws are out of range, or nothing is asked.
    """
    require(noise > 0 and draws >= 1, "noise must be above 0, and draws at least 1")
    require(asked.steps > 0, "a loss needs questions")
    random = np.random.default_rng(seed)
    size = model.weights.size
    before, after = _loss(model, model.weights, asked), []
    for _ in range(draws):
        away = random.normal(0.0, noise, size).astype(np.float32)
        after += [_loss(model, model.weights + sign * away, asked) for sign in (1, -1)]
    return 2 * (float(np.mean(after)) - before) / (size * noise**2)


def _loss(model: IntentPredictor, weights: NDArray[np.floating], asked: Windows) -> float:
    noised = IntentPredictor(
        weights.astype(np.float32),
        model.vocabulary_size,
        embedding=model.embedding,
        hidden=model.hidden,
        temperature=model.temperature,
    )
    return mean_loss(*noised.questions(asked), noised.temperature)
