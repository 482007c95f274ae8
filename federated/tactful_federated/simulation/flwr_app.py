"""Flower apps of `flwr run federated`: `server` and `client` (on each device).

A device reads its baskets from `history-file` of its node configuration (a JSON list of baskets,
each a list of categories), and the public catalogue from `catalogue-file` (one category per line).
Without these files generated shoppers are used, to try the apps without data.

If `epsilon` is above 0, the run is private and also needs `population`, `delta` and `directory`:
the server reads single updates (`ClearCollector`), adds the noise, and resumes in the directory
after a stop.

Accuracy is that on generated shoppers outside the population, or on the baskets of the operator in
`evaluation-file`, never that on devices: a device with a `history-file` refuses to evaluate, since
exact counts are not private. `tactful federated evaluate` asks devices within a budget.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tactful_federated.core.evaluation_answer import EXACT_REFUSED
from tactful_federated.core.fedavg import RoundResult, RoundSettings, run_rounds, start
from tactful_federated.core.plan import Wishes, plan_training
from tactful_federated.core.private_training import PrivateTraining
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.device.trainer import Device
from tactful_federated.errors import HistoryError, extra, require
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.scores import Score, Scores
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Updates, Vector
from tactful_federated.secagg.collectors import ClearCollector
from tactful_federated.serving.rounds import initial_weights
from tactful_federated.transport.flower_clear import FlowerPopulation, Trainee, client_app
from tactful_privacy.decoding import DECODE_ERRORS

with extra():
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

# A child of Flower's logger, since `flwr log` shows only the records of its handler.
_log = logging.getLogger("flwr.tactful_federated")

_ATTEMPTS = 3
"""Largest number of rounds per release of a private run."""

_FIRST_SCORED, _SCORED = 1 << 20, 20
"""Generated shoppers that weights are scored on; nodes of a simulation have lower numbers."""


def device_of(context: Context) -> Device:
    """Return the device of a node, from its files or a generated shopper.

    Raises:
        HistoryError: The history file is not a JSON list of lists of categories.
    """
    vocabulary = _vocabulary(context.run_config)
    seed = int(context.run_config["seed"])
    node = int(context.node_config.get("partition-id", context.node_id))
    path = str(context.node_config.get("history-file", ""))
    history = _read_history(Path(path)) if path else sample_history(node, seed=seed)
    return Device(history, vocabulary, widths=_widths(context.run_config), seed=seed + node)


def _trainee(context: Context) -> Trainee:
    """Return the device of a node; one with a history of its own is not evaluated."""
    device = device_of(context)
    return _Unevaluated(device) if context.node_config.get("history-file") else device


@dataclass(frozen=True)
class _Unevaluated:
    """Device that trains and refuses to evaluate."""

    _device: Device

    @property
    def vocabulary(self) -> Vocabulary:
        return self._device.vocabulary

    def train(self, weights: Vector, round_number: int) -> Vector:
        return self._device.train(weights, round_number)

    def evaluate(self, weights: Vector) -> Score:
        raise HistoryError(EXACT_REFUSED)


client = client_app(_trainee)
"""The Flower ClientApp."""

server = ServerApp()
"""The Flower ServerApp."""


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Wait for enough devices, run the rounds and save the released weights.

    The run configuration has `seed`, `rounds`, `cohort`, `report-goal`, `minimum-reports`,
    `timeout-s` (of an exchange and of the wait for devices), `embedding` and `hidden` (widths of
    the model, 32 by default), `catalogue-file`, `evaluation-file` (JSON list of baskets of the
    operator's, to score weights on) and `weights-file` (.npy file of the released weights); empty
    ones are not used. A private run also has `epsilon`, `delta`, `directory` and `population`
    (devices that can ever take part).

    Raises:
        HistoryError: Too few devices connected in time, or too many rounds were void.
        SettingsError: There is no plan for the settings.
        CheckpointError: The directory cannot be used.
    """
    config = context.run_config
    seed, timeout = int(config["seed"]), float(config["timeout-s"])
    settings = RoundSettings(
        cohort=int(config["cohort"]),
        report_goal=int(config["report-goal"]),
        minimum_reports=int(config["minimum-reports"]),
    )
    vocabulary = _vocabulary(config)
    population = FlowerPopulation(grid, vocabulary, timeout=timeout)
    _wait_for(population, settings.minimum_reports, timeout)
    initial = initial_weights(vocabulary, *_widths(config), seed=seed)
    if float(config.get("epsilon", 0.0)) > 0:
        released = _run_privately(population, initial, config, timeout)
    else:
        first, rounds = start(initial), int(config["rounds"])
        scored = _ScoredHere(population, _own_devices(config, vocabulary))
        state, _ = run_rounds(scored, first, settings, rounds=rounds, seed=seed, progress=_report)
        released = state.model.release()
    if path := str(config["weights-file"]):
        np.save(path, released)


