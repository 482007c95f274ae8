"""Two ways to sum a round's updates: read each and add them up, or learn only their sum."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tactful_federated.errors import SecureSumError, WeightsError, require
from tactful_federated.plan import TrainingPlan
from tactful_federated.private_rounds import Collected
from tactful_federated.robust import trimmed_sum
from tactful_federated.rounds import Population
from tactful_federated.secure_messages import Session, encode
from tactful_federated.secure_server import SecureSumServer, sum_in_secret
from tactful_federated.vectors import Vector, check_vector

_log = logging.getLogger(__name__)


class ClearCollector:
    """Reads every update; for a server that is trusted with them, and for comparison.

    Updates are clipped again, whatever the device did. One that has the wrong shape or is not
    finite counts as zeros.

    Args:
        population: The devices.
        deadline: Seconds after which a round takes no more updates.
        clock: Seconds that never go back.
        trim: Share of the report goal that is left out at either end of each coordinate, 0 to below
            0.5: so many poisoned devices move the sum no further than honest ones could. The
            promise is the same, there is less signal for the noise, and 4 bytes for each parameter
            and report are held; see `trimmed_sum`.
    """

    def __init__(
        self,
        population: Population,
        *,
        deadline: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        trim: float = 0.0,
    ) -> None:
        """Look at a population.

        Raises:
            SettingsError: Trimming would leave nothing.
        """
        require(0 <= trim < 0.5, f"trim is {trim}: give 0 to below 0.5")
        self._population, self._deadline, self._clock = population, deadline, clock
        self._trim = trim

    def ids(self) -> Sequence[int]:
        """Numbers of the devices that can be asked now."""
        return self._population.ids()

    def collect(
        self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
    ) -> Collected:
        """Sum the first `plan.report_goal` updates that arrive in time."""
        end = self._clock() + self._deadline
        trimmed = int(self._trim * plan.report_goal)
        total = np.zeros(plan.parameters, dtype=np.int64)
        # Who is silent is a row of zeros: else it would count for more than what it sends.
        rows = np.zeros((plan.report_goal if trimmed else 0, plan.parameters), dtype=np.int32)
        waiting, reports = set(ids), 0
        for device, update in self._population.train(ids, weights, round_number):
            if device not in waiting:
                _log.warning("round %d: an update nobody asked for was ignored", round_number)
                continue
            waiting.remove(device)
            reports += 1
            try:
                encoded = plan.grid.encode(check_vector(update, plan.parameters))
                if trimmed:
                    rows[reports - 1] = encoded
                else:
                    total += encoded
            except WeightsError as error:
                _log.warning("round %d: an update counts as zeros: %s", round_number, error)
            if reports == plan.report_goal or self._clock() >= end:
                break
        return Collected(trimmed_sum(rows, trimmed) if trimmed else total, reports)


class SecureTransport(Protocol):
    """Carries a secure sum's messages to devices and back."""

    def ids(self) -> Sequence[int]:
        """Numbers of the devices that can be asked now."""

    def exchange(
        self, stage: int, questions: Mapping[int, bytes], weights: Vector
    ) -> Mapping[int, bytes]:
        """Answers that came in time; weights are for those who are asked at stage 1."""


class SecureCollector:
    """Learns only the sum of the survivors' updates.

    No single update can be checked, so what bounds a device is its own clipping: a poisoned device
    can do as much harm as the field allows. A sum that honest devices cannot have made voids the
    round.

    Args:
        transport: To the devices.
        authority: Key that enrolments are checked with.
        run: Name of the run; devices join each of its rounds once.
        entropy: Cryptographically secure bytes.
    """

    def __init__(
        self,
        transport: SecureTransport,
        authority: Ed25519PublicKey,
        *,
        run: str,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Look at devices through a transport."""
        self._transport, self._authority = transport, authority
        self._run, self._entropy = run, entropy

    def ids(self) -> Sequence[int]:
        """Numbers of the devices that can be asked now."""
        return self._transport.ids()

    def collect(
        self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
    ) -> Collected:
        """Lead one secure sum; a sum that was given up is no report at all."""
        session = Session(self._run, round_number, self._entropy(32), plan.parameters)
        server = SecureSumServer(session, self._authority, fewest=plan.minimum_reports)
        nothing = Collected(np.zeros(plan.parameters, dtype=np.int64), 0)
        try:
            found = sum_in_secret(
                server,
                dict.fromkeys(ids, encode(session)),
                lambda stage, questions: self._transport.exchange(stage, questions, weights),
            )
        except SecureSumError as error:
            _log.warning("round %d: the secure sum was given up: %s", round_number, error)
            return nothing
        noise = 20 * math.sqrt(len(found.devices) * plan.device_sigma_squared)
        if int(np.abs(found.values).max()) > len(found.devices) * plan.units + noise:
            _log.warning("round %d: no honest devices could have sent this sum", round_number)
            return nothing
        return Collected(found.values, len(found.devices))
