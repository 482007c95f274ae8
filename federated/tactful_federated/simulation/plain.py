"""Simulation of federated rounds on real histories, compared with the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tactful_federated.core.fedavg import RoundResult, RoundSettings, run_rounds, start
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.device.trainer import Device
from tactful_federated.errors import HistoryError, require
from tactful_federated.model import tokens
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.scores import Difference, Score, paired_difference
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.simulation.baselines import fit_markov, fit_popularity
from tactful_federated.transport.flower_clear import FlowerPopulation, LocalGrid, client_app

TASK: Final = (
    "Next category of a visit: each basket is read as a set of catalogue categories, the one "
    "with the most lines first, equal ones in catalogue order (lines of a basket have no order "
    "in the data). The questions are the categories of a household's latest baskets, given the "
    "categories before them; the model is trained on the earlier baskets."
)

PRIVACY: Final = (
    "Histories never leave the device objects; the server receives one update per device and "
    "round, clipped to a fixed norm, and counts of right answers. This simulation adds no noise "
    "and does not hide single updates in a secure sum, so NO privacy guarantee is claimed for the "
    "model: an update or the model may reveal information about a household. For a private run, "
    "see `tactful federated plan` and `PrivateTraining`."
)

# Chosen by the questions of `completejourney` with seed 7; others are told in the folder's README.
_TRAINER: Final = TrainerSettings(batch_size=8, learning_rate=2.0, update_norm=8.0)
_OPTIMIZER: Final = Optimizer("fedadam", 0.03, adaptivity=1e-4)


@dataclass(frozen=True)
class SimulationReport:
    """Result of a simulation.

    All rates are over the same `steps` questions: the held-out latest baskets of all devices. The
    baselines are fitted on the pooled training histories, which a federated server does not have.
    """

    households: int
    categories: int
    parameters: int
    steps: int  # number of questions
    rounds: tuple[RoundResult, ...]
    top1: float  # share of answers that the final model ranks first
    top5: float  # share of answers among its first five
    markov_top1: float
    markov_top5: float
    popularity_top1: float
    popularity_top5: float
    top1_gain: Difference  # top1 - markov_top1, with its interval over households
    top5_gain: Difference  # top5 - markov_top5, with its interval over households
    verdict: str  # comparison with the chain in words
    task: str = TASK
    privacy: str = PRIVACY


@dataclass(frozen=True)
class SimulationSettings:
    """Settings of `simulate`.

    Attributes:
        minimum_baskets: Baskets that a household needs to take part, at least 2.
        trainer: Settings of training on devices. Without noise updates need no short bound: by
            default it is 8, not 2.
        server: Settings of rounds; by default half of the devices, at most 24, in each round, and
            FedAdam.
        embedding: Width of a token's vector in the model.
        hidden: Width of the LSTM state.
    """

    minimum_baskets: int = 20
    trainer: TrainerSettings = _TRAINER
    server: RoundSettings | None = None
    embedding: int = 32
    hidden: int = 32

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require(self.minimum_baskets >= 2, "minimum_baskets must be at least 2")


def simulate(
    histories: Mapping[str, Sequence[Sequence[str]]],
    catalogue: Iterable[str],
    *,
    households: int = 48,
    rounds: int = 60,
    seed: int = 7,
    settings: SimulationSettings | None = None,
    progress: Callable[[RoundResult], None] | None = None,
) -> SimulationReport:
    """Train the intent model on simulated devices and compare it with the baselines.

    Each device is a node of a `LocalGrid` and uses Flower's messages, so except for the network the
    path is that of a deployment.

    Args:
        histories: Household to baskets in time order, each the categories of its lines.
        catalogue: Public list of categories.
        households: Devices to draw from the households with enough baskets; all if there are fewer.
        rounds: Rounds to run, at least 1.
        seed: Seed of the draw, the initial weights, the cohorts and the shuffling of devices.
        settings: Further settings.
        progress: Called after each round.

    Raises:
        HistoryError: Fewer than two households have enough baskets, or there is no question.
        VocabularyError: The catalogue is empty.
        SettingsError: A setting is out of range.
    """
    require(rounds >= 1, "rounds must be at least 1")
    require(households >= 2, "households must be at least 2")
    settings = settings or SimulationSettings()
    vocabulary = Vocabulary.from_catalogue(catalogue)
    chosen = _draw(histories, households, settings.minimum_baskets, seed)
    server = settings.server or _default_rounds(len(chosen), settings.trainer)
    widths = settings.embedding, settings.hidden
    initial = IntentModel(vocabulary.size, *widths, seed=seed).vector()
    devices = {
        node: Device(histories[name], vocabulary, settings.trainer, widths=widths, seed=seed + node)
        for node, name in enumerate(chosen, 1)
    }
    grid = LocalGrid(client_app(lambda context: devices[context.node_id]), len(devices))
    population = FlowerPopulation(grid, vocabulary)
    state, results = run_rounds(
        population, start(initial), server, rounds=rounds, seed=seed, progress=progress
    )
    scores = population.evaluate(population.ids(), state.model.release(), state.round)
    baselines = _baselines([histories[name] for name in chosen], vocabulary, settings.trainer)
    return _report(initial.size, vocabulary, results, (list(scores.values()), *baselines), seed)


def _report(
    parameters: int,
    vocabulary: Vocabulary,
    rounds: Sequence[RoundResult],
    scores: tuple[Sequence[Score], Sequence[Score], Sequence[Score]],
    seed: int,
) -> SimulationReport:
    """Compare scores of households: of the model, of the chain and of popularity."""
    model, markov, _ = scores
    total, markov_total, popularity_total = (sum(part, Score()) for part in scores)
    if total.steps == 0:
        raise HistoryError("no held-out basket has a category of the catalogue: nothing to ask")
    top1_gain, top5_gain = (
        paired_difference(
            [(getattr(s, hits), s.steps) for s in model],
            [(getattr(s, hits), s.steps) for s in markov],
            seed=seed,
        )
        for hits in ("top1", "top5")
    )
    return SimulationReport(
        households=len(model),
        categories=len(vocabulary.categories),
        parameters=parameters,
        steps=total.steps,
        rounds=tuple(rounds),
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
            f"{len(eligible)} of {len(histories)} households have {baskets} baskets or more, "
            "and a simulation needs two: lower minimum_baskets or give longer histories"
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
        optimizer=_OPTIMIZER,
    )


def _baselines(
    histories: Sequence[Sequence[Sequence[str]]], vocabulary: Vocabulary, trainer: TrainerSettings
) -> tuple[list[Score], list[Score]]:
    splits = [tokens.split_by_time(history, vocabulary, trainer.held_out) for history in histories]
    past = [sequence[:cut] for sequence, cut in splits]
    questions = [
        tokens.windows(sequence, start=cut, scored=trainer.scored, context=trainer.context)
        for sequence, cut in splits
    ]
    markov, popularity = fit_markov(past), fit_popularity(past)
    return [markov.evaluate(a) for a in questions], [popularity.evaluate(a) for a in questions]


def _verdict(name: str, gain: Difference) -> str:
    span = f"{gain.value:+.3f}, 95 % interval {gain.low:+.3f} to {gain.high:+.3f} over households"
    if gain.low > 0:
        return f"The federated model beats the pooled Markov chain on {name} ({span})."
    if gain.high < 0:
        return f"The federated model does not beat the pooled Markov chain on {name} ({span})."
    return f"No clear difference from the pooled Markov chain on {name} ({span})."
