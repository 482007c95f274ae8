"""Collectors of a round: sum updates in the clear, or by a secure sum."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from numpy.typing import NDArray

from tactful_federated.core.fedavg import Trainees
from tactful_federated.core.groups import divide
from tactful_federated.core.invitation import Invitation
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.core.private_training import Collected
from tactful_federated.errors import SecureSumError, WeightsError, require
from tactful_federated.model.vectors import IntegerVector, Vector, check_vector
from tactful_federated.secagg.messages import Session, encode, terms_digest, weights_digest
from tactful_federated.secagg.server import (
    Payloads,
    SecureSumServer,
    SecureTotal,
    sum_groups,
)
from tactful_federated.secagg.sparse_server import SparseSumServer

_log = logging.getLogger(__name__)

_BLOCK: Final = 1 << 12


class ClearCollector:
    """Sum of updates in the clear, for a trusted server and for comparison.

    Updates are clipped again on the server. One that has the wrong shape or is not finite counts as
    zeros.

    Args:
        population: The devices.
        deadline: Seconds after which a round accepts no more updates.
        clock: Returns seconds of a clock that never goes back.
        trim: Share of the report goal to remove at each end of each coordinate, 0 to below 0.5: so
            many poisoned devices move the sum no further than honest ones could. The guarantee is
            the same, with less signal, and 4 bytes per parameter and report are needed; see
            `trimmed_sum`.
    """

    def __init__(
        self,
        population: Trainees,
        *,
        deadline: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        trim: float = 0.0,
    ) -> None:
        """Raise `SettingsError` if `trim` is out of range."""
        require(0 <= trim < 0.5, f"trim is {trim}: give 0 to below 0.5")
        self._population, self._deadline, self._clock = population, deadline, clock
        self._trim = trim

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices that are available now."""
        return self._population.ids()

    def collect(
        self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
    ) -> Collected:
        """Sum the first `plan.report_goal` updates that arrive in time."""
        end = self._clock() + self._deadline
        trimmed = int(self._trim * plan.report_goal)
        total = np.zeros(plan.parameters, dtype=np.int64)
        # A missing report is a row of zeros: the sensitivity of a trimmed sum requires it.
        rows = np.zeros((plan.report_goal if trimmed else 0, plan.parameters), dtype=np.int32)
        pending, reports = set(ids), 0
        for device, update in self._population.train(ids, weights, round_number):
            if device not in pending:
                _log.warning("round %d: ignored an update that was not requested", round_number)
                continue
            pending.remove(device)
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
    """Interface that sends the messages of a secure sum to devices."""

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices that are available now."""

    def exchange(self, stage: int, questions: Payloads, weights: Vector) -> Payloads:
        """Return the answers in time; the weights are sent at stage 1."""


class SecureCollector:
    """Secure sums of updates, of which the server learns only the total of each group.

    Single updates cannot be checked, so only the device itself clips its update. A sum of n devices
    that is longer than n times the bound of a plan, plus the noise of devices, makes the round
    void: honest devices cannot produce it. So one modified device moves a sum by less than 2 n
    times its bound, but up to this it is not detected.

    Devices that lied about shares are not asked again by this object. The groups of a round run at
    once, and one that is aborted does not affect the others: its devices are missing.

    Args:
        transport: Transport to the devices.
        authority: Key to check enrolments with.
        run: Name of the run; devices join each of its rounds once.
        terms: Invitation of the devices, with the groups of a round; None is the plan of a round,
            which is then one sum.
        entropy: Source of cryptographically secure bytes.
    """

    def __init__(
        self,
        transport: SecureTransport,
        authority: Ed25519PublicKey,
        *,
        run: str,
        terms: Invitation | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Keep the transport."""
        self._transport, self._authority = transport, authority
        self._run, self._terms, self._entropy = run, terms, entropy
        self._groups = terms.groups or None if terms else None
        self._liars: set[int] = set()

    def ids(self) -> Sequence[int]:
        """Return the numbers of the devices that are available now."""
        return [device for device in self._transport.ids() if device not in self._liars]

    def collect(
        self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
    ) -> Collected:
        """Run the secure sums of a round and add them; an aborted sum has no reports."""
        groups = divide(ids, self._groups, int.from_bytes(self._entropy(16), "big"))
        fewest = self._groups.fewest if self._groups else plan.minimum_reports
        digests = weights_digest(weights), terms_digest(self._terms or plan)
        sessions = [
            Session(self._run, round_number, self._entropy(32), plan.parameters, *digests)
            for _ in groups
        ]
        graph = self._terms.graph if self._terms else None
        kind = SparseSumServer if graph else SecureSumServer
        servers = [kind(each, self._authority, fewest=fewest, graph=graph) for each in sessions]
        charged: set[int] = set()  # devices charge themselves when they send a vector

        def ask(stage: int, questions: Payloads) -> Payloads:
            if stage == 1 + kind.STEPS.index("collect"):
                charged.update(questions)
            return self._transport.exchange(stage, questions, weights)

        invited = [
            dict.fromkeys(group, encode(each)) for group, each in zip(groups, sessions, strict=True)
        ]
        total, reports = np.zeros(plan.parameters, dtype=np.int64), 0
        for number, found in enumerate(sum_groups(servers, invited, ask), 1):
            place = f"round {round_number}, sum {number} of {len(groups)}"
            if isinstance(found, SecureSumError):
                _log.warning("%s was aborted: %s", place, found)
            elif _honest(found, plan):
                total, reports = total + found.values, reports + len(found.devices)
            else:
                _log.warning("%s: honest devices cannot produce this sum", place)
        liars = frozenset[int]().union(*(server.liars for server in servers))
        if liars:
            _log.warning("these devices lied and are not asked again: %s", sorted(liars))
            self._liars |= liars
        return Collected(total, reports, frozenset(ids) - charged)


