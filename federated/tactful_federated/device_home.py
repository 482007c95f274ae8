"""A device's directory: its keys, its sealed history, its ledger, and the app that answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.certificates import node_key, public_pem, secret_file
from tactful_federated.checkpoint import write_whole
from tactful_federated.device_intent import FIRED
from tactful_federated.device_ledger import DeviceLedger
from tactful_federated.device_limits import latest
from tactful_federated.errors import ConsentError, SettingsError, missing_extra, require
from tactful_federated.event_store import EventStore
from tactful_federated.invitation import Invitation
from tactful_federated.secure_messages import Enrolment, Session
from tactful_federated.secure_round import SecureRounds, Trainer
from tactful_federated.vectors import Vector

try:
    from flwr.clientapp import ClientApp
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

if TYPE_CHECKING:
    from tactful_federated.device import Device


class EnrolmentRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device shows of itself to be let in.

    Attributes:
        node: PEM of its public node key, by which the server knows it.
        identity: Public Ed25519 key, 32 bytes, by which other devices know it in secure sums.
    """

    node: bytes
    identity: bytes


class DeviceHome:
    """One device in one population.

    Nothing in it is ever sent but what `request` holds, clipped updates, and answers in secure
    sums. On a phone the seed of the store and the keys belong into the system's key store.

    Args:
        directory: Of the device; a copy of it is the device.
        invitation: The run it agreed to.
        now: Seconds since the epoch.
        rotate: Draw new keys, so that the server sees a stranger. What the device's own ledger says
            of the run stays.
    """

    def __init__(
        self,
        directory: Path,
        invitation: Invitation,
        *,
        now: Callable[[], float] = time.time,
        rotate: bool = False,
    ) -> None:
        """Open what is there, make what is not."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory, self._invitation = directory, invitation
        if rotate:  # before the key: whatever tells of the old one must not be seen with the new
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
        """The number that the server gave this device's key, if it let it in before."""
        try:
            return int((self._directory / "node").read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def greeted(self, node: int) -> None:
        """Keep the number that the server gave this device's key."""
        write_whole(self._directory / "node", str(node).encode("ascii"))

    @property
    def request(self) -> EnrolmentRequest:
        """By which this device asks to be enrolled."""
        return EnrolmentRequest(
            public_pem(self.key.public_key()), self._identity.public_key().public_bytes_raw()
        )

    def remember(self, history: Iterable[Sequence[str]]) -> None:
        """Keep visits, the first as the oldest.

        Raises:
            ConsentError: The person did not agree.
        """
        for visit in history:
            self.events.add(visit)

    def withdraw(self) -> None:
        """Forget the person's visits, and which triggers they have fired; keep nothing more."""
        self.events.withdraw_consent()
        (self._directory / FIRED).unlink(missing_ok=True)

    def app(self, trainer: Trainer | None = None) -> ClientApp:
        """What answers the server: as the invitation says, in its tier, and nothing else.

        Args:
            trainer: Weights and round to a clipped update; None trains on the kept visits, or where
                the invitation is to evaluations, scores the model on them.

        Raises:
            SettingsError: The tier needs an enrolment that is not here yet, or the invitation's
                plan is for a model of another size than it describes.
        """
        evaluates = self._invitation.purpose == "evaluation"
        train = trainer or (self.evaluator() if evaluates else self._trainer())
        if self._invitation.tier == "clear":
            from tactful_federated.flower import training_app

            return training_app(self._invitation.vocabulary, self._claimed(train))
        from tactful_federated.flower_secure import secure_client_app

        rounds = SecureRounds(
            self._invitation.run,
            self._invitation.plan,
            self._consented(train),
            self._enrolment(),
            self._identity,
            self._invitation.enrolled_by,
            claim=self.ledger.claim_for(self._invitation.plan),
        )
        return secure_client_app(lambda context: rounds)

    def evaluator(self) -> Trainer:
        """What answers evaluations, for `app`, where the invitation is to a run of them."""
        from tactful_federated.evaluation import evaluator

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
        """Makes a device of the visits that are kept when it is called."""
        from tactful_federated.device import Device
        from tactful_federated.model import IntentModel
        from tactful_federated.trainer_settings import TrainerSettings

        invited = self._invitation
        vocabulary, settings = (
            invited.vocabulary,
            TrainerSettings(
                learning_rate=invited.learning_rate,
                batch_size=invited.batch_size,
                update_norm=invited.plan.update_norm,
                proximal=invited.proximal,
            ),
        )
        model = IntentModel(vocabulary.size, embedding=invited.embedding, hidden=invited.hidden)
        planned = invited.plan.parameters
        require(
            invited.purpose == "evaluation" or planned == model.size,
            f"the invitation plans for {planned} parameters, but its catalogue makes {model.size}"
            f" at embedding {invited.embedding} and hidden {invited.hidden}: get the server's own",
        )

        def device() -> Device:
            known = set(vocabulary.categories)
            visits = [[name for name in visit if name in known] for visit in self.events.visits()]
            return Device(latest(visits), vocabulary, model, settings)

        return device

    def _consented(self, train: Trainer) -> Trainer:
        def only_with_consent(weights: Vector, round_number: int) -> Vector:
            if not self.events.consent:
                raise ConsentError("the person does not agree to training on this device")
            return train(weights, round_number)

        return only_with_consent

    def _claimed(self, train: Trainer) -> Trainer:
        """In a secure sum the session is claimed by its own device; here the round is."""
        consented = self._consented(train)

        def only_within_budget(weights: Vector, round_number: int) -> Vector:
            invited = self._invitation
            nonce = f"clear round {round_number} of {invited.run}".encode()
            session = Session(invited.run, round_number, nonce, invited.plan.parameters)
            self.ledger.claim(session, invited.plan)
            return consented(weights, round_number)

        return only_within_budget

    def _enrolment(self) -> Enrolment:
        path = self._directory / "enrolment"
        if not path.exists():
            raise SettingsError(
                f"{path} is missing: have {self._directory / 'request.json'} enrolled, and put what"
                " comes of it there"
            )
        return msgspec.msgpack.decode(path.read_bytes(), type=Enrolment)
