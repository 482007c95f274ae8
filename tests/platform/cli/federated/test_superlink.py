"""`flwr run`, `flwr list` and `flwr log` on a SuperLink of ours, by Flower's own programs."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from tests.federated.device.test_flower_strategies import PROJECT, load_shop
from tests.federated.device.test_stock_node import openssh
from tests.federated.fleet_support import in_threads, invited, tls
from tests.platform.cli.federated.test_fleet import listening, start, until

from benchmarks.ports import free_port
from tactful.cli.main import main
from tactful_federated.core.polling import Polling
from tactful_federated.errors import SettingsError
from tactful_federated.transport.certificates import public_pem
from tactful_federated.transport.fleet_client import FleetClient
from tactful_federated.transport.submitted_runs import project_hash
from tactful_federated.transport.superlink import SuperLink, enrol_node, quiet_environment


class Operator:
    """Machine of an operator: its Flower commands, connected to a SuperLink."""

    def __init__(self, home: Path, address: str, authority: Path | None = None) -> None:
        self.address, self.environment = address, quiet_environment(home)
        trusted = "insecure = true" if authority is None else f'root-certificates = "{authority}"'
        text = f'[superlink]\ndefault = "shop"\n[superlink.shop]\naddress = "{address}"\n'
        (home / "flower").mkdir(parents=True)
        (home / "flower" / "config.toml").write_text(
            f"{text}{trusted}\noptions.num-supernodes = 3\n"
        )

    def flwr(self, *arguments: str) -> str:
        program = str(Path(sys.executable).parent / "flwr")
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, env=self.environment
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, project: Path, checkpoint: Path, rounds: int = 2) -> str:
        config = f'rounds={rounds} strategy="FedAvg" checkpoint="{checkpoint}"'
        started = self.flwr("run", str(project), "--run-config", config, "--format", "json")
        answer = json.loads(started)
        assert answer["success"], answer  # the exit code is 0 in any case
        return str(answer["run-id"])

    def status(self, run: str) -> dict[str, Any]:
        (found,) = (
            listed
            for listed in json.loads(self.flwr("list", "--format", "json"))["runs"]
            if listed["run-id"] == run
        )
        return dict(found)

    def finished(self, run: str) -> bool:
        status = self.status(run)
        assert not status["status"].endswith("failed"), status
        return bool(status["status"] == "finished:completed")


def rounds_done(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    with np.load(checkpoint) as saved:
        return int(saved["round"])


def kill_program(name: str, address: str) -> None:
    """Kill -9 the program of Flower that works for the SuperLink at an address."""
    (found,) = (
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if name.encode() in (command := command_of(path)) and address.encode() in command
    )
    os.kill(found, signal.SIGKILL)
    until(lambda: not command_of(Path(f"/proc/{found}/cmdline")))


def command_of(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def kill_and_resume(operator: Operator, checkpoint: Path, program: str, rounds: int) -> None:
    """Kill the program that leads a run in the middle, and submit the run again."""
    operator.run(PROJECT, checkpoint, rounds)
    until(lambda: rounds_done(checkpoint) >= 1)
    kill_program(program, operator.address)
    done = rounds_done(checkpoint)
    assert done < rounds
    run = operator.run(PROJECT, checkpoint, rounds)
    until(lambda: rounds_done(checkpoint) == rounds)
    until(lambda: operator.finished(run))
    log = operator.flwr("log", run, "--show")
    assert f"[ROUND {rounds - done}/{rounds - done}]" in log


@contextlib.contextmanager
def devices(port: int, authority: Path, count: int) -> Iterator[None]:
    """Our own client with the app of the project, which no bundle brought."""
    app, clients = load_shop().client, []
    for _ in range(count):
        key = ec.generate_private_key(ec.SECP384R1())
        address, pinned = f"127.0.0.1:{port}", authority.read_bytes()
        enrol_node(address, pinned, public_pem(key.public_key()))
        clients.append(FleetClient(address, pinned, key, app, polling=Polling(0.25)))
    with in_threads(clients):
        yield


@pytest.mark.slow  # five processes that import Flower
def test_a_killed_run_resumes_and_other_code_is_refused(tmp_path: Path) -> None:
    directory, log, port = tmp_path / "link", tmp_path / "log", free_port()
    served = start("superlink", directory, "--app", PROJECT, "--port", port, log=log)
    authority = directory / "tls" / "authority.pem"
    try:
        until(lambda: listening(port) or served.poll() is not None)
        operator = Operator(tmp_path / "operator", f"127.0.0.1:{port}", authority)
        changed = shutil.copytree(PROJECT, tmp_path / "changed")
        with (changed / "shop_app.py").open("a") as file:
            file.write(f"Path({str(tmp_path / 'ran')!r}).touch()\n")
        with devices(port, authority, 2):
            kill_and_resume(operator, tmp_path / "run.npz", "flwr-serverapp", 2)
            run = operator.run(changed, tmp_path / "other.npz")
            until(lambda: f"run {run}: refused" in log.read_text())
        assert operator.status(run)["status"] == "finished:failed"
        assert "none of the projects" in operator.status(run)["status-details"]
        assert "none of the projects" in operator.flwr("log", run, "--show")
        assert not (tmp_path / "ran").exists()
        (tmp_path / "node.pub").write_bytes(openssh(tmp_path / "node"))
        enrol = ["federated", "enrol", str(directory), str(tmp_path / "node.pub"), "--json"]
        enrolled = CliRunner().invoke(main, [*enrol, "--port", str(port)])
        assert enrolled.exit_code == 0 and json.loads(enrolled.output)[0]["node"], enrolled.output
        served.terminate()
        assert served.wait() == 0
        assert not list(directory.glob("*.token"))
    finally:
        served.kill()
        served.wait()


@pytest.mark.slow  # Ray starts a process for each core
def test_a_killed_simulation_resumes(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs flwr[simulation]")
    port = free_port()
    operator = Operator(tmp_path / "operator", f"127.0.0.1:{port}")
    program = str(Path(sys.executable).parent / "flower-superlink")
    command = [program, "--insecure", "--simulation"]
    command += ["--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        link = subprocess.Popen(command, stdout=log, stderr=log, env=operator.environment)
    try:
        until(lambda: listening(port) or link.poll() is not None)
        kill_and_resume(operator, tmp_path / "run.npz", "flwr-simulation", 60)
    finally:
        link.terminate()
        link.wait()


@pytest.mark.slow  # a SuperLink, and Flower's command line three times
def test_a_private_run_refuses_submitted_ones_and_has_a_log(tmp_path: Path) -> None:
    invited(tmp_path / "server", "secret", 3)
    certificates = tls(tmp_path / "tls")
    with SuperLink(tmp_path / "link", certificates) as link, link.run("test") as grid:
        operator = Operator(tmp_path / "operator", link.address, certificates.authority)
        run = operator.run(PROJECT, tmp_path / "run.npz")
        until(lambda: operator.status(run)["status"] == "finished:failed")
        assert "tactful federated superlink" in operator.status(run)["status-details"]
        grid.log("round 1: 1 of 6 releases")
        assert "1 of 6 releases" in operator.flwr("log", str(grid.run.run_id), "--show")
        assert operator.status(str(grid.run.run_id))["status"] == "running"
    assert not (tmp_path / "run.npz").exists()


@pytest.mark.parametrize("text", [None, "", "[project]\nname = 'shop'\n", "[tool"])
def test_a_folder_that_is_no_project_is_named(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SettingsError, match=str(tmp_path)):
        project_hash(tmp_path)
    asked = ["federated", "superlink", str(tmp_path / "link"), "--app", str(tmp_path)]
    shown = CliRunner().invoke(main, asked)
    assert shown.exit_code == 2 and str(tmp_path) in shown.output
    assert not (tmp_path / "link").exists()
