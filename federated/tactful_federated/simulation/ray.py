"""Simulated devices on Ray workers, for populations too large for one process.

Thousands of devices do not need it: `SimulatedPopulation(threads=…)` uses the cores of one machine.
Ray distributes devices over the machines of a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tactful_federated.device.batched_trainer import SimulatedPopulation
from tactful_federated.errors import extra, require
from tactful_federated.model.tokens import Windows
from tactful_federated.model.vectors import Updates, Vector

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it on import
with extra("ray"):
    import ray


class RayPopulation:
    """Devices with the same updates as `SimulatedPopulation`, trained on Ray.

    Each worker holds a part of the devices, so only weights and updates are sent. A running Ray is
    used; otherwise one is started on this machine, and `close` stops it.
    """

    def __init__(
        self,
        questions: Mapping[int, Windows],
        vocabulary_size: int,
        *,
        workers: int,
        **settings: Any,
    ) -> None:
        """Start the workers; `settings` are further arguments of `SimulatedPopulation`."""
        require(workers >= 1, f"workers is {workers}: give 1 or more")
        self._started_ray = not ray.is_initialized()
        if self._started_ray:
            ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
        worker = ray.remote(num_cpus=1)(_Worker)
        self._worker_of = {device: n % workers for n, device in enumerate(questions)}
        self._workers = [
            worker.remote(
                {device: own for device, own in questions.items() if self._worker_of[device] == n},
                vocabulary_size,
                settings,
            )
            for n in range(workers)
        ]

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices."""
        return list(self._worker_of)

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        """Yield clipped updates of the devices; those that diverge are left out."""
        shared_weights = ray.put(weights)
        devices_of: dict[int, list[int]] = {}
        for device in ids:
            devices_of.setdefault(self._worker_of[device], []).append(device)
        for trained in [
            self._workers[n].train.remote(devices, shared_weights, round_number)
            for n, devices in devices_of.items()
        ]:
            yield from ray.get(trained)

    def close(self) -> None:
        """Stop the workers, and Ray if it was started here."""
        for worker in self._workers:
            ray.kill(worker)
        if self._started_ray:
            ray.shutdown()


class _Worker:
    """Devices of one worker."""

    def __init__(
        self, questions: Mapping[int, Windows], vocabulary_size: int, settings: Mapping[str, Any]
    ) -> None:
        self._population = SimulatedPopulation(questions, vocabulary_size, **settings)

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> list[tuple[int, Vector]]:
        return list(self._population.train(ids, weights, round_number))
