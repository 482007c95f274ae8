"""Sparse sums of groups as an operator starts them, with devices that lie and that die."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.platform.cli.federated.test_fleet import CATEGORIES, listening, start, until

from benchmarks.ports import free_port
from tactful.cli.main import main
from tactful_federated.core.invitation import read_invitation
from tactful_federated.device.home import DeviceHome

DEVICES = 14
DEVICE = "from tactful_federated.device.command import main; main()"
LIAR = f"""
from tactful_federated.secagg import messages, sparse

def wrong(self, agreements, right=sparse.SparseSumDevice.open):
    print("lied", flush=True)
    opened = messages.decode(right(self, agreements), messages.Opened)
    seeds = {{member: bytes(33) for member in opened.seeds}}
    return messages.encode(messages.Opened(seeds, opened.mask_keys))

sparse.SparseSumDevice.open = wrong
{DEVICE}
"""
DIES = f"""
import os
from tactful_federated.secagg import sparse
sparse.SparseSumDevice.mask = lambda *_: os._exit(9)  # its masks are agreed, its vector is missing
{DEVICE}
"""


HONEST = """
import sys
from pathlib import Path
from threading import Event, Thread
from tactful_federated.core.invitation import read_invitation
from tactful_federated.device.command import take_part
from tactful_federated.device.home import DeviceHome

invitation, server, authority, *homes = sys.argv[1:]
given, pinned = read_invitation(Path(invitation)), Path(authority).read_bytes()
for home in homes:
    device = DeviceHome(Path(home), given)
    options = {"only_while": None, "poll": 1.0, "memory_mb": 4096}
    Thread(target=take_part, args=(device, server, pinned, lambda: False), kwargs=options).start()
"""


def enrolled(server: Path, port: int) -> list[Path]:
    """Directories of devices with a history, enrolled by the operator's command."""
    invitation = read_invitation(server / "invitation.json")
    homes = [server.parent / f"device-{number}" for number in range(DEVICES)]
    for home in homes:
        device = DeviceHome(home, invitation)
        device.events.give_consent()
        device.remember([["milk", "bread"], ["cheese"]] * 6)
        device.close()
    requests = [str(home / "request.json") for home in homes]
    enrol = ["federated", "enrol", str(server), *requests, "--port", str(port)]
    shown = CliRunner().invoke(main, enrol)
    assert shown.exit_code == 0, shown.output
    return homes


def start_code(code: str, *arguments: object, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with log.open("wb") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def start_devices(server: Path, port: int) -> "list[subprocess.Popen[bytes]]":
    """Start the honest devices in one process, and each of the two others in its own."""
    lies, dies, *honest = enrolled(server, port)
    given = server / "invitation.json", f"localhost:{port}", server / "tls" / "authority.pem"
    processes = []
    for code, home in ((LIAR, lies), (DIES, dies)):
        options = ["--invitation", given[0], "--server", given[1], "--authority", given[2]]
        options += ["--poll", 1.0]
        processes.append(start_code(code, home, *options, log=home / "log"))
    until(lambda: (lies / "node").exists() and (dies / "node").exists())  # else the round begins
    return [*processes, start_code(HONEST, *given, *honest, log=server.parent / "honest.log")]


@pytest.mark.slow  # five processes that import Flower
def test_sparse_groups_release_a_model_although_devices_lie_and_die(tmp_path: Path) -> None:
    server, catalogue, log = tmp_path / "server", tmp_path / "catalogue.txt", tmp_path / "log"
    catalogue.write_text("\n".join(CATEGORIES))
    port = free_port()
    options = [
        *("--group-size", 7, "--corrupt", 0.05, "--dropped", 0.2, "--tier", "secret"),
        *("--population", DEVICES, "--availability", 1.0, "--rounds", 1, "--report-goal", 10),
        *("--minimum-reports", 6, "--over-selection", 1.4, "--spare", 2),
        *("--epsilon", 8, "--delta", 1e-3),
    ]
    planned = CliRunner().invoke(main, ["federated", "plan", *map(str, options)])
    assert "2 of at most 7 devices" in planned.output, planned.output
    assert "masks with           4 neighbours" in planned.output
    serve = ["serve", server, "--catalogue", catalogue, "--port", port, "--json", *options]
    serve += ["--deadline", 20, "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    processes = [start(*serve, log=log)]
    try:
        until(lambda: listening(port) or processes[0].poll() is not None)
        assert processes[0].poll() is None, log.read_text()
        processes += start_devices(server, port)
        assert processes[0].wait(240) == 0, log.read_text()[-3000:]
        assert processes[2].wait(10) == 9
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    assert json.loads((server / "live.json").read_text())["releases"] == 1
    assert np.isfinite(np.load(server / "weights.npy")).all()
    assert "lied" in (tmp_path / "device-0" / "log").read_text()
