"""The shared model made one person's own, on their device and with numpy alone.

Fine-tuning on the device's own visits (Wang et al., "Federated evaluation of on-device
personalization", 2019), of all layers or of the output layer, as a head of the device's own on
layers that all share (Arivazhagan et al., "Federated learning with personalization layers", 2019).
What comes of it tells of the person as their visits do: it is never sent, and nothing here writes
it down.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from threadpoolctl import ThreadpoolController

from tactful_federated.errors import require
from tactful_federated.inference import IntentPredictor, fit_temperature, mean_loss
from tactful_federated.stacked_lstm import StackedModel
from tactful_federated.tokens import PAD, Vocabulary, Windows, split_by_time, windows
from tactful_federated.trainer_settings import TrainerSettings
from tactful_federated.vectors import Vector, layer_shapes, layers

Part = Literal["head", "all"]
"""What is fine-tuned: the output layer, or every layer."""

MOST_VISITS: Final = 500
"""Of more, the latest are learnt from: it bounds time and memory, and old ones tell little."""

_FEWEST_TO_CALIBRATE = 50
_SETTINGS = TrainerSettings(epochs=8, learning_rate=0.5, held_out=0.25)


@dataclass(frozen=True, eq=False)
class Personal:
    """A model of one person's own.

    Attributes:
        predictor: It, with a temperature fitted to the person.
        shared_loss: Of the model that all share, on the latest visits of the person, which were
            held out; nats a question, NaN if nothing can be asked.
        own_loss: Of the own one, on the same; never higher.
    """

    predictor: IntentPredictor
    shared_loss: float
    own_loss: float


def personalise(
    shared: IntentPredictor,
    visits: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    *,
    part: Part = "head",
    settings: TrainerSettings | None = None,
    seed: int = 0,
) -> Personal:
    """Fine-tune a model on a person's visits, and calibrate it.

    The latest visits are held out. The weights of the epoch that foresees them best are taken, and
    those that all share are in the running: who is like everybody, or new, keeps them. With 50
    questions or more the temperature is then fitted to the same visits; probabilities of the shared
    model are otherwise taken as they are. One thread computes.

    Args:
        shared: The model that all share.
        visits: In time order, each the categories of its lines.
        vocabulary: Public vocabulary.
        part: What is fine-tuned.
        settings: How; `proximal` draws back to what all share, and `update_norm` bounds nothing,
            as nothing is sent.
        seed: Of the shuffling.

    Raises:
        SettingsError: There is no such part.
    """
    require(part in ("head", "all"), f"part is {part!r}: give head or all")
    settings = settings or _SETTINGS
    sequence, cut = split_by_time(visits[-MOST_VISITS:], vocabulary, settings.held_out)
    past, held_out = (
        windows(of, start=start, scored=settings.scored, context=settings.context)
        for of, start in ((sequence[:cut], 1), (sequence, cut))
    )
    if not held_out.steps:
        return Personal(shared, math.nan, math.nan)
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        loss = mean_loss(*shared.questions(held_out), shared.temperature)
        best, least = shared, loss
        for weights in _epochs(shared, past, part, settings, seed):
            tried = _with(shared, weights, shared.temperature)
            its = mean_loss(*tried.questions(held_out), tried.temperature)
            if its < least:
                best, least = tried, its
        if held_out.steps >= _FEWEST_TO_CALIBRATE:
            logits, answers = best.questions(held_out)
            temperature = fit_temperature(logits, answers)
            its = mean_loss(logits, answers, temperature)
            if its < least:
                best, least = _with(best, best.weights, temperature), its
    return Personal(best, loss, least)


def _epochs(
    shared: IntentPredictor, past: Windows, part: Part, settings: TrainerSettings, seed: int
) -> Iterator[Vector]:
    """The weights after each epoch; ends early where they are no longer finite."""
    model = StackedModel(shared.vocabulary_size, embedding=shared.embedding, hidden=shared.hidden)
    free = np.full(model.size, part == "all")
    shapes = layer_shapes(shared.vocabulary_size, embedding=shared.embedding, hidden=shared.hidden)
    for layer in layers(free, shapes)[-2:]:
        layer[...] = True
    weights, shuffle = shared.weights.copy(), np.random.default_rng(seed)
    for _ in range(settings.epochs):
        order = shuffle.permutation(len(past.inputs))
        for first in range(0, len(order), settings.batch_size):
            rows = order[first : first + settings.batch_size]
            answers = past.answers[rows].astype(np.int64)
            if not (answers != PAD).any():
                continue
            inputs = past.inputs[rows].astype(np.int64)
            gradient = model.gradient(weights[None], inputs[None], answers[None])[0]
            gradient += np.float32(settings.proximal) * (weights - shared.weights)
            gradient *= free
            norm = float(np.sqrt(np.square(gradient).sum()))
            rate = settings.learning_rate * min(1.0, settings.gradient_norm / max(norm, 1e-12))
            weights = weights - np.float32(rate) * gradient
        if not np.isfinite(weights).all():
            return
        yield weights


def _with(of: IntentPredictor, weights: Vector, temperature: float) -> IntentPredictor:
    return IntentPredictor(
        weights,
        of.vocabulary_size,
        embedding=of.embedding,
        hidden=of.hidden,
        temperature=temperature,
    )
