"""A stock Flower node trains by the installed package, in the clear, and by its own key."""

import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from flwr.app import Context, Message, RecordDict
from tests.federated.fleet_support import CATEGORIES, invited, proxy, tls
from tests.federated.private_run import WISHES
from tests.platform.support import wait_until

from benchmarks.ports import free_port
from tactful_federated.core.invitation import Invitation
from tactful_federated.device.home import DeviceHome
from tactful_federated.device.stock_node import app, invitation_of
from tactful_federated.errors import SettingsError
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector
from tactful_federated.serving.evaluations import invite_to_evaluations
from tactful_federated.serving.rounds import collector_for
from tactful_federated.transport.bundle import bundle_hash, run_bundle
from tactful_federated.transport.certificates import public_pem, public_pem_of_openssh
from tactful_federated.transport.flower_clear import FlowerPopulation, LocalGrid, update_of
from tactful_federated.transport.superlink import SuperLink, quiet_environment

HISTORY = [["bread", "milk"], ["cheese"]] * 10


def device(folder: Path, invitation: Invitation, **more: Any) -> DeviceHome:
    """The directory of a device, with consent, visits, and the invitation beside its keys."""
    home = DeviceHome(folder, invitation, **more)
    home.events.give_consent()
    home.remember(HISTORY)
    return home


def openssh(path: Path) -> bytes:
    """Write a private key as ssh-keygen does; returns the public line."""
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    none = serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, none))
    path.chmod(0o600)
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def ask(home: Path, invitation: Invitation, round_number: int, run: str = "test") -> Message:
    """What a process of a node answers to a training request."""
    vocabulary = Vocabulary.from_catalogue(CATEGORIES)
    population = FlowerPopulation(LocalGrid(app, 1), vocabulary)  # sets the task of the process
    (message,) = population.requests("train", [1], weights_of(invitation), round_number)
    message.metadata.__dict__["_message_id"] = "1"
    return app(message, context(home, run))


def context(home: Path, run: str) -> Context:
    return Context(1, 1, {"device": str(home)}, RecordDict(), {"run": run})


def weights_of(invitation: Invitation) -> Vector:
    return np.full(invitation.plan.parameters, 0.01, dtype=np.float32)


def test_a_node_scores_a_model_by_the_invitation_to_evaluations(tmp_path: Path) -> None:
    invitation = invited(tmp_path / "server", "clear", 3, stock=True)
    many = replace(WISHES, delta=1e-6, population=40_000, report_goal=10_000, over_selection=1.0)
    evaluation = invite_to_evaluations(tmp_path / "server", replace(many, rounds=4))
    assert evaluation.bundle == invitation.bundle
    home = device(tmp_path / "home", invitation)
    expected = DeviceHome(tmp_path / "home", evaluation).evaluator()(weights_of(invitation), 1)
    for name in ("invitation.json", "evaluation.json"):
        shutil.copy(tmp_path / "server" / name, tmp_path / "home")
    answer = update_of(ask(tmp_path / "home", invitation, 1, run=evaluation.run), 1)
    assert answer is not None and np.array_equal(answer, expected) and answer[0] > 0
    assert home.ledger.times(evaluation.run) == 1 and home.ledger.times("test") == 0
    home.close()
    hidden = tmp_path / "hidden"
    shutil.copytree(tmp_path / "server", hidden)
    (hidden / "evaluation.json").unlink()
    secret = invite_to_evaluations(hidden, replace(many, rounds=4), tier="secret")
    shutil.copy(hidden / "evaluation.json", tmp_path / "home")
    with pytest.raises(SettingsError, match="keys of a secure sum stay in memory"):
        invitation_of(tmp_path / "home", context(tmp_path / "home", secret.run))


