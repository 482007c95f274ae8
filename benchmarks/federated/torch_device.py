"""A device that trains by torch, as users of Flower do; tests compare `Device` with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from tactful_federated.model import tokens
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.scores import Score
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, Windows
from tactful_federated.model.vectors import Vector, clip_to_norm


class TorchDevice:
    """Device of one household with the interface of `Device`.

    Args:
        history: Baskets in time order, each the categories of its lines.
        vocabulary: Public vocabulary, equal on all devices of a population.
        model: Copy of the model for this device; each call overwrites its weights.
        settings: Settings of training.
        seed: Seed of the shuffling.
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
        """Split the history into windows for training and for evaluation."""
        self.settings = settings or TrainerSettings()
        self.vocabulary = vocabulary
        self._model = model
        self._seed = seed
        self._history, cut = tokens.split_by_time(history, vocabulary, self.settings.held_out)
        self._training = self._windows(self._history[:cut], 1)
        self._evaluation = self._windows(self._history, cut)

    def train(self, weights: Vector, round_number: int) -> Vector:
        """Train on the history from `weights` and return the clipped change.

        The Euclidean norm is at most `settings.update_norm`; it is zero if the history has no
        question. On one machine, equal weights, rounds (for the shuffling) and devices give
        bit-equal updates.

        Raises:
            WeightsError: The weights do not fit, or training diverged.
        """
        self._model.load_vector(weights)
        parameters = list(self._model.parameters())
        initial = [parameter.detach().clone() for parameter in parameters]
        inputs, answers = _tensors(self._training)
        shuffle = np.random.default_rng((self._seed, round_number))
        for _ in range(self.settings.epochs):
            for rows in self._training.batches(self.settings.batch_size, shuffle):
                asked = answers[rows] != tokens.PAD
                logits = self._model(inputs[rows], asked)
                truth = answers[rows][asked] - tokens.FIRST_CATEGORY
                loss = functional.cross_entropy(logits, truth)
                gradients = torch.autograd.grad(loss, parameters)
                if self.settings.proximal:
                    gradients = tuple(
                        g + self.settings.proximal * (p.detach() - b)
                        for g, p, b in zip(gradients, parameters, initial, strict=True)
                    )
                self._step(parameters, gradients)
        return clip_to_norm(self._model.vector() - weights, self.settings.update_norm)

    def evaluate(self, weights: Vector) -> Score:
        """Score `weights` on the held-out, latest baskets.

        Raises:
            WeightsError: The weights do not fit.
        """
        self._model.load_vector(weights)
        inputs, answers = _tensors(self._evaluation)
        asked = answers != tokens.PAD
        if not asked.any():
            return Score()
        with torch.no_grad():
            logits = self._model(inputs, asked)
            truth = answers[asked] - tokens.FIRST_CATEGORY
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == truth[:, None]
            loss = functional.cross_entropy(logits, truth, reduction="sum")
        return Score(
            steps=len(truth), top1=int(ranked[:, 0].sum()), top5=int(ranked.sum()), loss=float(loss)
        )

    def _windows(self, sequence: NDArray[np.int64], start: int) -> Windows:
        scored, context = self.settings.scored, self.settings.context
        return tokens.windows(sequence, start=start, scored=scored, context=context)

    def _step(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        # Plain SGD without torch.optim, whose import loads a compiler and takes seconds.
        norm = float(torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(()))))
        step = self.settings.learning_rate * min(
            1.0, self.settings.gradient_norm / max(norm, 1e-12)
        )
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=step)


def _tensors(asked: Windows) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(asked.inputs), torch.from_numpy(asked.answers)
