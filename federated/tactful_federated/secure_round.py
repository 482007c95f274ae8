"""The device's part of a round in secret: trains when it is asked, and adds noise if so planned."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tactful_federated.errors import SecureSumError, WeightsError
from tactful_federated.fixed_point import IntegerVector
from tactful_federated.plan import TrainingPlan
from tactful_federated.secure_device import SecureSumDevice
from tactful_federated.secure_messages import Enrolment, Session, decode
from tactful_federated.vectors import Vector
from tactful_privacy import WideGaussian

_log = logging.getLogger(__name__)

Trainer = Callable[[Vector, int], Vector]
"""Weights and number of a round to the change of the weights."""


class SecureRounds:
    """Answers a server's questions in the rounds of one run.

    What leaves is on the plan's grid, clipped, with this device's share of the noise if the plan
    says so, and under masks. A device whose training fails sends zeros: silence would tell of it.
    The plan is the device's own copy: a server that asks for another size or run is refused.

    Args:
        run: Name of the run that this device agreed to.
        plan: Its plan.
        trainer: Trains on the device's own history.
        enrolment: Of this device.
        identity: Its private key.
        authority: Key that enrolments are checked with.
        claim: Charges this device's own ledger; see `SecureSumDevice`.
        entropy: Cryptographically secure bytes.
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
        """Take part in a run."""
        self._run, self._plan, self._trainer = run, plan, trainer
        self._enrolment, self._identity, self._authority = enrolment, identity, authority
        self._claim, self._entropy = claim, entropy
        self._session: SecureSumDevice | None = None
        self._update: IntegerVector | None = None

    def answer(self, stage: int, question: bytes, weights: Vector | None) -> bytes:
        """Answer one question.

        Args:
            stage: 1 to 5.
            question: What the server asks.
            weights: Weights to train from, at stage 1.

        Raises:
            SecureSumError: The question does not belong to this run or stage, or the session was
                given up.
        """
        if stage == 1:
            return self._begin(question, weights)
        if self._session is None or self._update is None:
            raise SecureSumError("this device is in no session")
        if stage == 2:
            return self._session.share(question)
        if stage == 3:
            return self._session.mask(question, self._update)
        if stage == 4:
            return self._session.confirm(question)
        if stage == 5:
            session, self._session, self._update = self._session, None, None
            return session.open(question)
        raise SecureSumError(f"a secure sum has no stage {stage}")

    def _begin(self, question: bytes, weights: Vector | None) -> bytes:
        session = decode(question, Session)
        if session.run != self._run or session.size != self._plan.parameters or weights is None:
            raise SecureSumError("this device did not agree to such a round")
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
