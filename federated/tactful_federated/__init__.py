"""The on-device intent model, and federated rounds that train it privately.

Begin reading with `simulate`; then `PrivateTraining` and `serve_rounds` (server), `DeviceHome` and
`FleetClient` (device). It may import `tactful_privacy` only. Importing this package needs only
numpy; other modules are imported on first use and need `pip install 'tactful[federated]'`, or on a
device `pip install tactful-device`, which has the device side alone.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if find_spec("tactful_privacy") is None:
    # The wheel of `tactful-device` has its part of the package here, for where it is alone.
    sys.path.append(str(Path(__file__).parent / "bundled"))

from tactful_federated.errors import (
    CheckpointError,
    FederatedError,
    MissingExtraError,
    SettingsError,
    extra,
)
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, Windows, windows
from tactful_privacy.lazy_imports import lazy_names

if TYPE_CHECKING:
    from tactful_federated.core.correlated_noise import CorrelatedNoise, NoiseMemory
    from tactful_federated.core.fedavg import RoundSettings, run_rounds, start
    from tactful_federated.core.invitation import Invitation, read_invitation
    from tactful_federated.core.plan import (
        TrainingPlan,
        Wishes,
        plan_noise_in_sum,
        plan_training,
        without_noise,
    )
    from tactful_federated.core.polling import Polling
    from tactful_federated.core.private_evaluation import (
        Evaluation,
        PrivateEvaluations,
        plan_evaluations,
    )
    from tactful_federated.core.private_training import Outcome, PrivateTraining
    from tactful_federated.core.server_optimizer import ModelState, Optimizer
    from tactful_federated.device.batched_trainer import SimulatedPopulation
    from tactful_federated.device.event_store import EventStore
    from tactful_federated.device.home import DeviceHome, EnrolmentRequest
    from tactful_federated.device.intent import DeviceIntent
    from tactful_federated.device.limits import Limits, keep_within
    from tactful_federated.device.model_package import ModelSlot
    from tactful_federated.device.personalise import personalise
    from tactful_federated.device.trainer import Device
    from tactful_federated.device.triggers import Foresight, Trigger, TriggerLimits
    from tactful_federated.model.dp_sgd import CentralSettings, train_privately
    from tactful_federated.model.lstm_numpy import IntentPredictor, mean_curvature
    from tactful_federated.model.lstm_onnx import OnnxPredictor
    from tactful_federated.model.lstm_torch import IntentModel, to_torchscript
    from tactful_federated.model.onnx import to_onnx
    from tactful_federated.secagg.client import Account, SecureRounds
    from tactful_federated.secagg.collectors import ClearCollector, SecureCollector
    from tactful_federated.secagg.messages import Enrolment, Session, enrol
    from tactful_federated.secagg.server import SecureSumServer, sum_in_secret
    from tactful_federated.serving.buffered import FlowerStream, serve_buffered
    from tactful_federated.serving.evaluations import invite_to_evaluations, serve_evaluation
    from tactful_federated.serving.rounds import LiveView, collector_for, invite, serve_rounds
    from tactful_federated.simulation.plain import SimulationSettings, simulate
    from tactful_federated.simulation.private import PrivateSimulationSettings, simulate_privately
    from tactful_federated.transport.certificates import Tls, make_tls
    from tactful_federated.transport.fleet_client import FleetClient
    from tactful_federated.transport.flower_clear import FlowerPopulation, LocalGrid, client_app
    from tactful_federated.transport.flower_secure import FlowerSecureTransport, secure_client_app
    from tactful_federated.transport.superlink import SuperLink

__all__ = [
    "Account",
    "CentralSettings",
    "CheckpointError",
    "ClearCollector",
    "CorrelatedNoise",
    "Device",
    "DeviceHome",
    "DeviceIntent",
    "Enrolment",
    "EnrolmentRequest",
    "Evaluation",
    "EventStore",
    "FederatedError",
    "FleetClient",
    "FlowerPopulation",
    "FlowerSecureTransport",
    "FlowerStream",
    "Foresight",
    "IntentModel",
    "IntentPredictor",
    "Invitation",
    "Limits",
    "LiveView",
    "LocalGrid",
    "MissingExtraError",
    "ModelSlot",
    "ModelState",
    "NoiseMemory",
    "OnnxPredictor",
    "Optimizer",
    "Outcome",
    "Polling",
    "PrivateEvaluations",
    "PrivateSimulationSettings",
    "PrivateTraining",
    "RoundSettings",
    "SecureCollector",
    "SecureRounds",
    "SecureSumServer",
    "Session",
    "SettingsError",
    "SimulatedPopulation",
    "SimulationSettings",
    "SuperLink",
    "Tls",
    "TrainerSettings",
    "TrainingPlan",
    "Trigger",
    "TriggerLimits",
    "Vocabulary",
    "Windows",
    "Wishes",
    "client_app",
    "collector_for",
    "enrol",
    "invite",
    "invite_to_evaluations",
    "keep_within",
    "make_tls",
    "mean_curvature",
    "personalise",
    "plan_evaluations",
    "plan_noise_in_sum",
    "plan_training",
    "read_invitation",
    "run_rounds",
    "secure_client_app",
    "serve_buffered",
    "serve_evaluation",
    "serve_rounds",
    "simulate",
    "simulate_privately",
    "start",
    "sum_in_secret",
    "to_onnx",
    "to_torchscript",
    "train_privately",
    "windows",
    "without_noise",
]

_LAZY = {
    "core.correlated_noise": "CorrelatedNoise NoiseMemory",
    "core.fedavg": "RoundSettings run_rounds start",
    "core.invitation": "Invitation read_invitation",
    "core.plan": "TrainingPlan Wishes plan_noise_in_sum plan_training without_noise",
    "core.private_evaluation": "Evaluation PrivateEvaluations plan_evaluations",
    "core.polling": "Polling",
    "core.private_training": "Outcome PrivateTraining",
    "core.server_optimizer": "ModelState Optimizer",
    "device.batched_trainer": "SimulatedPopulation",
    "device.event_store": "EventStore",
    "device.home": "DeviceHome EnrolmentRequest",
    "device.intent": "DeviceIntent",
    "device.limits": "Limits keep_within",
    "device.model_package": "ModelSlot",
    "device.personalise": "personalise",
    "device.trainer": "Device",
    "device.triggers": "Foresight Trigger TriggerLimits",
    "model.dp_sgd": "CentralSettings train_privately",
    "model.lstm_numpy": "IntentPredictor mean_curvature",
    "model.lstm_onnx": "OnnxPredictor",
    "model.lstm_torch": "IntentModel to_torchscript",
    "model.onnx": "to_onnx",
    "secagg.collectors": "ClearCollector SecureCollector",
    "secagg.messages": "Enrolment Session enrol",
    "secagg.client": "Account SecureRounds",
    "secagg.server": "SecureSumServer sum_in_secret",
    "serving.buffered": "FlowerStream serve_buffered",
    "serving.evaluations": "invite_to_evaluations serve_evaluation",
    "serving.rounds": "LiveView collector_for invite serve_rounds",
    "simulation.plain": "SimulationSettings simulate",
    "simulation.private": "PrivateSimulationSettings simulate_privately",
    "transport.certificates": "Tls make_tls",
    "transport.fleet_client": "FleetClient",
    "transport.flower_clear": "FlowerPopulation LocalGrid client_app",
    "transport.flower_secure": "FlowerSecureTransport secure_client_app",
    "transport.superlink": "SuperLink",
}
_load, __dir__ = lazy_names(__name__, __all__, _LAZY)


def __getattr__(name: str) -> Any:
    """Import a public name at its first use; on a device those of servers are missing."""
    with extra():
        return _load(name)
