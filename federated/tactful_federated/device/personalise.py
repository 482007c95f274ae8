"""Personalisation of the shared model on a device, in numpy.

Fine-tuning on the visits of the device (Wang et al., "Federated evaluation of on-device
personalization", 2019), either of all layers or of the output layer as a personal head on shared
layers (Arivazhagan et al., "Federated learning with personalization layers", 2019). The result
reveals as much about the user as the visits: it is never sent, and this module does not store it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from threadpoolctl import ThreadpoolController

from tactful_federated.errors import require
from tactful_federated.model.lstm_batched import StackedModel
from tactful_federated.model.lstm_numpy import IntentPredictor, fit_temperature, mean_loss
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, Windows, split_by_time, windows
from tactful_federated.model.vectors import Vector, layers

Part = Literal["head", "all"]
"""Layers to fine-tune: the output layer, or all."""

MOST_VISITS: Final = 500
"""Number of latest visits to fine-tune on, which bounds time and memory."""

_FEWEST_TO_CALIBRATE = 50
_SETTINGS = TrainerSettings(epochs=8, learning_rate=0.5, held_out=0.25)


@dataclass(frozen=True, eq=False)
class Personal:
    """Personal model of a user, and losses in nats a question on the held-out latest visits."""

    predictor: IntentPredictor  # with a temperature fitted to the user
    shared_loss: float  # of the shared model; NaN without questions
    own_loss: float  # of the personal model, never higher


def personalise(
    shared: IntentPredictor,
    visits: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    *,
    part: Part = "head",
    settings: TrainerSettings | None = None,
    seed: int = 0,
) -> Personal:
    """Fine-tune a model on the visits of a user and calibrate it.

    The latest visits are held out. The weights with the lowest loss on them are chosen among the
    epochs and the shared weights, which are best for new or typical users. With 50 questions or
    more the temperature is then fitted to the same visits; otherwise that of the shared model is
    kept. The computation uses one thread.

    Args:
        shared: Shared model.
        visits: Visits in time order, each the categories of its lines.
        vocabulary: Public vocabulary.
        part: Layers to fine-tune.
        settings: Settings of training; `proximal` is relative to the shared weights, and
            `update_norm` is not used, since nothing is sent.
        seed: Seed of the shuffling.

    Raises:
        SettingsError: Unknown part.
    """
    require(part in ("head", "all"), f"part is {part!r}: give head or all")
    settings = settings or _SETTINGS
    sequence, cut = split_by_time(visits[-MOST_VISITS:], vocabulary, settings.held_out)
    past, held_out = (
        windows(tokens, start=start, scored=settings.scored, context=settings.context)
        for tokens, start in ((sequence[:cut], 1), (sequence, cut))
    )
    if not held_out.steps:
        return Personal(shared, math.nan, math.nan)
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        shared_loss = shared.loss(held_out)
        best, least = shared, shared_loss
        for weights in _epochs(shared, past, part, settings, seed):
            tried = shared.replaced(weights)
            loss = tried.loss(held_out)
            if loss < least:
                best, least = tried, loss
        if held_out.steps >= _FEWEST_TO_CALIBRATE:
            logits, answers = best.questions(held_out)
            temperature = fit_temperature(logits, answers)
            loss = mean_loss(logits, answers, temperature)
            if loss < least:
                best, least = best.replaced(best.weights, temperature), loss
    return Personal(best, shared_loss, least)


def _epochs(
    shared: IntentPredictor, past: Windows, part: Part, settings: TrainerSettings, seed: int
) -> Iterator[Vector]:
    """Yield the weights after each epoch; stop early if they are not finite."""
    model = StackedModel(shared.vocabulary_size, shared.embedding, shared.hidden)
    trainable = np.full(model.size, part == "all")
    for layer in layers(trainable, model.shapes)[-2:]:
        layer[...] = True
    weights, shuffle = shared.weights.copy(), np.random.default_rng(seed)
    for _ in range(settings.epochs):
        for rows in past.batches(settings.batch_size, shuffle):
            answers = past.answers[rows].astype(np.int64)
            inputs = past.inputs[rows].astype(np.int64)
            gradient = model.gradient(weights[None], inputs[None], answers[None])[0]
            gradient += np.float32(settings.proximal) * (weights - shared.weights)
            gradient *= trainable
            norm = float(np.sqrt(np.square(gradient).sum()))
            rate = settings.learning_rate * min(1.0, settings.gradient_norm / max(norm, 1e-12))
            weights = weights - np.float32(rate) * gradient
        if not np.isfinite(weights).all():
            return
        yield weights
