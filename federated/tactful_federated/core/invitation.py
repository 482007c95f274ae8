"""Invitation of a device to a run: public data about the run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tactful_federated.core.checkpoint import write_whole
from tactful_federated.core.graph import Graph, check_graph
from tactful_federated.core.groups import Groups
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import SettingsError
from tactful_federated.model.tokens import Vocabulary
from tactful_privacy.decoding import DECODE_ERRORS

Tier = Literal["clear", "secret", "noise-in-sum"]


class Invitation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Invitation to the devices of a population, shipped with the app or downloaded.

    A device follows its copy and not the server: the plan in it bounds the participations and the
    size of an update, and the device refuses questions of another run or size.

    Attributes:
        run: Name of the run.
        tier: Server's view: updates, their sum, or their sum with noise of the devices.
        plan: Plan of the run.
        categories: Public catalogue.
        authority: Public Ed25519 key, 32 bytes, to check enrolments in secure sums.
        signer: Public Ed25519 key, 32 bytes, to check models.
        learning_rate: Step size of devices, above 0.
        batch_size: Windows per step.
        proximal: Penalty on the distance from the weights sent; see `TrainerSettings`.
        purpose: Answer of devices: a trained update, or an evaluation of the model.
        embedding: Width of a token's vector in the model.
        hidden: Width of the LSTM state.
        difference: Smallest number of devices in which two secure sums with a device may differ,
            beside 0; unset: any number, as in invitations of earlier versions.
        bundle: SHA-256 of the bundle that stock Flower nodes run; unset: they cannot take part.
        groups: Secure sums of a round and their graph; unset: one sum over a complete graph.
    """

    run: str
    tier: Tier
    plan: TrainingPlan
    categories: list[str]
    authority: bytes
    signer: bytes
    learning_rate: float = 1.0
    batch_size: int = 16
    proximal: float = 0.0
    purpose: Literal["training", "evaluation"] = "training"
    embedding: int = 32
    hidden: int = 32
    difference: int | msgspec.UnsetType = msgspec.UNSET  # unset is not written: old devices read it
    bundle: str | msgspec.UnsetType = msgspec.UNSET
    # A 16th field would change the encoding, and so the digest, of all invitations.
    groups: Groups | msgspec.UnsetType = msgspec.UNSET

    @property
    def vocabulary(self) -> Vocabulary:
        """Vocabulary of the catalogue."""
        return Vocabulary.from_catalogue(self.categories)

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of the layers of the model: embedding and hidden."""
        return self.embedding, self.hidden

    @property
    def fewest(self) -> int:
        """Smallest secure sum that a device takes part in."""
        return self.groups.fewest if self.groups else self.plan.minimum_reports

    @property
    def graph(self) -> Graph | None:
        """Sparse graph of secure sums, None if it is complete."""
        return (self.groups.graph or None) if self.groups else None

    @property
    def enrolled_by(self) -> Ed25519PublicKey:
        """The enrolling authority's key."""
        return Ed25519PublicKey.from_public_bytes(self.authority)


def save_invitation(path: Path, invitation: Invitation) -> None:
    """Write an invitation, unless the file has the same one.

    Raises:
        SettingsError: The file has another one. Devices have a copy, so it must not change.
    """
    document = msgspec.json.format(msgspec.json.encode(invitation), indent=2)
    if not path.exists():
        write_whole(path, document)
    elif read_invitation(path) != invitation:
        raise SettingsError(
            f"{path} was written with other settings: use those, or start a new run in another"
            " directory"
        )


def read_invitation(path: Path) -> Invitation:
    """Read an invitation.

    Raises:
        SettingsError: The file is missing or not an invitation, or its graph is not safe.
    """
    try:
        invitation = msgspec.json.decode(path.read_bytes(), type=Invitation)
    except (OSError, *DECODE_ERRORS) as error:
        raise SettingsError(f"{path} is not an invitation to a run: {error}") from error
    if invitation.graph:
        check_graph(invitation.graph)
    return invitation
