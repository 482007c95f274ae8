"""The on-device intent model and the rounds that train it without collecting histories.

Importing this package needs numpy only. The model, the device, the Flower apps, the simulation and
private training are loaded when they are first used; they need
`pip install 'tactful[federated]'`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tactful_federated.errors import (
    FederatedError,
    HistoryError,
    MissingExtraError,
    SettingsError,
    VocabularyError,
    WeightsError,
)
from tactful_federated.markov import Markov, fit_markov, fit_popularity
from tactful_federated.rounds import (
    Population,
    RoundResult,
    RoundSettings,
    ServerState,
    Tally,
    apply_reports,
    run_rounds,
    sample_cohort,
    start,
)
from tactful_federated.scores import Difference, Score
from tactful_federated.tokens import Vocabulary, Windows, split_by_time, windows
from tactful_federated.vectors import clip_to_norm

if TYPE_CHECKING:
    from tactful_federated.central import (
        CentralSettings,
        CentralTraining,
        epsilon_of,
        train_privately,
    )
    from tactful_federated.device import Device, LocalPopulation, TrainerSettings
    from tactful_federated.flower import FlowerPopulation, LocalGrid, client_app
    from tactful_federated.model import IntentModel
    from tactful_federated.simulation import SimulationReport, simulate

__all__ = [
    "CentralSettings",
    "CentralTraining",
    "Device",
    "Difference",
    "FederatedError",
    "FlowerPopulation",
    "HistoryError",
    "IntentModel",
    "LocalGrid",
    "LocalPopulation",
    "Markov",
    "MissingExtraError",
    "Population",
    "RoundResult",
    "RoundSettings",
    "Score",
    "ServerState",
    "SettingsError",
    "SimulationReport",
    "Tally",
    "TrainerSettings",
    "Vocabulary",
    "VocabularyError",
    "WeightsError",
    "Windows",
    "apply_reports",
    "client_app",
    "clip_to_norm",
    "epsilon_of",
    "fit_markov",
    "fit_popularity",
    "run_rounds",
    "sample_cohort",
    "simulate",
    "split_by_time",
    "start",
    "train_privately",
    "windows",
]

_NEEDS_EXTRA = {
    "CentralSettings": "central",
    "CentralTraining": "central",
    "Device": "device",
    "FlowerPopulation": "flower",
    "IntentModel": "model",
    "LocalGrid": "flower",
    "LocalPopulation": "device",
    "SimulationReport": "simulation",
    "TrainerSettings": "device",
    "client_app": "flower",
    "epsilon_of": "central",
    "simulate": "simulation",
    "train_privately": "central",
}


def __getattr__(name: str) -> Any:
    """Load a public name whose module needs torch or flwr."""
    if name not in _NEEDS_EXTRA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_EXTRA[name]}"), name)


def __dir__() -> list[str]:
    return __all__
