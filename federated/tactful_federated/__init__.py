"""The on-device intent model and the rounds that train it without collecting histories.

Importing this package needs numpy only; the rest is loaded when it is first used. The model, the
device, the Flower apps, the simulation, plans and training on central data need
`pip install 'tactful[federated]'`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tactful_federated.errors import (
    BudgetError,
    CheckpointError,
    ConsentError,
    FederatedError,
    HistoryError,
    MissingExtraError,
    PackageError,
    SecureSumError,
    SettingsError,
    StoreError,
    VocabularyError,
    WeightsError,
)
from tactful_federated.markov import Markov, fit_markov, fit_popularity
from tactful_federated.optimizer import ModelState, Optimizer
from tactful_federated.participation import Participation
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
    from tactful_federated.buffered import BufferedTraining
    from tactful_federated.central import (
        CentralSettings,
        CentralTraining,
        epsilon_of,
        train_privately,
    )
    from tactful_federated.certificates import Tls, make_tls
    from tactful_federated.cohort import SimulatedPopulation
    from tactful_federated.collectors import ClearCollector, SecureCollector, SecureTransport
    from tactful_federated.correlated_noise import BandedRoot, CorrelatedNoise, NoiseMemory
    from tactful_federated.device import Device, LocalPopulation, TrainerSettings
    from tactful_federated.device_home import DeviceHome, EnrolmentRequest
    from tactful_federated.device_ledger import Conditions, DeviceLedger
    from tactful_federated.evaluation import (
        Evaluation,
        PrivateEvaluations,
        evaluator,
        plan_evaluations,
    )
    from tactful_federated.event_store import EventStore
    from tactful_federated.fixed_point import FixedPoint
    from tactful_federated.fleet import FleetClient, FleetError
    from tactful_federated.flower import FlowerPopulation, LocalGrid, client_app, training_app
    from tactful_federated.flower_secure import FlowerSecureTransport, secure_client_app
    from tactful_federated.inference import IntentPredictor, fit_temperature
    from tactful_federated.invitation import Invitation, read_invitation
    from tactful_federated.model import IntentModel
    from tactful_federated.model_package import ModelPackage, ModelSlot, open_package, pack_model
    from tactful_federated.plan import (
        TrainingPlan,
        Wishes,
        plan_noise_in_sum,
        plan_training,
        without_noise,
    )
    from tactful_federated.private_rounds import Collected, Collector, Outcome, PrivateTraining
    from tactful_federated.private_simulation import PrivateSimulation, simulate_privately
    from tactful_federated.secure_device import SecureSumDevice
    from tactful_federated.secure_messages import Enrolment, Session, enrol
    from tactful_federated.secure_round import SecureRounds
    from tactful_federated.secure_server import SecureSumServer, SecureTotal, sum_in_secret
    from tactful_federated.serving import LiveView, collector_for, invite, serve_rounds
    from tactful_federated.simulation import SimulationReport, simulate
    from tactful_federated.superlink import SuperLink, SuperLinkError
    from tactful_federated.superlink_grid import SuperLinkGrid

__all__ = [
    "BandedRoot",
    "BudgetError",
    "BufferedTraining",
    "CentralSettings",
    "CentralTraining",
    "CheckpointError",
    "ClearCollector",
    "Collected",
    "Collector",
    "Conditions",
    "ConsentError",
    "CorrelatedNoise",
    "Device",
    "DeviceHome",
    "DeviceLedger",
    "Difference",
    "Enrolment",
    "EnrolmentRequest",
    "Evaluation",
    "EventStore",
    "FederatedError",
    "FixedPoint",
    "FleetClient",
    "FleetError",
    "FlowerPopulation",
    "FlowerSecureTransport",
    "HistoryError",
    "IntentModel",
    "IntentPredictor",
    "Invitation",
    "LiveView",
    "LocalGrid",
    "LocalPopulation",
    "Markov",
    "MissingExtraError",
    "ModelPackage",
    "ModelSlot",
    "ModelState",
    "NoiseMemory",
    "Optimizer",
    "Outcome",
    "PackageError",
    "Participation",
    "Population",
    "PrivateEvaluations",
    "PrivateSimulation",
    "PrivateTraining",
    "RoundResult",
    "RoundSettings",
    "Score",
    "SecureCollector",
    "SecureRounds",
    "SecureSumDevice",
    "SecureSumError",
    "SecureSumServer",
    "SecureTotal",
    "SecureTransport",
    "ServerState",
    "Session",
    "SettingsError",
    "SimulatedPopulation",
    "SimulationReport",
    "StoreError",
    "SuperLink",
    "SuperLinkError",
    "SuperLinkGrid",
    "Tally",
    "Tls",
    "TrainerSettings",
    "TrainingPlan",
    "Vocabulary",
    "VocabularyError",
    "WeightsError",
    "Windows",
    "Wishes",
    "apply_reports",
    "client_app",
    "clip_to_norm",
    "collector_for",
    "enrol",
    "epsilon_of",
    "evaluator",
    "fit_markov",
    "fit_popularity",
    "fit_temperature",
    "invite",
    "make_tls",
    "open_package",
    "pack_model",
    "plan_evaluations",
    "plan_noise_in_sum",
    "plan_training",
    "read_invitation",
    "run_rounds",
    "sample_cohort",
    "secure_client_app",
    "serve_rounds",
    "simulate",
    "simulate_privately",
    "split_by_time",
    "start",
    "sum_in_secret",
    "train_privately",
    "training_app",
    "windows",
    "without_noise",
]

_LOADED_WHEN_USED = {
    "BandedRoot": "correlated_noise",
    "BufferedTraining": "buffered",
    "CentralSettings": "central",
    "CentralTraining": "central",
    "ClearCollector": "collectors",
    "Collected": "private_rounds",
    "Collector": "private_rounds",
    "Conditions": "device_ledger",
    "CorrelatedNoise": "correlated_noise",
    "Device": "device",
    "DeviceHome": "device_home",
    "DeviceLedger": "device_ledger",
    "Enrolment": "secure_messages",
    "EnrolmentRequest": "device_home",
    "Evaluation": "evaluation",
    "EventStore": "event_store",
    "FixedPoint": "fixed_point",
    "FleetClient": "fleet",
    "FleetError": "fleet",
    "FlowerPopulation": "flower",
    "FlowerSecureTransport": "flower_secure",
    "IntentModel": "model",
    "IntentPredictor": "inference",
    "Invitation": "invitation",
    "LiveView": "serving",
    "LocalGrid": "flower",
    "LocalPopulation": "device",
    "ModelPackage": "model_package",
    "ModelSlot": "model_package",
    "NoiseMemory": "correlated_noise",
    "Outcome": "private_rounds",
    "PrivateEvaluations": "evaluation",
    "PrivateSimulation": "private_simulation",
    "PrivateTraining": "private_rounds",
    "SecureCollector": "collectors",
    "SecureRounds": "secure_round",
    "SecureSumDevice": "secure_device",
    "SecureSumServer": "secure_server",
    "SecureTotal": "secure_server",
    "SecureTransport": "collectors",
    "Session": "secure_messages",
    "SimulatedPopulation": "cohort",
    "SimulationReport": "simulation",
    "SuperLink": "superlink",
    "SuperLinkError": "superlink",
    "SuperLinkGrid": "superlink_grid",
    "Tls": "certificates",
    "TrainerSettings": "device",
    "TrainingPlan": "plan",
    "Wishes": "plan",
    "client_app": "flower",
    "collector_for": "serving",
    "enrol": "secure_messages",
    "epsilon_of": "central",
    "evaluator": "evaluation",
    "fit_temperature": "inference",
    "invite": "serving",
    "make_tls": "certificates",
    "open_package": "model_package",
    "pack_model": "model_package",
    "plan_evaluations": "evaluation",
    "plan_noise_in_sum": "plan",
    "plan_training": "plan",
    "read_invitation": "invitation",
    "secure_client_app": "flower_secure",
    "serve_rounds": "serving",
    "simulate": "simulation",
    "simulate_privately": "private_simulation",
    "sum_in_secret": "secure_server",
    "train_privately": "central",
    "training_app": "flower",
    "without_noise": "plan",
}


def __getattr__(name: str) -> Any:
    """Load a public name whose module is not needed by all."""
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LOADED_WHEN_USED[name]}"), name)


def __dir__() -> list[str]:
    return __all__
