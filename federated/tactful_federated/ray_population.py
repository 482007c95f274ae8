"""Simulated devices on Ray's workers, for populations that one process is too small or slow for.

Not needed for thousands of devices: one process trains those (`cohort.py`), and on one machine
`SimulatedPopulation(threads=…)` uses its cores. Ray spreads them over the machines of its cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tactful_federated.cohort import SimulatedPopulation
from tactful_federated.errors import missing_extra, require
from tactful_federated.scores import Score
from tactful_federated.tokens import Windows
from tactful_federated.vectors import Vector

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it is read when Ray is loaded
try:
    import ray
except ModuleNotFoundError as error:
    raise missing_extra(error, extra="ray") from error


class RayPopulation:
    """The same devices and updates as a `SimulatedPopulation`, as `rounds.Population`.

    Each worker holds its share of the devices, so that only weights and updates travel. A Ray that
    runs is used; otherwise one is started on this machine, and stopped by `close`.

    Args:
        questions: Of each device, what it trains on.
        vocabulary_size: Of the model.
        workers: Among which the devices are shared out, 1 or more.
        settings: Further arguments of `SimulatedPopulation`.
    """

    def __init__(
        self,
        questions: Mapping[int, Windows],
        vocabulary_size: int,
        *,
        workers: int,
        **settings: Any,
    ) -> None:
        """Start the workers."""
        require(workers >= 1, f"workers is {workers}: give 1 or more")
        self._ours = not ray.is_initialized()
        if self._ours:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        share = ray.remote(num_cpus=1)(_Share)
        self._worker_of = {device: n % workers for n, device in enumerate(questions)}
        self._workers = [
            share.remote(
                {of: asked for of, asked in questions.items() if self._worker_of[of] == n},
                vocabulary_size,
                settings,
            )
            for n in range(workers)
        ]

    def ids(self) -> Sequence[int]:
        """Numbers of the devices."""
        return list(self._worker_of)

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Iterable[tuple[int, Vector]]:
        """Clipped updates of the devices asked; one that diverges is missing."""
        handed_out = ray.put(weights)
        asked: dict[int, list[int]] = {}
        for device in ids:
            asked.setdefault(self._worker_of[device], []).append(device)
        for trained in [
            self._workers[n].train.remote(devices, handed_out, round_number)
            for n, devices in asked.items()
        ]:
            yield from ray.get(trained)

    def evaluate(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Mapping[int, Score]:
        """No scores: a simulation is judged apart from its rounds."""
        return {}

    def close(self) -> None:
        """End the workers, and Ray if it was started here."""
        for worker in self._workers:
            ray.kill(worker)
        if self._ours:
            ray.shutdown()


class _Share:
    """One worker's devices."""

    def __init__(
        self, questions: Mapping[int, Windows], vocabulary_size: int, settings: Mapping[str, Any]
    ) -> None:
        self._population = SimulatedPopulation(questions, vocabulary_size, **settings)

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> list[tuple[int, Vector]]:
        return list(self._population.train(ids, weights, round_number))
