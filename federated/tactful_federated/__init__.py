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
from tactful_federated.polling import Polling
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
    from tactful_federated.buffered_serving import FlowerStream, serve_buffered
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
    from tactful_federated.curvature import mean_curvature
    from tactful_federated.device import Device, LocalPopulation
    from tactful_federated.device_home import DeviceHome, EnrolmentRequest
    from tactful_federated.device_intent import DeviceIntent, Trigger
    from tactful_federated.device_ledger import Conditions, DeviceLedger
    from tactful_federated.device_limits import Limits, keep_within
    from tactful_federated.evaluation import (
        Evaluation,
        PrivateEvaluations,
        evaluator,
        plan_evaluations,
    )
    from tactful_federated.event_store import EventStore
    from tactful_federated.export import to_torchscript
    from tactful_federated.fixed_point import FixedPoint
    from tactful_federated.fleet import FleetClient, FleetError
    from tactful_federated.flower import FlowerPopulation, LocalGrid, client_app, training_app
    from tactful_federated.flower_secure import FlowerSecureTransport, secure_client_app
    from tactful_federated.inference import IntentPredictor, fit_temperature
    from tactful_federated.invitation import Invitation, read_invitation
    from tactful_federated.model import IntentModel
    from tactful_federated.model_package import ModelPackage, ModelSlot, open_package, pack_model
    from tactful_federated.onnx_export import to_onnx
    from tactful_federated.personal import Personal, personalise
    from tactful_federated.plan import (
        TrainingPlan,
        Wishes,
        plan_noise_in_sum,
        plan_training,
        without_noise,
    )
    from tactful_federated.private_rounds import Collected, Collector, Outcome, PrivateTraining
    from tactful_federated.private_simulation import (
        PrivateSimulation,
        PrivateSimulationSettings,
        simulate_privately,
    )
    from tactful_federated.secure_device import SecureSumDevice
    from tactful_federated.secure_messages import Enrolment, Session, enrol
    from tactful_federated.secure_round import SecureRounds
    from tactful_federated.secure_server import SecureSumServer, SecureTotal, sum_in_secret
    from tactful_federated.serving import LiveView, collector_for, invite, serve_rounds
    from tactful_federated.serving_evaluations import invite_to_evaluations, serve_evaluation
    from tactful_federated.simulation import SimulationReport, SimulationSettings, simulate
    from tactful_federated.superlink import SuperLink, SuperLinkError
    from tactful_federated.superlink_grid import SuperLinkGrid
    from tactful_federated.trainer_settings import TrainerSettings

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
    "DeviceIntent",
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
    "FlowerStream",
    "HistoryError",
    "IntentModel",
    "IntentPredictor",
    "Invitation",
    "Limits",
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
    "Personal",
    "Polling",
    "Population",
    "PrivateEvaluations",
    "PrivateSimulation",
    "PrivateSimulationSettings",
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
    "SimulationSettings",
    "StoreError",
    "SuperLink",
    "SuperLinkError",
    "SuperLinkGrid",
    "Tally",
    "Tls",
    "TrainerSettings",
    "TrainingPlan",
    "Trigger",
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
    "invite_to_evaluations",
    "keep_within",
    "make_tls",
    "mean_curvature",
    "open_package",
    "pack_model",
    "personalise",
    "plan_evaluations",
    "plan_noise_in_sum",
    "plan_training",
    "read_invitation",
    "run_rounds",
    "sample_cohort",
    "secure_client_app",
    "serve_buffered",
    "serve_evaluation",
    "serve_rounds",
    "simulate",
    "simulate_privately",
    "split_by_time",
    "start",
    "sum_in_secret",
    "to_onnx",
    "to_torchscript",
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
    "DeviceIntent": "device_intent",
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
    "FlowerStream": "buffered_serving",
    "IntentModel": "model",
    "IntentPredictor": "inference",
    "Invitation": "invitation",
    "Limits": "device_limits",
    "LiveView": "serving",
    "LocalGrid": "flower",
    "LocalPopulation": "device",
    "ModelPackage": "model_package",
    "ModelSlot": "model_package",
    "NoiseMemory": "correlated_noise",
    "Outcome": "private_rounds",
    "Personal": "personal",
    "PrivateEvaluations": "evaluation",
    "PrivateSimulation": "private_simulation",
    "PrivateSimulationSettings": "private_simulation",
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
    "SimulationSettings": "simulation",
    "SuperLink": "superlink",
    "SuperLinkError": "superlink",
    "SuperLinkGrid": "superlink_grid",
    "Tls": "certificates",
    "TrainerSettings": "trainer_settings",
    "TrainingPlan": "plan",
    "Trigger": "device_intent",
    "Wishes": "plan",
    "client_app": "flower",
    "collector_for": "serving",
    "enrol": "secure_messages",
    "epsilon_of": "central",
    "evaluator": "evaluation",
    "fit_temperature": "inference",
    "invite": "serving",
    "invite_to_evaluations": "serving_evaluations",
    "keep_within": "device_limits",
    "make_tls": "certificates",
    "mean_curvature": "curvature",
    "open_package": "model_package",
    "pack_model": "model_package",
    "personalise": "personal",
    "plan_evaluations": "evaluation",
    "plan_noise_in_sum": "plan",
    "plan_training": "plan",
    "read_invitation": "invitation",
    "secure_client_app": "flower_secure",
    "serve_buffered": "buffered_serving",
    "serve_evaluation": "serving_evaluations",
    "serve_rounds": "serving",
    "simulate": "simulation",
    "simulate_privately": "private_simulation",
    "sum_in_secret": "secure_server",
    "to_onnx": "onnx_export",
    "to_torchscript": "export",
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
