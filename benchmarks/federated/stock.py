"""Eight stock Flower nodes that train over TLS: a process for each message, and no torch."""

from __future__ import annotations

import contextlib
import datetime
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.federated.fleet import wishes
from benchmarks.figures import Figure
from benchmarks.ports import free_port
from tactful_federated.core.invitation import Invitation
from tactful_federated.device.home import DeviceHome
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.serving.rounds import collector_for, initial_weights, invite
from tactful_federated.transport.certificates import make_tls, public_pem
from tactful_federated.transport.superlink import SuperLink, quiet_environment
from tactful_federated.transport.superlink_grid import SuperLinkGrid

NODES = 8
_PATIENCE_S = 300.0
_NO_TORCH = 'raise ModuleNotFoundError("a node has no torch", name="torch")\n'


def round_time(quick: bool) -> list[Figure]:
    """Measure rounds of stock nodes, from the question to the last update."""
    categories = [*SAMPLE_CATALOGUE, *(f"category {number}" for number in range(85))]
    asked = wishes(NODES, minimum_reports=NODES)
    now, spent = datetime.datetime.now(datetime.UTC), []
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        tls = make_tls(folder / "tls", ["localhost", "127.0.0.1"], now=now)
        invitation = invite(folder, asked, categories, run="bench", tier="clear", stock=True)
        weights = initial_weights(invitation.vocabulary)
        with (
            SuperLink(folder, tls) as link,
            link.run("bench") as grid,
            _nodes(folder, link, invitation, grid) as nodes,
        ):
            collector = collector_for(invitation, grid, deadline=_PATIENCE_S)
            for number in range(1, (2 if quick else 6) + 1):
                begun = time.perf_counter()
                found = collector.collect(nodes, weights, invitation.plan, number)
                spent.append(time.perf_counter() - begun)
                if found.reports != NODES:
                    raise RuntimeError(f"{found.reports} of {NODES} nodes reported; see node logs")
    note = (
        f"{NODES} stock nodes, {weights.size:,} parameters, an epoch over 60 visits, in the clear,"
        f" without torch; {os.cpu_count()} cores for all"
    )
    middle = float(np.median(spent))
    return [Figure("stock_node_round_s", middle, "s", min(spent), max(spent), len(spent), note)]


@contextlib.contextmanager
def _nodes(
    folder: Path, link: SuperLink, invitation: Invitation, grid: SuperLinkGrid
) -> Iterator[list[int]]:
    """Start stock nodes, and yield their numbers once they are online."""
    (folder / "no_torch").mkdir()
    (folder / "no_torch" / "torch.py").write_text(_NO_TORCH)
    processes, nodes = [], []
    try:
        for who in range(NODES):
            home = folder / f"node-{who}"
            nodes.append(_let_in(home, link, invitation, who))
            processes.append(_start(home, folder, link.address))
        end = time.monotonic() + _PATIENCE_S
        while not set(nodes) <= set(grid.get_node_ids()):
            if time.monotonic() > end or any(process.poll() is not None for process in processes):
                raise RuntimeError("a stock node did not come online")
            time.sleep(0.2)
        yield nodes
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def _let_in(home: Path, link: SuperLink, invitation: Invitation, who: int) -> int:
    device = DeviceHome(home, invitation)
    device.events.give_consent()
    device.remember(sample_history(who, baskets=60))
    device.close()
    (home / "invitation.json").write_bytes((home.parent / "invitation.json").read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    path = home / "flower.key"  # node.key is that of `tactful-device`
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return link.enrol(public_pem(key.public_key()))


def _start(home: Path, folder: Path, address: str) -> subprocess.Popen[bytes]:
    environment = quiet_environment(home) | {"OMP_NUM_THREADS": "1"}
    inherited = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = f"{folder / 'no_torch'}:{inherited}".rstrip(":")
    command = [str(Path(sys.executable).parent / "flower-supernode"), "--superlink", address]
    command += ["--root-certificates", str(folder / "tls" / "authority.pem")]
    command += ["--auth-supernode-private-key", str(home / "flower.key")]
    command += ["--port", str(free_port()), "--node-config", f'device="{home}"']
    with (home / "node.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)
