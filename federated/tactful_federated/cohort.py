"""A simulated cohort that trains all at once: the same steps as `Device.train`, stacked.

A phone-sized model leaves a processor idle between small operations; stacked along one more axis,
the devices of a round share each of them. Nothing else differs: every device has its own copy of
the weights, its own shuffling, its own gradient clipping and its own update.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tactful_federated.device import TrainerSettings
from tactful_federated.errors import WeightsError, missing_extra, require
from tactful_federated.scores import Score
from tactful_federated.tokens import FIRST_CATEGORY, PAD, Windows
from tactful_federated.vectors import Vector, check_vector, clip_to_norm

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_IGNORED = -100


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
        categories = vocabulary_size - FIRST_CATEGORY
        self._shapes = [
            (vocabulary_size, embedding),
            (4 * hidden, embedding),
            (4 * hidden, hidden),
            (4 * hidden,),
            (4 * hidden,),
            (categories, hidden + embedding),
            (categories,),
        ]
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]

    def ids(self) -> Sequence[int]:
        """Numbers of the devices."""
        return list(self._questions)

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Iterable[tuple[int, Vector]]:
        """Clipped updates of the devices asked; one that diverges is missing."""
        flat = torch.from_numpy(check_vector(weights, sum(self._sizes)).copy())
        ordered = sorted(ids, key=lambda device: -len(self._questions[device].inputs))
        groups = [ordered[n : n + self._group] for n in range(0, len(ordered), self._group)]
        with ThreadPoolExecutor(self._threads) as pool:
            # So many at a time, since each holds a copy of the weights for each of its devices.
            for first in range(0, len(groups), self._threads):
                beside = groups[first : first + self._threads]
                trained = pool.map(
                    lambda group: self._train_group(group, flat, round_number), beside
                )
                for device, after in zip(chain(*beside), chain.from_iterable(trained), strict=True):
                    try:
                        change = after.numpy() - weights
                        yield device, clip_to_norm(change, self._settings.update_norm)
                    except WeightsError:
                        continue

    def evaluate(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Mapping[int, Score]:
        """No scores: a simulation is judged apart from its rounds."""
        return {}

    def _train_group(self, group: Sequence[int], flat: Tensor, round_number: int) -> Tensor:
        settings = self._settings
        stacked = flat.repeat(len(group), 1)
        batches = [self._batches(device, round_number) for device in group]
        for number in range(max((len(of) for of in batches), default=0)):
            at = [index for index, of in enumerate(batches) if number < len(of)]
            rows = [batches[index][number] for index in at]
            inputs, answers = _stack([self._questions[group[index]] for index in at], rows)
            copies = stacked[at].requires_grad_()
            gradient = torch.autograd.grad(self._loss(copies, inputs, answers), copies)[0]
            with torch.no_grad():
                if settings.proximal:
                    gradient = gradient + settings.proximal * (copies - flat)
                norms = gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
                steps = settings.learning_rate * (settings.gradient_norm / norms).clamp(max=1.0)
                stacked[at] = copies - steps * gradient
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

    def _loss(self, stacked: Tensor, inputs: Tensor, answers: Tensor) -> Tensor:
        """Sum over devices of each one's mean loss; `inputs` is [devices, rows, length]."""
        devices, rows, length = inputs.shape
        table, from_input, from_state, bias1, bias2, out, out_bias = (
            part.reshape(devices, *shape)
            for part, shape in zip(
                torch.split(stacked, self._sizes, dim=1), self._shapes, strict=True
            )
        )
        vocabulary, embedding = self._shapes[0]
        hidden = self._shapes[2][1]
        # Padding is read as zeros and never learnt, as `nn.Embedding` has it.
        offsets = torch.arange(devices)[:, None] * vocabulary
        read = functional.embedding(
            inputs.reshape(devices, -1) + offsets, table.reshape(-1, embedding)
        )
        kept = (inputs.reshape(devices, -1) != PAD)[..., None]
        embedded = torch.where(kept, read, read.detach())
        bias = (bias1 + bias2)[:, None, :]
        arriving = torch.baddbmm(bias, embedded, from_input.transpose(1, 2))
        arriving = arriving.reshape(devices, rows, length, 4 * hidden)
        recurrent = from_state.transpose(1, 2)
        state = cell = torch.zeros(devices, rows, hidden)
        states = []
        for t in range(length):
            gates = arriving[:, :, t] + torch.bmm(state, recurrent)
            entry, forget, value, exit_ = gates.chunk(4, dim=2)
            cell = forget.sigmoid() * cell + entry.sigmoid() * value.tanh()
            state = exit_.sigmoid() * cell.tanh()
            states.append(state)
        seen = torch.stack(states, dim=2).reshape(devices, rows * length, hidden)
        logits = torch.baddbmm(
            out_bias[:, None, :], torch.cat([seen, embedded], dim=2), out.transpose(1, 2)
        )
        losses = functional.cross_entropy(
            logits.reshape(devices * rows * length, -1),
            answers.reshape(-1),
            ignore_index=_IGNORED,
            reduction="none",
        ).reshape(devices, -1)
        asked = (answers != _IGNORED).reshape(devices, -1).sum(dim=1)
        return (losses.sum(dim=1) / asked).sum()


def _stack(
    questions: Sequence[Windows], rows: Sequence[NDArray[np.int64]]
) -> tuple[Tensor, Tensor]:
    """Inputs and answers of one step, filled up to as many rows for each."""
    most = max(len(chosen) for chosen in rows)
    length = questions[0].inputs.shape[1]
    inputs = np.full((len(rows), most, length), PAD, dtype=np.int64)
    answers = np.full((len(rows), most, length), _IGNORED, dtype=np.int64)
    for index, (of, chosen) in enumerate(zip(questions, rows, strict=True)):
        inputs[index, : len(chosen)] = of.inputs[chosen]
        truth = of.answers[chosen]
        answers[index, : len(chosen)] = np.where(truth == PAD, _IGNORED, truth - FIRST_CATEGORY)
    return torch.from_numpy(inputs), torch.from_numpy(answers)
