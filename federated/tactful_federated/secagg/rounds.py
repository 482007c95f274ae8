"""Answers of a device in the rounds of one run: training, account and secure sums."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tactful_federated.core.invitation import Invitation
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import SecureSumError, WeightsError
from tactful_federated.model.vectors import IntegerVector, Vector
from tactful_federated.secagg import messages
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.sparse import SparseSumDevice
from tactful_privacy.mechanisms.gaussian import WideGaussian

_log = logging.getLogger(__name__)

Trainer = Callable[[Vector, int], Vector]
"""Maps weights and the number of a round to an update."""


def _allow(*_: object) -> None:
    """Allow anything."""


@dataclass(frozen=True)
class Account:
    """Callbacks that keep the account of a device; each raises `SecureSumError` to refuse.

    Attributes:
        join: Called before the first answer of a session; see `claim` of `SecureSumDevice`.
        charge: Called before the vector leaves the device.
        agree: Called with the identities of the other survivors before the device signs.
    """

    join: Callable[[messages.Session], None]
    charge: Callable[[messages.Session], None] = _allow
    agree: Callable[[messages.Session, Sequence[bytes]], None] = _allow


class SecureRounds:
    """Answers of a device to the questions of a server in the rounds of one run.

    An update is clipped, on the grid of the plan, noised if the plan says so, and masked. A device
    whose training fails sends zeros, since a missing answer would reveal the failure. The device
    uses its own copy of the plan and refuses questions for another size or run. It refuses weights
    that are not finite and those that the session does not name: all devices of a sum have the same
    weights and terms, so a server cannot have one of them train and the others fail. A device
    answers for one set of weights in a round, and is charged when its vector leaves it.

    Args:
        run: Name of the run that the device takes part in.
        plan: Plan of the run.
        trainer: Trains on the history of the device.
        enrolment: Enrolment of the device.
        identity: Private key of the device.
        authority: Key to check enrolments with.
        account: Keeps the account of the device.
        terms: Invitation that device and server share; None is the plan, for one sum in a round.
        entropy: Source of cryptographically secure bytes.
    """

    def __init__(
        self,
        run: str,
        plan: TrainingPlan,
        trainer: Trainer,
        enrolment: messages.Enrolment,
        identity: Ed25519PrivateKey,
        authority: Ed25519PublicKey,
        *,
        account: Account,
        terms: Invitation | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Join a run; no session is open."""
        self._run, self._plan, self._trainer = run, plan, trainer
        self._enrolment, self._identity, self._authority = enrolment, identity, authority
        self._account, self._entropy = account, entropy
        self._terms = messages.terms_digest(terms or plan)
        self._fewest = terms.fewest if terms else plan.minimum_reports
        self._graph = terms.graph if terms else None
        self._asked: messages.Session | None = None
        self._session: SecureSumDevice | None = None
        self._update: IntegerVector | None = None

    def answer(self, stage: int, question: bytes, weights: Vector | None) -> bytes:
        """Answer the question of a stage, from 1 on; the weights come at stage 1.

        Raises:
            SecureSumError: The question does not belong to this run or stage, or the session
                was aborted.
        """
        if stage == 1:
            return self._begin(question, weights)
        session, asked, update = self._session, self._asked, self._update
        if session is None or asked is None or update is None:
            raise SecureSumError("this device has no open session")
        if not 2 <= stage <= len(session.STEPS):
            raise SecureSumError(f"a secure sum has stages 1 to {len(session.STEPS)}, not {stage}")
        self._session = None  # an exception ends the session
        step = session.STEPS[stage - 1]
        if step == "mask":
            answer = session.mask(question, update)
            self._account.charge(asked)
        elif step == "open":
            self._update = None
            return session.open(question)
        else:
            answer = getattr(session, step)(question)
            if step == "confirm":
                self._account.agree(asked, session.partners)
        self._session = session
        return answer

    def _begin(self, question: bytes, weights: Vector | None) -> bytes:
        self._session = None
        asked = messages.decode(question, messages.Session)
        if asked.run != self._run or asked.size != self._plan.parameters or weights is None:
            raise SecureSumError("the session is not for the run or the plan of this device")
        self._check_terms(asked, weights)
        kind = SparseSumDevice if self._graph else SecureSumDevice
        session = kind(
            asked,
            self._enrolment,
            self._identity,
            self._authority,
            claim=self._account.join,
            fewest=self._fewest,
            graph=self._graph,
            random=self._entropy,
        )
        update = self._train(weights, asked.round)
        if self._plan.device_sigma_squared:
            noise = WideGaussian(self._plan.device_sigma_squared, entropy=self._entropy)
            update = update + noise.sample(len(update))
        self._session, self._asked, self._update = session, asked, update
        return session.advertise()

    def _check_terms(self, asked: messages.Session, weights: Vector) -> None:
        """Check that all devices of the session have these weights and these terms."""
        if not (asked.weights and asked.terms):
            raise SecureSumError(
                "the server has protocol 1 of secure sums, in which it can send each device other"
                " weights, and this device has protocol 2: update the server"
            )
        if asked.terms != self._terms:
            raise SecureSumError(
                "the server has another plan or other settings than the invitation of this device:"
                " get the invitation of the server"
            )
        if asked.weights != messages.weights_digest(weights):
            raise SecureSumError("the weights are not those that the session names")
        if not np.isfinite(weights).all():
            raise SecureSumError("the weights hold a value that is not finite")

    def _train(self, weights: Vector, round_number: int) -> IntegerVector:
        try:
            return self._plan.grid.encode(self._trainer(weights, round_number))
        except WeightsError as error:
            _log.warning("round %d: this device sends zeros: %s", round_number, error)
            return np.zeros(self._plan.parameters, dtype=np.int64)
