"""What a device has to know of a run before it takes part; all of it is public."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tactful_federated.checkpoint import write_whole
from tactful_federated.errors import SettingsError
from tactful_federated.plan import TrainingPlan
from tactful_federated.tokens import Vocabulary

Tier = Literal["clear", "secret", "noise-in-sum"]


class Invitation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To the devices of a population, shipped with the app or fetched over another way.

    A device keeps to this copy, whatever the server asks later: its plan bounds how often it takes
    part and how much an update can weigh, and a question of another run or size is refused.

    Attributes:
        run: Name of the run.
        tier: What the server sees: updates, their sum, or their sum with the devices' noise in it.
        plan: The plan.
        categories: The public catalogue.
        authority: Public Ed25519 key, 32 bytes, that enrolments in secure sums are checked with.
        signer: Public Ed25519 key, 32 bytes, that models are signed with.
        learning_rate: Of a device's steps, above 0.
        batch_size: Windows per step.
        proximal: How strongly training is drawn back to the weights that were sent; see
            `TrainerSettings`.
        purpose: What devices answer with: a trained update, or how good the model is on them.
        embedding: Width of a token's vector in the model.
        hidden: Width of the model's LSTM state.
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

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the catalogue."""
        return Vocabulary.from_catalogue(self.categories)

    @property
    def widths(self) -> tuple[int, int]:
        """Of the model's layers: embedding and hidden."""
        return self.embedding, self.hidden

    @property
    def enrolled_by(self) -> Ed25519PublicKey:
        """The enrolling authority's key."""
        return Ed25519PublicKey.from_public_bytes(self.authority)


def save_invitation(path: Path, invitation: Invitation) -> None:
    """Write an invitation, or find that the same one stands there.

    Raises:
        SettingsError: Another one does: devices hold it, so a run never changes its own.
    """
    document = msgspec.json.format(msgspec.json.encode(invitation), indent=2)
    if not path.exists():
        write_whole(path, document)
    elif read_invitation(path) != invitation:
        raise SettingsError(
            f"{path} invites to other rounds than these settings: keep them, or begin a new run"
            " in another directory"
        )


def read_invitation(path: Path) -> Invitation:
    """Read an invitation.

    Raises:
        SettingsError: The file is none.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Invitation)
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"{path} is no invitation to a run: {error}") from error
