"""A device: it trains the intent model on the history of one household, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from tactful_federated.model import tokens
from tactful_federated.model.lstm_batched import StackedModel
from tactful_federated.model.lstm_numpy import IntentPredictor, mean_loss
from tactful_federated.model.scores import Score
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, Windows
from tactful_federated.model.vectors import Vector, check_vector, clip_to_norm

_TOP = 5


class Device:
    """Device of one household.

    The history stays in this object: `train` returns an update of bounded norm, and `evaluate`
    returns counts. An update is *clipped*, which bounds its effect on the model, but neither noised
    nor masked here, so its receiver could learn from it.

    Args:
        history: Baskets in time order, each the categories of its lines.
        vocabulary: Public vocabulary, equal on all devices of a population.
        settings: Settings of training.
        widths: Widths of the model's layers, embedding and hidden.
        seed: Seed of the shuffling.
    """

    def __init__(
        self,
        history: Sequence[Sequence[str]],
        vocabulary: Vocabulary,
        settings: TrainerSettings | None = None,
        *,
        widths: tuple[int, int] = (32, 32),
        seed: int = 0,
    ) -> None:
        """Split the history into windows for training and for evaluation."""
        self.settings = settings or TrainerSettings()
        self.vocabulary = vocabulary
        self._model = StackedModel(vocabulary.size, *widths)
        self._widths, self._seed = widths, seed
        self._history, cut = tokens.split_by_time(history, vocabulary, self.settings.held_out)
        self._training = self._windows(self._history[:cut], 1)
        self._evaluation = self._windows(self._history, cut)

    def train(self, weights: Vector, round_number: int) -> Vector:
        """Train on the history from `weights` and return the clipped change.

        Plain SGD. The Euclidean norm is at most `settings.update_norm`; it is zero if the history
        has no question. On one machine, equal weights, rounds (for the shuffling) and devices give
        bit-equal updates.

        Raises:
            WeightsError: The weights do not fit, or training diverged.
        """
        initial, settings = check_vector(weights, self._model.size), self.settings
        trained = initial.copy()
        shuffle = np.random.default_rng((self._seed, round_number))
        with _threads().limit(limits=1, user_api="blas"), np.errstate(all="ignore"):
            for _ in range(settings.epochs):
                for rows in self._training.batches(settings.batch_size, shuffle):
                    inputs, answers = self._training.inputs[rows], self._training.answers[rows]
                    gradient = self._model.gradient(trained[None], inputs[None], answers[None])[0]
                    if settings.proximal:
                        gradient += np.float32(settings.proximal) * (trained - initial)
                    norm = float(np.sqrt(np.einsum("i,i", gradient, gradient)))
                    shrunk = min(1.0, settings.gradient_norm / max(norm, 1e-12))
                    trained -= np.float32(settings.learning_rate * shrunk) * gradient
            return clip_to_norm(trained - initial, settings.update_norm)

    def evaluate(self, weights: Vector) -> Score:
        """Score `weights` on the held-out, latest baskets.

        Raises:
            WeightsError: The weights do not fit.
        """
        embedding, hidden = self._widths
        size = self.vocabulary.size
        predictor = IntentPredictor(weights, size, embedding=embedding, hidden=hidden)
        with _threads().limit(limits=1, user_api="blas"):
            logits, answers = predictor.questions(self._evaluation)
        if not len(answers):
            return Score()
        right = logits[np.arange(len(answers)), answers]
        better = (logits > right[:, None]).sum(axis=1)
        return Score(
            steps=len(answers),
            top1=int((better < 1).sum()),
            top5=int((better < _TOP).sum()),
            loss=mean_loss(logits, answers) * len(answers),
        )

    def _windows(self, sequence: NDArray[np.int64], start: int) -> Windows:
        scored, context = self.settings.scored, self.settings.context
        return tokens.windows(sequence, start=start, scored=scored, context=context)


@cache
def _threads() -> ThreadpoolController:
    # Threads of BLAS cost more than they save on such small products.
    return ThreadpoolController()
