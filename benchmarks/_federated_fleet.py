"""A real SuperLink and eight devices, each a process, over TLS on loopback."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from benchmarks.figures import Figure
from tactful_federated import (
    DeviceHome,
    EnrolmentRequest,
    FleetClient,
    Invitation,
    SuperLink,
    Tls,
    Wishes,
    collector_for,
    enrol,
    invite,
    make_tls,
    read_invitation,
)
from tactful_federated.fixed_point import IntegerVector
from tactful_federated.invitation import Tier
from tactful_federated.sample import SAMPLE_CATALOGUE, sample_history
from tactful_federated.serving import authority_key, initial_weights
from tactful_federated.superlink_grid import SuperLinkGrid
from tactful_federated.vectors import Vector

_DEVICES = 8
_KILLED = 2  # of eight, which leaves the two thirds that a sum takes
_PATIENCE_S = 300.0
_DEADLINE_S = 20.0  # a question waits so long for the killed, and the living must answer within it


def round_time(quick: bool) -> list[Figure]:
    """How long a round of eight devices takes, and what a message costs a device, TLS included."""
    categories = [*SAMPLE_CATALOGUE, *(f"category {number}" for number in range(85))]
    with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder), "clear", categories) as it:
        weights, spent = initial_weights(it.invitation.vocabulary), []
        collector = collector_for(it.invitation, it.grid, deadline=60.0)
        before, rounds = it.server_cpu() + time.process_time(), 3 if quick else 11
        for number in range(1, rounds + 1):
            begun = time.perf_counter()
            found = collector.collect(it.nodes, weights, it.invitation.plan, number)
            spent.append(time.perf_counter() - begun)
            if found.reports != _DEVICES:
                raise RuntimeError(f"{found.reports} of {_DEVICES} devices reported")
        server = (it.server_cpu() + time.process_time() - before) / rounds
        cpu = [float(line) for home in it.homes for line in (home / "cpu").read_text().split()]
    note = (
        f"{_DEVICES} processes, {weights.size:,} parameters, an epoch over 60 visits, in the clear"
    )
    middle, mean = float(np.median(spent)), float(np.median(cpu))
    return [
        Figure("round_s_8_devices_tls", middle, "s", min(spent), max(spent), len(spent), note),
        Figure("server_cpu_s_per_round_8_devices_tls", server, "s", runs=rounds, note=note),
        Figure("device_cpu_s_per_message_tls", mean, "s", min(cpu), max(cpu), len(cpu), note),
    ]


def kills(quick: bool, rounds: int | None = None) -> list[Figure]:
    """Two of eight processes are killed at random moments of each round of secret sums."""
    logging.getLogger("tactful_federated").setLevel(logging.ERROR)
    rounds = rounds or (10 if quick else 50)
    draw, wrong, void, duration = np.random.default_rng(3), 0, 0, 1.0
    with tempfile.TemporaryDirectory() as folder, _fleet(Path(folder), "secret", ["a", "b"]) as it:
        plan = it.invitation.plan
        weights = np.zeros(plan.parameters, dtype=np.float32)
        for number in range(1, rounds + 1):
            struck = sorted(draw.choice(_DEVICES, _KILLED, replace=False).tolist())
            killers = [
                threading.Timer(float(draw.uniform(0, duration)), it.processes[who].kill)
                for who in struck
            ]
            for killer in killers:
                killer.start()
            begun = time.perf_counter()
            found = collector_for(it.invitation, it.grid, deadline=_DEADLINE_S).collect(
                it.nodes, weights, plan, number
            )
            duration = time.perf_counter() - begun if not void else duration
            for killer in killers:
                killer.join()
            if found.reports:
                wrong += not _is_sum(found.total, number, found.reports, it.invitation)
            else:
                void += 1
            for who in struck:
                it.revive(who)
    if void == rounds:
        raise RuntimeError(f"all of {rounds} sums were given up: nothing was measured")
    note = (
        f"{rounds} secret sums of {_DEVICES} processes over TLS, {_KILLED} killed with SIGKILL at a"
        f" random moment of each and started again; {void} sums were given up"
    )
    return [Figure("kill_wrong_sums_processes", wrong, "sums", runs=rounds, note=note)]


def _is_sum(total: IntegerVector, number: int, reports: int, invitation: Invitation) -> bool:
    """Whether a total is exactly that of some devices, and of so many."""
    encoded = [
        invitation.plan.grid.encode(_fixed(who, number, total.size)) for who in range(_DEVICES)
    ]
    return any(
        np.array_equal(np.sum(kept, axis=0), total)
        for kept in itertools.combinations(encoded, reports)
    )


def _fixed(who: int, round_number: int, size: int) -> Vector:
    return np.random.default_rng((who, round_number)).normal(0, 0.001, size).astype(np.float32)


class _Fleet:
    """Devices in processes, enrolled and online."""

    def __init__(
        self, folder: Path, link: SuperLink, tls: Tls, grid: SuperLinkGrid, invitation: Invitation
    ) -> None:
        self.grid, self.invitation = grid, invitation
        self._folder, self._link, self._tls = folder, link, tls
        self.homes = [folder / f"device-{who}" for who in range(_DEVICES)]
        self.nodes = [self._let_in(who) for who in range(_DEVICES)]
        self.processes = [self._start(who) for who in range(_DEVICES)]
        for who in range(_DEVICES):
            self._wait(who)

    def revive(self, who: int) -> None:
        """Start a device again that was killed, and wait until it is online."""
        self.processes[who].wait()
        (self.homes[who] / "online").unlink(missing_ok=True)
        self.processes[who] = self._start(who)
        self._wait(who)

    def server_cpu(self) -> float:
        """Seconds of CPU that the SuperLink has taken so far."""
        fields = Path(f"/proc/{self._link.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.kill()
            process.wait()

    def _let_in(self, who: int) -> int:
        home = DeviceHome(self.homes[who], self.invitation)
        home.events.give_consent()
        if self.invitation.tier == "clear":
            home.remember(sample_history(who, baskets=60))
        home.close()
        request = msgspec.json.decode(
            (self.homes[who] / "request.json").read_bytes(), type=EnrolmentRequest
        )
        node = self._link.enrol(request.node)
        identity = Ed25519PublicKey.from_public_bytes(request.identity)
        enrolment = enrol(authority_key(self._folder), node, identity)
        (self.homes[who] / "enrolment").write_bytes(msgspec.msgpack.encode(enrolment))
        return node

    def _start(self, who: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks._federated_fleet", str(self.homes[who])]
        command += [str(self._folder), self._link.address, str(self._tls.authority), str(who)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    def _wait(self, who: int) -> None:
        end = time.monotonic() + _PATIENCE_S
        while not (self.homes[who] / "online").exists():
            if self.processes[who].poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"device {who} did not come online")
            time.sleep(0.02)


@contextlib.contextmanager
def _fleet(folder: Path, tier: Tier, categories: list[str]) -> Iterator[_Fleet]:
    now = datetime.datetime.now(datetime.UTC)
    tls = make_tls(folder / "tls", ["localhost", "127.0.0.1"], now=now)
    wishes = Wishes(
        epsilon=8.0,
        delta=1e-3,
        population=_DEVICES,
        rounds=100,
        report_goal=_DEVICES,
        over_selection=1.0,
        minimum_reports=3,
        availability=1.0,
        most_bands=1,
    )
    invitation = invite(folder, wishes, categories, run="bench", tier=tier)
    with SuperLink(folder, tls) as link, link.run() as grid:
        fleet = _Fleet(folder, link, tls, grid, invitation)
        try:
            yield fleet
        finally:
            fleet.close()


def main() -> None:
    """A device: trains on what it kept, or in secret sums says what only its number tells."""
    place, server, address, authority, who = sys.argv[1:6]
    home = DeviceHome(Path(place), read_invitation(Path(server) / "invitation.json"))
    secret = read_invitation(Path(server) / "invitation.json").tier != "clear"

    def fixed(weights: Vector, round_number: int) -> Vector:
        return _fixed(int(who), round_number, weights.size)

    def greeted(number: int) -> None:
        home.greeted(number)
        (Path(place) / "online").write_text("")

    client = FleetClient(
        address,
        Path(authority).read_bytes(),
        home.key,
        home.app(fixed if secret else None),
        node=home.node,
        greeted=greeted,
        poll=0.25,
    )
    client.step = _timed(client.step, Path(place) / "cpu")  # type: ignore[method-assign]
    client.work(lambda: False)


def _timed(step: Callable[[], bool], path: Path) -> Callable[[], bool]:
    def timed() -> bool:
        begun = time.process_time()
        busy = step()
        if busy:
            with path.open("a") as file:
                file.write(f"{time.process_time() - begun:.4f}\n")
        return busy

    return timed


if __name__ == "__main__":
    main()
