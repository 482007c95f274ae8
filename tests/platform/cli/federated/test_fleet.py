"""`tactful federated serve`, `enrol` and `device` against each other, and through a kill."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tests.federated.device.test_stock_node import openssh
from tests.federated.fleet_support import tls

from benchmarks.ports import free_port
from tactful.cli.federated.fleet import _figures
from tactful.cli.federated.mlflow_runs import FederatedRuns
from tactful.cli.main import main
from tactful.errors import StorageError
from tactful.schemas.federated import FederatedRound
from tactful_federated.core.invitation import Invitation, Tier, read_invitation, save_invitation
from tactful_federated.core.plan import TrainingPlan, Wishes
from tactful_federated.core.private_training import Collected, Outcome
from tactful_federated.device.home import DeviceHome
from tactful_federated.device.model_package import ModelSlot
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector
from tactful_federated.serving.rounds import LiveView, initial_weights, invite, serve_rounds

CATEGORIES = ["bread", "cheese", "milk"]
PLAN = TrainingPlan(  # as it was planned once: planning anew would take seconds
    epsilon=4.0,
    delta=0.001,
    rho=0.738,
    noise_multiplier=0.823,
    participations=1,
    separation=3,
    bands=3,
    rounds=3,
    cohort=6,
    report_goal=4,
    minimum_reports=2,
    update_norm=2.0,
    units=1048576,
    parameters=8000,
    sigma_squared=1086156300788418845,
    step_noise=0.485,
    model_noise=0.535,
    independent_model_noise=0.582,
)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 240
    while not true():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.1)


def start(*arguments: object, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tactful", "federated", *(str(a) for a in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment)


def start_devices(
    server: Path, invitation: Path, port: int, count: int, log: Path
) -> "list[subprocess.Popen[bytes]]":
    """Make devices with a history, enrol them at a server, and start them."""
    history = server.parent / "history.json"
    history.write_text(json.dumps([["milk", "bread"], ["cheese"]] * 6))
    homes = [server.parent / f"device-{n}" for n in range(count)]
    for home in homes:
        made = ["federated", "device", str(home), "--invitation", str(invitation), "--consent"]
        assert CliRunner().invoke(main, [*made, "--history", str(history)]).exit_code == 0
    requests = [str(home / "request.json") for home in homes]
    enrol = ["federated", "enrol", str(server), *requests, "--port", str(port)]
    shown = CliRunner().invoke(main, enrol)
    assert shown.exit_code == 0, shown.output
    common = ["--invitation", invitation, "--poll", 0.2, "--server", f"localhost:{port}"]
    pinned = ["--authority", server / "tls" / "authority.pem"]
    return [start("device", home, *common, *pinned, log=log) for home in homes]


def listening(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def test_devices_make_a_request_and_forget_when_told(tmp_path: Path) -> None:
    invitation = tmp_path / "invitation.json"
    keys: dict[str, Any] = {"authority": bytes(32), "signer": bytes(32)}
    save_invitation(
        invitation, Invitation(run="test", tier="clear", plan=PLAN, categories=CATEGORIES, **keys)
    )
    home, history = tmp_path / "device", tmp_path / "history.json"
    history.write_text(json.dumps([["milk", "bread"]] * 3))
    asked = ["federated", "device", str(home), "--invitation", str(invitation)]

    def device(*more: str) -> str:
        found = CliRunner().invoke(main, [*asked, *more])
        return str(found.exit_code) + found.output

    def kept() -> list[list[str]]:
        opened = DeviceHome(home, read_invitation(invitation))
        visits = [sorted(visit) for visit in opened.events.visits()]
        opened.close()
        return visits

    assert device("--history", str(history)).startswith("1")  # nothing is kept without consent
    assert "enrolled" in device("--consent", "--history", str(history))
    first = (home / "request.json").read_bytes()
    # Given at each start, also longer, without its oldest visits, or in another order.
    for more in ([], [["cheese"]], [["cheese"], ["milk", "bread"]]):
        history.write_text(json.dumps([["milk", "bread"]] * 2 + more))
        device("--history", str(history))
    assert kept() == [["bread", "milk"]] * 3 + [["cheese"]]
    assert "enrolled" in device() and (home / "request.json").read_bytes() == first
    device("--rotate")
    assert (home / "request.json").read_bytes() != first
    history.write_text("[1]")
    assert device("--history", str(history)).startswith("2")
    assert device("--server", "localhost:1").startswith("2")  # whom to trust was not said
    (home / "node").write_text("17")  # as when it was let in
    assert kept() == [["bread", "milk"]] * 3 + [["cheese"]]
    assert device("--withdraw").startswith("0")
    assert kept() == []
    device("--rotate")
    assert not (home / "node").exists()  # by its old number a stranger would be known again


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--buffered"], "--tier clear, without --trim: it reads updates"),
        (["--buffered", "--tier", "noise-in-sum"], "it reads updates"),
        (["--trim", "0.1"], "--tier clear: a secret sum shows no single update"),
        (["--encoding", "int8"], "--tier clear: secret sums have 32-bit words"),
        (["--stock"], "tier secret: the keys of a secure sum stay in memory"),
        (["--stock", "--tier", "noise-in-sum"], "starts a process for each; use tactful-device"),
        (["--buffered", "--tier", "clear", "--trim", "0.1"], "--trim"),
        (["--page-port", "0"], "--origin"),
        (["--origin", "https://shop.example"], "--page-port"),
        (
            ["--page-port", "0", "--origin", "https://a.example", "--tier", "clear"],
            "no page sends updates in the clear",
        ),
        (["--server-rate", "0"], "--server-rate"),
        (["--device-rate", "-1"], "--device-rate"),
        (["--proximal", "-1"], "--proximal"),
        (["--optimizer", "sgd"], "--optimizer"),
        (["--embedding", "0"], "--embedding"),
        (["--embedding", "96", "--hidden", "96"], "--embedding 96 and --hidden 96"),
    ],
)
def test_what_cannot_be_served_is_named(tmp_path: Path, wrong: list[str], named: str) -> None:
    catalogue = tmp_path / "catalogue.txt"
    catalogue.write_text("\n".join(CATEGORIES))
    asked = ["--catalogue", str(catalogue), "--population", "1000", "--report-goal", "10", *wrong]
    found = CliRunner().invoke(main, ["federated", "serve", str(tmp_path / "server"), *asked])
    assert found.exit_code == 2 and named in found.output
    assert not (tmp_path / "server").exists()


@pytest.mark.parametrize(
    ("tier", "stock", "reason"),
    [
        ("secret", False, "keys of a secure sum stay in memory"),
        ("noise-in-sum", False, "keys of a secure sum stay in memory"),
        ("clear", False, "serve the run with --stock"),
        ("clear", True, "cannot be reached"),  # by the key: nothing listens on this port
    ],
)
def test_keys_of_stock_nodes_are_enrolled_in_their_runs_alone(
    tmp_path: Path, tier: Tier, stock: bool, reason: str
) -> None:
    wishes = Wishes(epsilon=4.0, delta=1e-3, population=60, rounds=3, report_goal=6)
    server, key = tmp_path / "server", tmp_path / "node.pub"
    invite(server, wishes, CATEGORIES, run="test", tier=tier, stock=stock)
    key.write_bytes(openssh(tmp_path / "node"))
    authority = tls(tmp_path / "tls").authority
    (server / "authority.key").unlink()  # it enrols none of these keys
    asked = ["federated", "enrol", str(server), str(key), "--authority", str(authority)]
    found = CliRunner().invoke(main, [*asked, "--port", str(free_port())])
    assert found.exit_code == 1 and reason in found.output and str(key) in found.output
    key.write_text("ssh-ed25519 AAAA me@here")
    found = CliRunner().invoke(main, [*asked, "--json"])
    assert found.exit_code == 1 and str(key) in found.output


@pytest.mark.slow
def test_a_served_run_goes_on_after_its_server_was_killed(tmp_path: Path) -> None:
    server, catalogue, log = tmp_path / "server", tmp_path / "catalogue.txt", tmp_path / "log"
    catalogue.write_text("\n".join(CATEGORIES))
    port = free_port()
    serve = [
        *("serve", server, "--catalogue", catalogue, "--population", 12, "--rounds", 3),
        *("--report-goal", 3, "--minimum-reports", 3, "--over-selection", 1.0, "--json"),
        *("--availability", 1.0, "--epsilon", 8, "--delta", 1e-3, "--port", port),
        *("--deadline", 30, "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"),
        *("--embedding", 16, "--hidden", 24),  # of which devices learn from the invitation
    ]
    processes = [start(*serve, log=log)]
    try:
        until(lambda: listening(port) or processes[0].poll() is not None)
        invitation = server / "invitation.json"
        assert read_invitation(invitation).widths == (16, 24)
        # Three for the first round, three to whom the killed one stays charged, three for the next:
        # by this plan nobody takes part twice.
        processes += start_devices(server, invitation, port, 9, log)
        until(lambda: (server / "live.json").exists())
        os.kill(processes[0].pid, signal.SIGKILL)
        processes[0].wait()
        before = json.loads((server / "live.json").read_text())["releases"]
        processes[0] = start(*serve, log=log)

        def went_on() -> bool:
            assert processes[0].poll() is None, log.read_text()[-3000:]
            return bool(json.loads((server / "live.json").read_text())["releases"] > before)

        until(went_on)
        processes[0].terminate()
        assert processes[0].wait() == 0
        # The round that was killed stays charged: no device can be asked as often as before.
        assert json.loads((server / "live.json").read_text())["releases"] <= 3
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@pytest.mark.slow
def test_devices_say_how_good_a_model_is_to_a_command(tmp_path: Path) -> None:
    server, log = tmp_path / "server", tmp_path / "log"
    budget: dict[str, Any] = {"epsilon": 8.0, "delta": 1e-3, "availability": 1.0}
    wishes = Wishes(population=12, rounds=1, report_goal=3, minimum_reports=3, **budget)
    trained = invite(server, wishes, CATEGORIES, run="test", tier="secret")
    np.save(server / "weights.npy", initial_weights(trained.vocabulary))
    port = free_port()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    evaluate = [
        *("evaluate", server, "--population", 12, "--evaluations", 2, "--report-goal", 3),
        *("--minimum-reports", 3, "--over-selection", 1.0, "--availability", 1.0, "--json"),
        *("--epsilon", 16, "--delta", 1e-3, "--spare", 4, "--port", port, "--tracking-uri", uri),
    ]
    processes = [start(*evaluate, log=log)]
    try:
        until(lambda: listening(port) or processes[0].poll() is not None)
        invitation = server / "evaluation.json"
        assert invitation.exists(), log.read_text()[-3000:]
        noise = read_invitation(invitation).plan.step_noise
        processes += start_devices(server, invitation, port, 3, log)
        assert processes[0].wait(240) == 0, log.read_text()[-3000:]
        said = [line for line in log.read_text().splitlines() if line.startswith("{")]
        found = json.loads(said[-1])
        assert found["left"] == 1
        # Of three devices it may well be that no more than noise comes back, and it says so.
        assert found["devices"] == 0 or abs(found["devices"] - 3) < 7 * 3**1.5 * noise
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def test_a_store_that_is_away_is_told_and_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    wishes = Wishes(epsilon=4.0, delta=1e-3, population=60, rounds=3, report_goal=4)
    invitation = invite(tmp_path, wishes, CATEGORIES, run="test", tier="clear")
    runs = FederatedRuns(tmp_path, tracking_uri=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StorageError, match="MLflow at http://127"):
        runs.begin(invitation)
    assert not (tmp_path / "mlflow-run").exists()
    for number in (1, 2):
        runs.show(
            "a-run", FederatedRound(number=number, at=1, releases=number, epsilon=0.5, seconds=1.0)
        )
    (warned,) = [it for it in caplog.records if it.name == "tactful.cli.federated.mlflow_runs"]
    assert "rounds are not logged until it is back: MLflow at" in warned.getMessage()


@pytest.mark.slow
def test_rounds_are_in_mlflow_and_the_model_is_the_champion(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from mlflow import MlflowClient

    everybody: dict[str, Any] = {"over_selection": 1.0, "availability": 1.0}
    wishes = Wishes(epsilon=4.0, delta=1e-3, population=60, rounds=3, report_goal=4, **everybody)
    invitation = invite(tmp_path, wishes, CATEGORIES, run="test", tier="clear")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    views: list[LiveView] = []

    class Silent:
        """Devices that report zeros."""

        def ids(self) -> list[int]:
            return list(range(60))

        def collect(
            self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
        ) -> Collected:
            return Collected(np.zeros(plan.parameters, dtype=np.int64), len(ids))

    for rounds in (2, 3):  # two starts, one run
        runs = FederatedRuns(tmp_path, tracking_uri=uri)
        run = runs.begin(invitation)

        def show(outcome: Outcome, view: LiveView, runs: FederatedRuns = runs) -> None:
            views.append(view)
            runs.show((tmp_path / "mlflow-run").read_text(), _figures(outcome, view))

        serve_rounds(tmp_path, invitation, Silent(), rounds=rounds, progress=show)
    client = MlflowClient(tracking_uri=uri)
    client.create_registered_model("intent")
    client.create_model_version("intent", str(tmp_path / "of-an-earlier-run"))
    client.set_registered_model_alias("intent", "champion", "1")
    with pytest.raises(OSError, match="disk"), runs.failing(run):
        raise OSError("the disk is full")
    failed = client.get_run(run)
    assert (failed.info.status, failed.data.tags["failure"]) == ("FAILED", "the disk is full")
    with runs.failing(run):
        assert client.get_run(run).info.status == "RUNNING", "its next start resumes it"
    # Served again although it is at its end, the run is not registered again.
    assert runs.finish(run) == "2" and runs.finish(run) == "2"
    found = client.get_run(run).data
    assert found.params["tier"] == "clear" and found.params["rounds"] == "3"
    assert [metric.value for metric in client.get_metric_history(run, "releases")] == [1, 2, 3]
    assert found.metrics["epsilon_spent"] == views[-1].epsilon == 4.0
    assert views[0].epsilon <= views[1].epsilon <= 4.0
    aliases = {a: str(v) for a, v in client.get_registered_model("intent").aliases.items()}
    assert aliases == {"champion": "2", "previous": "1"}
    signer = Ed25519PublicKey.from_public_bytes(invitation.signer)
    slot = ModelSlot(tmp_path / "slot", signer, Vocabulary.from_catalogue(CATEGORIES))
    slot.install((tmp_path / "model").read_bytes())
    assert slot.version == 3
