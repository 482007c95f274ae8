"""Directory of a device: keys, encrypted history, ledger and Flower app."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.core.checkpoint import private_directory, write_whole
from tactful_federated.core.evaluation_answer import evaluator
from tactful_federated.core.invitation import Invitation
from tactful_federated.device.event_store import EventStore
from tactful_federated.device.intent import FIRED
from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.device.limits import latest
from tactful_federated.device.trainer import Device
from tactful_federated.errors import ConsentError, SettingsError, extra, require
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.vectors import Vector, check_vector, parameter_count
from tactful_federated.secagg.messages import Enrolment, Session
from tactful_federated.secagg.rounds import Account, SecureRounds, Trainer
from tactful_federated.transport.certificates import node_key, public_pem, secret_file
from tactful_privacy.durable_files import exclusive

with extra():
    from flwr.clientapp import ClientApp


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request of a device to be enrolled.

    Attributes:
        node: PEM of the public node key, which identifies the device to the server.
        identity: Public Ed25519 key, 32 bytes, which identifies it in secure sums.
    """

    node: bytes
    identity: bytes


class DeviceHome:
    """One device in one population.

    It sends only `request`, clipped updates and answers in secure sums. On a phone, keep the keys
    in the key store of the system. Files:

        node.key, identity.key, store.key   secrets
        request.json, enrolment, node       identity on the server
        events.db, ledger.db                encrypted visits, participations

    Args:
        directory: Directory of the device; a copy of it is the same device.
        invitation: Run that the device takes part in.
        now: Returns seconds since the epoch.
        rotate: Create new keys, so the server cannot link the device to the old ones. The ledger
            of the device is unchanged.
    """

    def __init__(
        self,
        directory: Path,
        invitation: Invitation,
        *,
        now: Callable[[], float] = time.time,
        rotate: bool = False,
    ) -> None:
        """Open or create the files."""
        private_directory(directory)
        self._directory, self._invitation = directory, invitation
        if rotate:  # first: files of the old identity must not be used with the new key
            for name in ("identity.key", "enrolment", "node"):
                (directory / name).unlink(missing_ok=True)
        self.key: ec.EllipticCurvePrivateKey = node_key(directory / "node.key", rotate=rotate)
        self._identity = Ed25519PrivateKey.from_private_bytes(
            secret_file(directory / "identity.key")
        )
        write_whole(directory / "request.json", msgspec.json.encode(self.request))
        self.events = EventStore(
            directory / "events.db", secret_file(directory / "store.key"), now=now
        )
        self.ledger = DeviceLedger(directory / "ledger.db")

    @property
    def node(self) -> int | None:
        """Number of the node on the server; None before the first connection."""
        try:
            return int((self._directory / "node").read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def greeted(self, node: int) -> None:
        """Save the number of the node on the server."""
        write_whole(self._directory / "node", str(node).encode("ascii"))

    @property
    def request(self) -> EnrolmentRequest:
        """Enrolment request of this device."""
        return EnrolmentRequest(
            public_pem(self.key.public_key()), self._identity.public_key().public_bytes_raw()
        )

    def remember(self, history: Iterable[Sequence[str]]) -> None:
        """Store new visits, oldest first.

        Raises:
            ConsentError: The user did not consent.
        """
        for visit in history:
            self.events.add(visit)

    def import_history(self, history: Iterable[Sequence[str]]) -> None:
        """Store the visits of a history that were not imported before, oldest first.

        Raises:
            ConsentError: The user did not consent.
        """
        self.events.import_visits(history)

    def withdraw(self) -> None:
        """Withdraw consent; delete visits and fired triggers."""
        self.events.withdraw_consent()
        fired = self._directory / FIRED
        with exclusive(fired):  # another process that decides now would write it again
            fired.unlink(missing_ok=True)

    def app(self, trainer: Trainer | None = None) -> ClientApp:
        """Return the Flower app that answers requests of the invitation, in its tier.

        Args:
            trainer: Maps weights and round to a clipped update; None trains on the stored visits,
                or scores the model on them if the invitation is for evaluations.

        Raises:
            SettingsError: The enrolment is missing, or the plan of the invitation does not fit its
                catalogue and widths.
        """
        evaluates = self._invitation.purpose == "evaluation"
        train = trainer or (self.evaluator() if evaluates else self._trainer())
        if self._invitation.tier == "clear":
            from tactful_federated.transport.flower_clear import training_app

            return training_app(self._invitation.vocabulary, self._charged(train))
        from tactful_federated.transport.flower_secure import secure_client_app

        plan, difference = self._invitation.plan, self._invitation.difference
        fewest = difference if isinstance(difference, int) else 0
        account = Account(
            join=lambda session: self.ledger.join(session, plan),
            charge=lambda session: self.ledger.charge(session, plan),
            agree=lambda session, partners: self.ledger.agree(session, partners, fewest),
        )
        rounds = SecureRounds(
            self._invitation.run,
            plan,
            self._consented(train),
            self._enrolment(),
            self._identity,
            self._invitation.enrolled_by,
            account=account,
            terms=self._invitation,
        )
        return secure_client_app(lambda context: rounds)

    def evaluator(self) -> Trainer:
        """Return the trainer of `app` that answers evaluations."""
        device = self._device()
        return evaluator(lambda weights: device().evaluate(weights))

    def close(self) -> None:
        """Close the files."""
        self.events.close()
        self.ledger.close()

    def _trainer(self) -> Trainer:
        device = self._device()
        return lambda weights, round_number: device().train(weights, round_number)

    def _device(self) -> Callable[[], Device]:
        """Return a function that creates a `Device` of the visits stored at call time."""
        invitation = self._invitation
        vocabulary = invitation.vocabulary
        settings = TrainerSettings(
            learning_rate=invitation.learning_rate,
            batch_size=invitation.batch_size,
            update_norm=invitation.plan.update_norm,
            proximal=invitation.proximal,
        )
        planned = invitation.plan.parameters
        size = parameter_count(vocabulary.size, *invitation.widths)
        require(
            invitation.purpose == "evaluation" or planned == size,
            f"the invitation plans for {planned} parameters, but its catalogue needs {size} at"
            f" embedding {invitation.embedding} and hidden {invitation.hidden}: get it"
            " from the server",
        )

        def device() -> Device:
            known = set(vocabulary.categories)
            visits = [[name for name in visit if name in known] for visit in self.events.visits()]
            return Device(latest(visits), vocabulary, settings, widths=invitation.widths)

        return device

    def _consented(self, train: Trainer) -> Trainer:
        def train_with_consent(weights: Vector, round_number: int) -> Vector:
            if not self.events.consent:
                raise ConsentError("the user does not consent to training on this device")
            return train(weights, round_number)

        return train_with_consent

    def _charged(self, train: Trainer) -> Trainer:
        """Charge the ledger before training; in secure sums `SecureSumDevice` does this."""
        consented = self._consented(train)

        def charge_and_train(weights: Vector, round_number: int) -> Vector:
            invitation = self._invitation
            check_vector(weights, weights.size)  # unfit weights cost no participation
            nonce = f"clear round {round_number} of {invitation.run}".encode()
            session = Session(invitation.run, round_number, nonce, invitation.plan.parameters)
            self.ledger.claim(session, invitation.plan)
            return consented(weights, round_number)

        return charge_and_train

    def _enrolment(self) -> Enrolment:
        path = self._directory / "enrolment"
        if not path.exists():
            raise SettingsError(
                f"{path} is missing: enrol {self._directory / 'request.json'} on the server"
                " and copy the enrolment there"
            )
        return msgspec.msgpack.decode(path.read_bytes(), type=Enrolment)