def _honest(total: SecureTotal, plan: TrainingPlan) -> bool:
    """Return whether the Euclidean norm of a sum is one that honest devices can produce.

    The norm of d Gaussian values of standard deviation s exceeds s (sqrt(d) + x) with a probability
    below exp(-x^2 / 2).
    """
    devices = len(total.devices)
    noise = math.sqrt(devices * plan.device_sigma_squared)
    most = devices * plan.units + math.ceil(noise * (math.sqrt(plan.parameters) + 20))
    length_squared: int = sum(value * value for value in total.values.tolist())
    return length_squared <= most * most


def trimmed_sum(updates: NDArray[np.int32], trimmed: int) -> IntegerVector:
    """Sum each coordinate without its largest and smallest values, against poisoned devices.

    Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML
    2018. It reads single updates, so the server must be trusted with them.

    Privacy: as a function of one value, with all others fixed, the trimmed sum is that value,
    clamped between two bounds, plus a constant. Zeroing the update of one device therefore changes
    no coordinate by more than the value of the update there, and the sensitivity of the sum is the
    bound on the norm of an update, exactly as without trimming: the noise of a plan and its
    guarantee are unchanged. This requires a fixed number of rows; the row of a silent device is
    zero.

    Trimming costs signal: only n - 2 `trimmed` of n values are added, under the same noise, and a
    change that fewer than `trimmed` devices learn (a rare category) is removed.

    Args:
        updates: Updates on the grid, `[rows, parameters]`.
        trimmed: Values removed at each end, 0 or more, fewer than half of the rows.

    Raises:
        SettingsError: No value would be left.
    """
    rows, size = updates.shape
    require(
        0 <= 2 * trimmed < rows,
        f"cannot trim {trimmed} of {rows} updates at each end: give fewer than half",
    )
    total = np.empty(size, dtype=np.int64)
    for first in range(0, size, _BLOCK):
        columns = updates[:, first : first + _BLOCK]
        if trimmed:
            columns = np.partition(columns, (trimmed, rows - trimmed - 1), axis=0)
        columns[trimmed : rows - trimmed].sum(
            axis=0, dtype=np.int64, out=total[first : first + _BLOCK]
        )
    return total