@dataclass(frozen=True)
class _ScoredHere:
    """Population that trains on devices, and whose weights are scored on data of the operator."""

    _population: FlowerPopulation
    _own: Sequence[Device]

    def ids(self) -> Sequence[int]:
        return self._population.ids()

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        return self._population.train(ids, weights, round_number)

    def evaluate(self, ids: Sequence[int], weights: Vector, round_number: int) -> Scores:
        return {number: device.evaluate(weights) for number, device in enumerate(self._own)}


def _own_devices(config: Mapping[str, Any], vocabulary: Vocabulary) -> list[Device]:
    """Return what weights are scored on: the operator's baskets, or generated shoppers."""
    path = str(config.get("evaluation-file", ""))
    if path:
        histories = [_read_history(Path(path))]
    elif not config["catalogue-file"]:
        numbers = range(_FIRST_SCORED, _FIRST_SCORED + _SCORED)
        histories = [sample_history(number, seed=int(config["seed"])) for number in numbers]
    else:
        return []  # generated shoppers buy nothing of this catalogue
    half = TrainerSettings(held_out=0.5)
    return [Device(baskets, vocabulary, half, widths=_widths(config)) for baskets in histories]


def _run_privately(
    population: FlowerPopulation, initial: Vector, config: Mapping[str, Any], timeout: float
) -> Vector:
    goal, directory = int(config["report-goal"]), str(config["directory"])
    require(directory != "", "directory is empty: a private run needs one for its state")
    plan = plan_training(
        Wishes(
            epsilon=float(config["epsilon"]),
            delta=float(config["delta"]),
            population=int(config["population"]),
            rounds=int(config["rounds"]),
            report_goal=goal,
            over_selection=int(config["cohort"]) / goal,
            minimum_reports=int(config["minimum-reports"]),
            update_norm=TrainerSettings().update_norm,
            parameters=initial.size,
        )
    )
    collector = ClearCollector(population, deadline=timeout)
    with closing(PrivateTraining(Path(directory), plan, Optimizer(), initial)) as training:
        for _ in range(_ATTEMPTS * plan.rounds):
            if training.releases == plan.rounds:
                break
            outcome = training.run_round(collector)
            _log.info("round %d: %s", outcome.round, outcome.reason or "released")
        if training.releases < plan.rounds:
            raise HistoryError(
                f"after {_ATTEMPTS * plan.rounds} rounds there are {training.releases} of"
                f" {plan.rounds} releases: start again when more devices can be reached"
            )
        return training.model


def _report(result: RoundResult) -> None:
    figures = f"loss {result.loss:.3f}, top-1 {result.top1:.3f}, top-5 {result.top5:.3f}"
    if math.isnan(result.loss):
        figures = "not scored: give baskets of your own as evaluation-file"
    _log.info("round %d: %s%s", result.round, figures, " (void)" if result.void else "")


def _wait_for(population: FlowerPopulation, devices: int, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while len(population.ids()) < devices:
        if time.monotonic() > deadline:
            raise HistoryError(f"fewer than {devices} devices connected within {timeout:g} s")
        time.sleep(0.5)


def _widths(config: Mapping[str, Any]) -> tuple[int, int]:
    return int(config.get("embedding", 32)), int(config.get("hidden", 32))


def _vocabulary(config: Mapping[str, Any]) -> Vocabulary:
    path = str(config["catalogue-file"])
    categories = Path(path).read_text("utf-8").splitlines() if path else SAMPLE_CATALOGUE
    return Vocabulary.from_catalogue(categories)


def _read_history(path: Path) -> list[list[str]]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[list[str]])
    except (OSError, *DECODE_ERRORS) as error:
        raise HistoryError(
            f"{path} must hold a JSON list of baskets, each a list of categories: {error}"
        ) from error
