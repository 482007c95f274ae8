"""Device side of a round with a secure sum: training, noise and answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tactful_federated.core.fixed_point import IntegerVector
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import SecureSumError, WeightsError
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.messages import Enrolment, Session, decode
from tactful_privacy.mechanisms.gaussian import WideGaussian

_log = logging.getLogger(__name__)

Trainer = Callable[[Vector, int], Vector]
"""Maps weights and the number of a round to an update."""


class SecureRounds:
    """Answers of a device to the questions of a server in the rounds of one run.

    An update is clipped, on the grid of the plan, noised if the plan says so, and masked. A device
    whose training fails sends zeros, since a missing answer would reveal the failure. The device
    uses its own copy of the plan and refuses questions for another size or run.

    Args:
        run: Name of the run that the device takes part in.
        plan: Plan of the run.
        trainer: Trains on the history of the device.
        enrolment: Enrolment of the device.
        identity: Private key of the device.
        authority: Key to check enrolments with.
        claim: Charges the ledger of the device; see `SecureSumDevice`.
        entropy: Source of cryptographically secure bytes.
    """

    def __init__(
        self,
        run: str,
        plan: TrainingPlan,
        trainer: Trainer,
        enrolment: Enrolment,
        identity: Ed25519PrivateKey,
        authority: Ed25519PublicKey,
        *,
        claim: Callable[[Session], None],
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Join a run; no session is open."""
        self._run, self._plan, self._trainer = run, plan, trainer
        self._enrolment, self._identity, self._authority = enrolment, identity, authority
        self._claim, self._entropy = claim, entropy
        self._session: SecureSumDevice | None = None
        self._update: IntegerVector | None = None

    def answer(self, stage: int, question: bytes, weights: Vector | None) -> bytes:
        """Answer the question of a stage from 1 to 5; the weights come at stage 1.

        Raises:
            SecureSumError: The question does not belong to this run or stage, or the session
                was aborted.
        """
        if stage == 1:
            return self._begin(question, weights)
        if self._session is None or self._update is None:
            raise SecureSumError("this device has no open session")
        if stage == 2:
            return self._session.share(question)
        if stage == 3:
            return self._session.mask(question, self._update)
        if stage == 4:
            return self._session.confirm(question)
        if stage == 5:
            session, self._session, self._update = self._session, None, None
            return session.open(question)
        raise SecureSumError(f"a secure sum has stages 1 to 5, not {stage}")

    def _begin(self, question: bytes, weights: Vector | None) -> bytes:
        session = decode(question, Session)
        if session.run != self._run or session.size != self._plan.parameters or weights is None:
            raise SecureSumError("the session is not for the run or the plan of this device")
        self._session = SecureSumDevice(
            session,
            self._enrolment,
            self._identity,
            self._authority,
            claim=self._claim,
            fewest=self._plan.minimum_reports,
            random=self._entropy,
        )
        update = self._train(weights, session.round)
        if self._plan.device_sigma_squared:
            noise = WideGaussian(self._plan.device_sigma_squared, entropy=self._entropy)
            update = update + noise.sample(len(update))
        self._update = update
        return self._session.advertise()

    def _train(self, weights: Vector, round_number: int) -> IntegerVector:
        try:
            return self._plan.grid.encode(self._trainer(weights, round_number))
        except WeightsError as error:
            _log.warning("round %d: this device sends zeros: %s", round_number, error)
            return np.zeros(self._plan.parameters, dtype=np.int64)
