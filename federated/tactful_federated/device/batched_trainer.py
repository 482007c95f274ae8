"""Simulated cohorts that train together: the steps of `Device.train`, stacked.

The operations of a small model are too short to use a processor well, so the devices of a round are
stacked along one more axis (`lstm_batched.py`). Each device still has its own copy of the weights,
shuffling, gradient clipping and update.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from tactful_federated.errors import WeightsError, require
from tactful_federated.model.lstm_batched import Floats, StackedModel, Tokens
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import PAD, Windows
from tactful_federated.model.vectors import Updates, Vector, check_vector, clip_to_norm


class SimulatedPopulation:
    """Simulated devices with an `IntentModel`; a simulation is evaluated separately.

    Args:
        questions: Training questions of each device.
        vocabulary_size: Number of tokens, including reserved ones.
        embedding: Width of a token's vector.
        hidden: Width of the LSTM state.
        settings: Settings of training.
        seed: Seed; device n shuffles with `seed + n`, like a `Device` with that seed.
        group: Devices in a stack, 1 or more.
        threads: Stacks trained in parallel, 1 or more; updates do not depend on it.
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
        """Check the sizes and create the model."""
        require(group >= 1 and threads >= 1, "group and threads must be at least 1")
        self._questions, self._seed = questions, seed
        self._group, self._threads = group, threads
        self._settings = settings or TrainerSettings()
        # Threads of BLAS cost more than they save on such small products.
        self._blas = ThreadpoolController()
        self._model = StackedModel(vocabulary_size, embedding=embedding, hidden=hidden)

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices."""
        return list(self._questions)

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        """Yield clipped updates of the devices; those that diverge are left out."""
        flat = check_vector(weights, self._model.size)
        ordered = sorted(ids, key=lambda device: -len(self._questions[device].inputs))
        groups = [ordered[n : n + self._group] for n in range(0, len(ordered), self._group)]
        with ThreadPoolExecutor(self._threads) as pool:
            # `threads` groups at a time: each holds a copy of the weights for every device.
            for first in range(0, len(groups), self._threads):
                batch = groups[first : first + self._threads]
                with self._blas.limit(limits=1, user_api="blas"):
                    trained = list(
                        pool.map(lambda group: self._train_group(group, flat, round_number), batch)
                    )
                for device, after in zip(chain(*batch), chain.from_iterable(trained), strict=True):
                    try:
                        yield device, clip_to_norm(after - weights, self._settings.update_norm)
                    except WeightsError:
                        continue

    def _train_group(self, group: Sequence[int], flat: Vector, round_number: int) -> Floats:
        settings = self._settings
        stacked = np.repeat(flat[None], len(group), axis=0)
        batches = [self._batches(device, round_number) for device in group]
        for number in range(max((len(steps) for steps in batches), default=0)):
            active = [index for index, steps in enumerate(batches) if number < len(steps)]
            rows = [batches[index][number] for index in active]
            inputs, answers = _stack([self._questions[group[index]] for index in active], rows)
            copies = stacked[active] if len(active) < len(group) else stacked
            gradient = self._model.gradient(copies, inputs, answers)
            if settings.proximal:
                gradient += np.float32(settings.proximal) * (copies - flat)
            norms = np.sqrt(np.einsum("ij,ij->i", gradient, gradient))
            shrunk = np.minimum(1.0, settings.gradient_norm / np.maximum(norms, 1e-12))
            gradient *= (settings.learning_rate * shrunk).astype(np.float32)[:, None]
            stacked[active] = copies - gradient
        return stacked

    def _batches(self, device: int, round_number: int) -> list[NDArray[np.int64]]:
        """Return the rows of each step, like `Device.train`."""
        questions, settings = self._questions[device], self._settings
        shuffle = np.random.default_rng((self._seed + device, round_number))
        epochs = range(settings.epochs)
        return [rows for _ in epochs for rows in questions.batches(settings.batch_size, shuffle)]


def _stack(
    questions: Sequence[Windows], rows: Sequence[NDArray[np.int64]]
) -> tuple[Tokens, Tokens]:
    """Return inputs and answers of a step, padded: `[devices, rows, length]`."""
    largest = max(len(chosen) for chosen in rows)
    length = questions[0].inputs.shape[1]
    inputs = np.full((len(rows), largest, length), PAD, dtype=np.int64)
    answers = np.full((len(rows), largest, length), PAD, dtype=np.int64)
    for index, (own, chosen) in enumerate(zip(questions, rows, strict=True)):
        inputs[index, : len(chosen)] = own.inputs[chosen]
        answers[index, : len(chosen)] = own.answers[chosen]
    return inputs, answers
