"""The device: holds one household's history, trains on it, and lets a clipped update out."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import FederatedError, missing_extra
from tactful_federated.model import IntentModel
from tactful_federated.scores import Score
from tactful_federated.tokens import (
    BOUNDARY,
    FIRST_CATEGORY,
    PAD,
    Vocabulary,
    split_by_time,
    windows,
)
from tactful_federated.trainer_settings import TrainerSettings
from tactful_federated.vectors import Vector, clip_to_norm

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)


class Device:
    """One household's phone.

    The history stays in this object: `train` returns an update of bounded norm, `evaluate`
    returns counts, `intent` answers on the device itself. An update is *clipped*, which bounds
    how far one household moves the model; it is neither noised nor masked here, so the party
    that receives it could still learn from it.

    Args:
        history: Baskets in time order, each the categories of its lines.
        vocabulary: Public vocabulary, the same on every device of a population.
        model: The device's own copy of the model; its weights are overwritten by every call.
        settings: How to train.
        seed: Seed of this device's shuffling.
    """

    def __init__(
        self,
        history: Sequence[Sequence[str]],
        vocabulary: Vocabulary,
        model: IntentModel,
        settings: TrainerSettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        """Take the history in and cut it into windows to train on and windows to be tested on."""
        self.settings = settings or TrainerSettings()
        self.vocabulary = vocabulary
        self._model = model
        self._seed = seed
        self._history, cut = split_by_time(history, vocabulary, self.settings.held_out)
        self._training = _questions(self._history[:cut], 1, self.settings)
        self._evaluation = _questions(self._history, cut, self.settings)

    def train(self, weights: Vector, round_number: int) -> Vector:
        """Train on the own history from `weights` and return the clipped change.

        The same weights, round and device give the same update, bit by bit, on one machine.

        Args:
            weights: Global weights, flat float32 of the model's size.
            round_number: Round that asks; it selects the shuffling.

        Returns:
            Flat float32 of the same shape, Euclidean norm at most `settings.update_norm`; zero
            if the device has nothing to learn from.

        Raises:
            WeightsError: The weights do not fit, or training diverged.
        """
        self._model.load_vector(weights)
        parameters = list(self._model.parameters())
        begun = [parameter.detach().clone() for parameter in parameters]
        inputs, answers = self._training
        shuffle = np.random.default_rng((self._seed, round_number))
        for _ in range(self.settings.epochs):
            order = torch.from_numpy(shuffle.permutation(len(inputs)))
            for rows in torch.split(order, self.settings.batch_size):
                asked = answers[rows] != PAD
                if not asked.any():
                    continue
                logits = self._model(inputs[rows], asked)
                loss = functional.cross_entropy(logits, answers[rows][asked] - FIRST_CATEGORY)
                gradients = torch.autograd.grad(loss, parameters)
                if self.settings.proximal:
                    gradients = tuple(
                        g + self.settings.proximal * (p.detach() - b)
                        for g, p, b in zip(gradients, parameters, begun, strict=True)
                    )
                self._step(parameters, gradients)
        return clip_to_norm(self._model.vector() - weights, self.settings.update_norm)

    def evaluate(self, weights: Vector) -> Score:
        """Score `weights` on the held-out, latest baskets of the own history.

        Raises:
            WeightsError: The weights do not fit.
        """
        self._model.load_vector(weights)
        inputs, answers = self._evaluation
        asked = answers != PAD
        if not asked.any():
            return Score()
        with torch.no_grad():
            logits = self._model(inputs, asked)
            truth = answers[asked] - FIRST_CATEGORY
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == truth[:, None]
            loss = functional.cross_entropy(logits, truth, reduction="sum")
        return Score(
            steps=len(truth),
            top1=int(ranked[:, 0].sum()),
            top5=int(ranked.sum()),
            loss=float(loss),
        )

    def intent(self, weights: Vector, *, count: int = 5) -> list[tuple[str, float]]:
        """The likeliest lead categories of the next visit, with their probabilities.

        Computed on the device from its whole history; what of it leaves the device is the
        caller's and the person's choice.

        Raises:
            WeightsError: The weights do not fit.
        """
        self._model.load_vector(weights)
        likely = self._model.predict([*self._history.tolist(), BOUNDARY])
        best = np.argsort(-likely, kind="stable")[:count]
        return [
            (self.vocabulary.category(int(token)), float(likely[token]))
            for token in best
            if token >= FIRST_CATEGORY
        ]

    def _step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        # Plain SGD by hand: torch.optim imports its compiler, seconds on a phone-sized machine.
        norm = float(torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(()))))
        step = self.settings.learning_rate * min(
            1.0, self.settings.gradient_norm / max(norm, 1e-12)
        )
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=step)


class LocalPopulation:
    """Devices of this process, asked one after the other; see `rounds.Population`."""

    def __init__(self, devices: Mapping[int, Device]) -> None:
        """Number the devices."""
        self._devices = devices

    def ids(self) -> Sequence[int]:
        """Numbers of the devices."""
        return list(self._devices)

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Iterable[tuple[int, Vector]]:
        """Updates of the devices asked; a device that fails is missing."""
        for number in ids:
            try:
                yield number, self._devices[number].train(weights, round_number)
            except FederatedError as failure:
                _log.warning("a device failed in round %d: %s", round_number, failure)

    def evaluate(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Mapping[int, Score]:
        """Scores of the devices asked."""
        return {number: self._devices[number].evaluate(weights) for number in ids}


def _questions(
    sequence: NDArray[np.int64], start: int, settings: TrainerSettings
) -> tuple[Tensor, Tensor]:
    asked = windows(sequence, start=start, scored=settings.scored, context=settings.context)
    return torch.from_numpy(asked.inputs), torch.from_numpy(asked.answers)
