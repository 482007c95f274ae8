"""A simulated cohort that trains all at once: the same steps as `Device.train`, stacked.

A phone-sized model leaves a processor idle between small operations; stacked along one more axis,
the devices of a round share each of them (`stacked_lstm.py`). Nothing else differs: every device
has its own copy of the weights, its own shuffling, its own gradient clipping and its own update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from tactful_federated.errors import WeightsError, require
from tactful_federated.scores import Score
from tactful_federated.stacked_lstm import Floats, StackedModel, Tokens
from tactful_federated.tokens import PAD, Windows
from tactful_federated.trainer_settings import TrainerSettings
from tactful_federated.vectors import Vector, check_vector, clip_to_norm


class SimulatedPopulation:
    """Devices of a simulation, as `rounds.Population`; `IntentModel` is the model.

    Args:
        questions: Of each device, what it trains on.
        vocabulary_size: Of the model.
        embedding: Of the model.
        hidden: Of the model.
        settings: How devices train.
        seed: Device n shuffles by `seed + n`, as `Device` does by its own seed.
        group: Devices stacked at a time.
        threads: Stacks trained at a time, 1 or more; updates do not depend on it.
    """

    def __init__(
        self,
        questions: Mapping[int, Windows],
        vocabulary_size: int,
        *,
        embedding: int = 32,
        hidden: int = 32,
        settings: TrainerSettings | None = None,
        seed: int = 0,
        group: int = 32,
        threads: int = 1,
    ) -> None:
        """Look at the devices' questions."""
        require(group >= 1 and threads >= 1, "group and threads must be at least 1")
        self._questions, self._seed = questions, seed
        self._group, self._threads = group, threads
        self._settings = settings or TrainerSettings()
        # Its products are small: threads of the library's own take longer to meet than to multiply.
        self._blas = ThreadpoolController()
        self._model = StackedModel(vocabulary_size, embedding=embedding, hidden=hidden)

    def ids(self) -> Sequence[int]:
        """Numbers of the devices."""
        return list(self._questions)

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Iterable[tuple[int, Vector]]:
        """Clipped updates of the devices asked; one that diverges is missing."""
        flat = check_vector(weights, self._model.size)
        ordered = sorted(ids, key=lambda device: -len(self._questions[device].inputs))
        groups = [ordered[n : n + self._group] for n in range(0, len(ordered), self._group)]
        with ThreadPoolExecutor(self._threads) as pool:
            # So many at a time, since each holds a copy of the weights for each of its devices.
            for first in range(0, len(groups), self._threads):
                beside = groups[first : first + self._threads]
                with self._blas.limit(limits=1, user_api="blas"):
                    trained = list(
                        pool.map(lambda group: self._train_group(group, flat, round_number), beside)
                    )
                for device, after in zip(chain(*beside), chain.from_iterable(trained), strict=True):
                    try:
                        yield device, clip_to_norm(after - weights, self._settings.update_norm)
                    except WeightsError:
                        continue

    def evaluate(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Mapping[int, Score]:
        """No scores: a simulation is judged apart from its rounds."""
        return {}

    def _train_group(self, group: Sequence[int], flat: Vector, round_number: int) -> Floats:
        settings = self._settings
        stacked = np.repeat(flat[None], len(group), axis=0)
        batches = [self._batches(device, round_number) for device in group]
        for number in range(max((len(of) for of in batches), default=0)):
            at = [index for index, of in enumerate(batches) if number < len(of)]
            rows = [batches[index][number] for index in at]
            inputs, answers = _stack([self._questions[group[index]] for index in at], rows)
            copies = stacked[at] if len(at) < len(group) else stacked
            gradient = self._model.gradient(copies, inputs, answers)
            if settings.proximal:
                gradient += np.float32(settings.proximal) * (copies - flat)
            norms = np.sqrt(np.einsum("ij,ij->i", gradient, gradient))
            shrunk = np.minimum(1.0, settings.gradient_norm / np.maximum(norms, 1e-12))
            gradient *= (settings.learning_rate * shrunk).astype(np.float32)[:, None]
            stacked[at] = copies - gradient
        return stacked

    def _batches(self, device: int, round_number: int) -> list[NDArray[np.int64]]:
        """Rows of each step, those without a question left out, as a device would."""
        questions, settings = self._questions[device], self._settings
        shuffle = np.random.default_rng((self._seed + device, round_number))
        found = []
        for _ in range(settings.epochs):
            order = shuffle.permutation(len(questions.inputs))
            for first in range(0, len(order), settings.batch_size):
                rows = order[first : first + settings.batch_size]
                if (questions.answers[rows] != PAD).any():
                    found.append(rows)
        return found


def _stack(
    questions: Sequence[Windows], rows: Sequence[NDArray[np.int64]]
) -> tuple[Tokens, Tokens]:
    """Inputs and answers of one step, filled up to as many rows for each."""
    most = max(len(chosen) for chosen in rows)
    length = questions[0].inputs.shape[1]
    inputs = np.full((len(rows), most, length), PAD, dtype=np.int64)
    answers = np.full((len(rows), most, length), PAD, dtype=np.int64)
    for index, (of, chosen) in enumerate(zip(questions, rows, strict=True)):
        inputs[index, : len(chosen)] = of.inputs[chosen]
        answers[index, : len(chosen)] = of.answers[chosen]
    return inputs, answers
