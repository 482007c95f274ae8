"""How wide the model is: chosen once for a run, and the same at its server and on its devices."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from tests.federated.private_run import WISHES as SMALL

from tactful_federated.core.invitation import Invitation, read_invitation
from tactful_federated.device.home import DeviceHome
from tactful_federated.device.model_package import ModelSlot, pack_model
from tactful_federated.errors import PackageError, SettingsError, WeightsError
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector, parameter_count
from tactful_federated.secagg.collectors import ClearCollector
from tactful_federated.serving.evaluations import invite_to_evaluations, serve_evaluation
from tactful_federated.serving.rounds import initial_weights, invite, serve_rounds

CATEGORIES = ["bread", "cheese", "milk"]
VOCABULARY = Vocabulary.from_catalogue(CATEGORIES)
KEY = Ed25519PrivateKey.generate()
WISHES = replace(SMALL, epsilon=8.0, delta=1e-3, over_selection=1.0, minimum_reports=0)
WISHES = replace(WISHES, population=12, rounds=2, report_goal=3)


class Homes:
    """Devices that train on the visits they keep, as their invitation says."""

    def __init__(self, directory: Path, invitation: Invitation) -> None:
        self.homes = {}
        for number in range(1, 13):
            home = self.homes[number] = DeviceHome(directory / str(number), invitation)
            home.events.give_consent()
            home.remember([["milk", "bread"], ["cheese"]] * 3)

    def ids(self) -> Sequence[int]:
        return list(self.homes)

    def train(
        self, ids: Sequence[int], weights: Vector, round_number: int
    ) -> Iterator[tuple[int, Vector]]:
        for number in ids:
            yield number, self.homes[number]._trainer()(weights, round_number)

    def close(self) -> None:
        for home in self.homes.values():
            home.close()


def invited_to(directory: Path, embedding: int = 32, hidden: int = 32) -> Invitation:
    about = directory, WISHES, CATEGORIES
    return invite(*about, run="test", tier="clear", embedding=embedding, hidden=hidden)


@pytest.mark.slow
@pytest.mark.parametrize(("embedding", "hidden"), [(16, 16), (64, 48)])
def test_a_run_trains_the_invited_widths(tmp_path: Path, embedding: int, hidden: int) -> None:
    wide = {"embedding": embedding, "hidden": hidden}
    invited = invited_to(tmp_path, embedding, hidden)
    assert read_invitation(tmp_path / "invitation.json").widths == (embedding, hidden)
    devices = Homes(tmp_path / "devices", invited)
    trained = serve_rounds(tmp_path, invited, ClearCollector(devices), rounds=1)
    devices.close()
    size = parameter_count(VOCABULARY.size, **wide)
    assert trained.size == invited.plan.parameters == size
    assert not np.array_equal(trained, initial_weights(VOCABULARY, **wide))
    signer = Ed25519PublicKey.from_public_bytes(invited.signer)
    slot = ModelSlot(tmp_path / "slot", signer, VOCABULARY, widths=invited.widths)
    slot.install((tmp_path / "model").read_bytes())
    found = ModelSlot(tmp_path / "slot", signer, VOCABULARY, widths=invited.widths).predictor()
    assert found is not None and (found.embedding, found.hidden) == (embedding, hidden)
    assert np.array_equal(found.weights, trained)
    # Evaluations ask about the same model, and about no other.
    asked = invite_to_evaluations(tmp_path, replace(WISHES, rounds=1))
    assert asked.widths == invited.widths
    with pytest.raises(WeightsError):
        serve_evaluation(tmp_path, asked, initial_weights(VOCABULARY), ClearCollector(devices))


def test_a_run_keeps_its_widths(tmp_path: Path) -> None:
    begun, path = invited_to(tmp_path), tmp_path / "invitation.json"
    written = msgspec.json.decode(path.read_bytes())
    del written["embedding"], written["hidden"]  # as it was before there was a choice
    path.write_bytes(msgspec.json.encode(written))
    assert read_invitation(path) == begun == invited_to(tmp_path)
    assert begun.widths == (32, 32)
    with pytest.raises(SettingsError, match="written with other settings"):
        invited_to(tmp_path, 16, 16)
    with pytest.raises(SettingsError, match="embedding 128 and hidden 128 make"):
        invited_to(tmp_path / "large", 128, 128)
    assert not (tmp_path / "large" / "invitation.json").exists()


def test_a_device_refuses_a_plan_for_a_model_of_another_size(tmp_path: Path) -> None:
    invited = invited_to(tmp_path, 16)
    home = DeviceHome(tmp_path / "device", msgspec.structs.replace(invited, embedding=32))
    with pytest.raises(SettingsError, match="embedding 32 and hidden 32"):
        home.app()
    home.close()


def test_a_package_of_other_widths_is_refused(tmp_path: Path) -> None:
    def packed(version: int, embedding: int, hidden: int) -> bytes:
        weights = initial_weights(VOCABULARY, embedding=embedding, hidden=hidden)
        return pack_model(weights, VOCABULARY, version, KEY, embedding=embedding, hidden=hidden)

    def slot(widths: tuple[int, int] | None) -> ModelSlot:
        return ModelSlot(tmp_path, KEY.public_key(), VOCABULARY, widths=widths)

    invited = slot((16, 8))
    invited.install(packed(1, 16, 8))
    for wrong in ((8, 16), (32, 32)):
        with pytest.raises(PackageError, match="widths"):
            invited.install(packed(2, *wrong))
        assert invited.version == 1
    slot(None).install(packed(2, 32, 32))  # who names no widths takes any
    found = slot((16, 8)).predictor()  # what does not fit gives way to the model before
    assert found is not None and (found.embedding, found.hidden) == (16, 8)
