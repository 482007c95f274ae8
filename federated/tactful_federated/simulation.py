"""A run of federated rounds on real histories, in one process, judged against its baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from tactful_federated.device import Device
from tactful_federated.errors import HistoryError, missing_extra, require
from tactful_federated.flower import FlowerPopulation, LocalGrid, client_app
from tactful_federated.markov import fit_markov, fit_popularity
from tactful_federated.model import IntentModel
from tactful_federated.rounds import RoundResult, RoundSettings, run_rounds, start
from tactful_federated.scores import Difference, Score, paired_difference
from tactful_federated.tokens import Vocabulary, split_by_time, windows
from tactful_federated.trainer_settings import TrainerSettings

try:
    import torch
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

TASK: Final = (
    "Next category of a visit: each basket is read as a set of catalogue categories, the one "
    "with the most lines first, equal ones in catalogue order (lines of a basket have no order "
    "in the data). Asked is every category of a household's latest baskets, from the categories "
    "before it; trained is on the baskets before those."
)

PRIVACY: Final = (
    "Histories never leave the device objects; the server receives one update per device and "
    "round, clipped to a fixed norm, and counts of right answers. This simulation adds no noise "
    "and does not hide single updates in a secure sum, so NO privacy guarantee is claimed for the "
    "model: whoever sees an update or the model may learn about a household. A private run is "
    "what `tactful federated plan` plans and `PrivateTraining` carries out."
)


@dataclass(frozen=True)
class SimulationReport:
    """What a simulation measured.

    Every rate is over the same `steps` questions: the held-out latest baskets of all devices.
    The baselines are fitted on the pooled training histories, which a federated server does not
    have.

    Attributes:
        households: Devices taking part.
        categories: Categories of the public catalogue.
        parameters: Parameters of the model.
        steps: Questions asked.
        rounds: Every round.
        top1: Share of answers the final model ranks first.
        top5: Share of answers it ranks among the first five.
        markov_top1: The same of the Markov chain.
        markov_top5: The same of the Markov chain.
        popularity_top1: The same of the most popular categories.
        popularity_top5: The same of the most popular categories.
        top1_gain: `top1 - markov_top1` with its interval over households.
        top5_gain: `top5 - markov_top5` with its interval over households.
        verdict: In words, whether the model beats the chain.
        task: What was asked.
        privacy: What is and what is not protected.
    """

    households: int
    categories: int
    parameters: int
    steps: int
    rounds: tuple[RoundResult, ...]
    top1: float
    top5: float
    markov_top1: float
    markov_top5: float
    popularity_top1: float
    popularity_top5: float
    top1_gain: Difference
    top5_gain: Difference
    verdict: str
    task: str = TASK
    privacy: str = PRIVACY


def simulate(
    histories: Mapping[str, Sequence[Sequence[str]]],
    catalogue: Iterable[str],
    *,
    households: int = 48,
    rounds: int = 60,
    seed: int = 7,
    progress: Callable[[RoundResult], None] | None = None,
    minimum_baskets: int = 20,
    trainer: TrainerSettings | None = None,
    server: RoundSettings | None = None,
    threads: int = 1,
    embedding: int = 32,
    hidden: int = 32,
) -> SimulationReport:
    """Train the intent model on some households' devices and compare it with the baselines.

    Each device is a node of a `LocalGrid` and speaks Flower's messages, so the path is that of a
    deployment but for the network.

    Args:
        histories: Household to baskets in time order, each the categories of its lines.
        catalogue: Public list of categories.
        households: Devices to draw, at random, from households with enough baskets; all of them
            if there are fewer.
        rounds: Rounds to run, at least 1.
        seed: Seed of the draw, the initial weights, the cohorts and the devices' shuffling.
        progress: Called after every round.
        minimum_baskets: Baskets a household needs to take part, at least 2.
        trainer: How devices train.
        server: How rounds are run; by default half of the devices, at most 24, per round.
        threads: Threads torch may use meanwhile; the setting before is restored.
        embedding: Width of a token's vector in the model.
        hidden: Width of the model's LSTM state.

    Raises:
        HistoryError: Fewer than two households have enough baskets, or nothing can be asked.
        VocabularyError: The catalogue is empty.
        SettingsError: A setting is out of range.
    """
    require(rounds >= 1, "rounds must be at least 1")
    require(households >= 2, "households must be at least 2")
    require(minimum_baskets >= 2, "minimum_baskets must be at least 2")
    trainer = trainer or TrainerSettings()
    vocabulary = Vocabulary.from_catalogue(catalogue)
    chosen = _draw(histories, households, minimum_baskets, seed)
    server = server or _default_rounds(len(chosen), trainer)
    with _threads(threads):
        initial = IntentModel(vocabulary.size, embedding=embedding, hidden=hidden, seed=seed)
        devices = {
            node: Device(
                histories[name],
                vocabulary,
                IntentModel(vocabulary.size, embedding=embedding, hidden=hidden, seed=seed),
                trainer,
                seed=seed + node,
            )
            for node, name in enumerate(chosen, 1)
        }
        grid = LocalGrid(client_app(lambda context: devices[context.node_id]), len(devices))
        population = FlowerPopulation(grid, vocabulary)
        state, results = run_rounds(
            population, start(initial.vector()), server, rounds=rounds, seed=seed, progress=progress
        )
        scores = population.evaluate(population.ids(), state.model.release(), state.round)
    ours = [scores[node] for node in devices]
    markov, popularity = _baselines([histories[name] for name in chosen], vocabulary, trainer)
    total, markov_total = sum(ours, Score()), sum(markov, Score())
    popularity_total = sum(popularity, Score())
    if total.steps == 0:
        raise HistoryError("no held-out basket holds a category of the catalogue; nothing to ask")
    top1_gain = paired_difference(
        [(s.top1, s.steps) for s in ours], [(s.top1, s.steps) for s in markov], seed=seed
    )
    top5_gain = paired_difference(
        [(s.top5, s.steps) for s in ours], [(s.top5, s.steps) for s in markov], seed=seed
    )
    return SimulationReport(
        households=len(devices),
        categories=len(vocabulary.categories),
        parameters=initial.size,
        steps=total.steps,
        rounds=tuple(results),
        top1=total.top1_rate,
        top5=total.top5_rate,
        markov_top1=markov_total.top1_rate,
        markov_top5=markov_total.top5_rate,
        popularity_top1=popularity_total.top1_rate,
        popularity_top5=popularity_total.top5_rate,
        top1_gain=top1_gain,
        top5_gain=top5_gain,
        verdict=f"{_verdict('top-1', top1_gain)} {_verdict('top-5', top5_gain)}",
    )


def _draw(
    histories: Mapping[str, Sequence[Sequence[str]]], households: int, baskets: int, seed: int
) -> list[str]:
    eligible = sorted(name for name, history in histories.items() if len(history) >= baskets)
    if len(eligible) < 2:
        raise HistoryError(
            f"{len(eligible)} of {len(histories)} households have {baskets} baskets or more; "
            "a simulation needs two: lower minimum_baskets or give longer histories"
        )
    order = np.random.default_rng(seed).permutation(len(eligible))
    return [eligible[i] for i in order[:households]]


def _default_rounds(devices: int, trainer: TrainerSettings) -> RoundSettings:
    cohort = min(24, (devices + 1) // 2)
    return RoundSettings(
        cohort=cohort,
        report_goal=cohort,
        minimum_reports=max(1, cohort * 2 // 3),
        update_norm=trainer.update_norm,
    )


def _baselines(
    histories: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary, trainer: TrainerSettings
) -> tuple[list[Score], list[Score]]:
    parts = [split_by_time(history, vocabulary, trainer.held_out) for history in histories]
    past = [sequence[:cut] for sequence, cut in parts]
    asked = [
        windows(sequence, start=cut, scored=trainer.scored, context=trainer.context)
        for sequence, cut in parts
    ]
    markov, popularity = fit_markov(past), fit_popularity(past)
    return [markov.evaluate(a) for a in asked], [popularity.evaluate(a) for a in asked]


def _verdict(name: str, gain: Difference) -> str:
    span = f"{gain.value:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f} over households"
    if gain.low > 0:
        return f"The federated model beats the pooled Markov chain on {name} ({span})."
    if gain.high < 0:
        return f"The federated model does not beat the pooled Markov chain on {name} ({span})."
    return f"No clear difference from the pooled Markov chain on {name} ({span})."


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