def test_each_process_trains_on_the_device_and_charges_it(tmp_path: Path) -> None:
    invitation = invited(tmp_path / "server", "clear", 3, stock=True)
    home = device(tmp_path / "home", invitation)
    shutil.copy(tmp_path / "server" / "invitation.json", tmp_path / "home")
    update = update_of(ask(tmp_path / "home", invitation, 1), 1)
    assert update is not None and update.any() and np.isfinite(update).all()
    assert home.ledger.times("test") == 1
    with pytest.raises(RuntimeError, match=r"^SecureSumError$"):  # the same round once more
        ask(tmp_path / "home", invitation, 1)
    with pytest.raises(RuntimeError, match=r"^SettingsError$"):
        ask(tmp_path / "home", invitation, 9, run="another")
    home.close()
    second = device(tmp_path / "second", invitation)
    shutil.copy(tmp_path / "server" / "invitation.json", tmp_path / "second")
    second.withdraw()
    with pytest.raises(RuntimeError, match=r"^ConsentError$"):
        ask(tmp_path / "second", invitation, 1)
    second.close()
    (tmp_path / "second" / "node.key").write_text("bread")  # its error repeats what it read
    with pytest.raises(RuntimeError, match=r"^ValueError$"):
        ask(tmp_path / "second", invitation, 2)
    with pytest.raises(RuntimeError, match=r"^SettingsError$"):
        ask(tmp_path / "nowhere", invitation, 9)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("tier", ["secret", "noise-in-sum"])
def test_tiers_that_hide_updates_are_refused_with_the_reason(tmp_path: Path, tier: str) -> None:
    with pytest.raises(SettingsError, match="keys of a secure sum stay in memory"):
        invited(tmp_path, tier, 3, stock=True)
    assert not (tmp_path / "invitation.json").exists()


def test_the_bundle_only_imports_what_is_installed(tmp_path: Path) -> None:
    with zipfile.ZipFile(BytesIO(run_bundle())) as bundle:
        code = {name: bundle.read(name) for name in bundle.namelist() if name.endswith(".py")}
    assert code.pop("rounds.py").startswith(b"raise SystemExit(")
    assert code == {"node.py": b"from tactful_federated.device.stock_node import app as app\n"}
    run_bundle.cache_clear()
    invitation = invited(tmp_path, "clear", 3, stock=True)
    assert invitation.bundle == bundle_hash() and len(bundle_hash()) == 64
    assert invited(tmp_path, "clear", 3, stock=True) == invitation
    with pytest.raises(SettingsError, match="written with other settings"):
        invited(tmp_path, "clear", 3)


def test_keys_of_openssh_are_those_of_nodes(tmp_path: Path) -> None:
    line = openssh(tmp_path / "key")
    private = serialization.load_ssh_private_key((tmp_path / "key").read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert public_pem_of_openssh(line + b" a comment\n") == public_pem(private.public_key())
    other = ed25519.Ed25519PrivateKey.generate().public_key()
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    for wrong in (other.public_bytes(*form), b"", b"ecdsa-sha2-nistp384 AAAA", b"\xff"):
        with pytest.raises(SettingsError):
            public_pem_of_openssh(wrong)


@pytest.mark.slow  # three processes of Flower, which import it and poll every three seconds
@pytest.mark.service("nginx")
def test_a_stock_supernode_trains_through_the_second_proxy(tmp_path: Path) -> None:
    server, home, certificates = tmp_path / "server", tmp_path / "home", tls(tmp_path / "tls")
    invitation = invited(server, "clear", 1, stock=True)
    device(home, invitation).close()
    shutil.copy(server / "invitation.json", home)
    program = Path(sys.executable).parent / "flower-supernode"
    with (
        SuperLink(tmp_path / "link", certificates) as link,
        proxy(tmp_path / "proxy", certificates, link.address, "fleet-proxy-stock.conf") as address,
        link.run("test") as grid,
        (tmp_path / "node.log").open("wb") as log,
    ):
        node = link.enrol(public_pem_of_openssh(openssh(tmp_path / "key")))
        command: list[str | Path] = [
            program,
            "--superlink",
            address.replace("127.0.0.1", "localhost"),
        ]
        command += ["--root-certificates", certificates.authority, "--port", str(free_port())]
        command += ["--auth-supernode-private-key", tmp_path / "key"]
        command += ["--node-config", f'device="{home}"']
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=quiet_environment(tmp_path / "node")
        )
        try:
            wait_until(lambda: node in grid.get_node_ids(), 120)
            collector = collector_for(invitation, grid, deadline=120.0)
            found = collector.collect([node], weights_of(invitation), invitation.plan, 1)
        finally:
            process.terminate()
            process.wait()
    assert found.reports == 1 and found.total.any(), (tmp_path / "node.log").read_text()
