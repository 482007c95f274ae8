"""A real SuperLink and devices, each a process, over TLS on loopback."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import logging
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message
from flwr.serverapp import Grid

from benchmarks.figures import Figure
from tactful_federated.core.invitation import Invitation, Tier, read_invitation
from tactful_federated.core.plan import Wishes
from tactful_federated.core.polling import Polling
from tactful_federated.device.home import DeviceHome, EnrolmentRequest
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.vectors import IntegerVector, Vector
from tactful_federated.secagg.messages import enrol
from tactful_federated.serving.rounds import authority_key, collector_for, initial_weights, invite
from tactful_federated.transport.certificates import Tls, make_tls
from tactful_federated.transport.fleet_client import FleetClient
from tactful_federated.transport.superlink import SuperLink
from tactful_federated.transport.superlink_grid import SuperLinkGrid

_DEVICES = 8
_MANY, _KILLED = 10, 3  # which leaves more than the two thirds that a sum takes
_PATIENCE_S = 300.0
_DEADLINE_S = 120.0  # for the living; nobody waits so long for the killed
_LINGER_S = 0.5  # what a device sent before it was killed is on its way for no longer


def wishes(devices: int, minimum_reports: int = 3) -> Wishes:
    """Return the requirements of a run in which every device may answer each round."""
    return Wishes(
        epsilon=8.0,
        delta=1e-3,
        population=devices,
        rounds=100,
        report_goal=devices,
        over_selection=1.0,
        minimum_reports=minimum_reports,
        availability=1.0,
        most_bands=1,
    )


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
    """Three of ten processes are killed at random moments of each round of secret sums."""
    logging.getLogger("tactful_federated").setLevel(logging.ERROR)
    rounds = rounds or (10 if quick else 50)
    draw, wrong, void, lost, duration = np.random.default_rng(3), 0, 0, 0, 2.0
    begun = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        _fleet(Path(folder), "secret", ["a", "b"], _MANY) as it,
    ):
        plan, weights = it.invitation.plan, np.zeros(it.invitation.plan.parameters, np.float32)
        grid = cast(Grid, _Impatient(it.grid, it.is_gone))
        for number in range(1, rounds + 1):
            struck = draw.choice(_MANY, _KILLED, replace=False).tolist()
            killers = [
                threading.Timer(float(draw.uniform(0, duration)), it.processes[who].kill)
                for who in struck
            ]
            for killer in killers:
                killer.start()
            started = time.perf_counter()
            found = collector_for(it.invitation, grid, deadline=_DEADLINE_S).collect(
                it.nodes, weights, plan, number
            )
            if found.reports:
                duration = time.perf_counter() - started
                lost += _MANY - found.reports
                wrong += not _is_sum(found.total, number, found.reports, it.invitation)
            else:
                void += 1
            for killer in killers:
                killer.join()
            it.revive(struck)
    if void == rounds:
        raise RuntimeError(f"all of {rounds} sums were given up: nothing was measured")
    note = (
        f"{rounds} secret sums of {_MANY} processes over TLS, {_KILLED} killed with SIGKILL at"
        f" random moments of each and started again; {lost} updates were lost, {void} sums were"
        f" given up; {time.perf_counter() - begun:.0f} s"
    )
    return [Figure("kill_wrong_sums_processes", wrong, "sums", runs=rounds, note=note)]


class _Impatient:
    """A grid that does not wait until the deadline for the answer of a process that is gone."""

    def __init__(self, grid: SuperLinkGrid, gone: Callable[[int], bool]) -> None:
        self._grid, self._gone = grid, gone
        self.get_node_ids = grid.get_node_ids

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float) -> Iterator[Message]:
        asked = list(messages)
        nodes = [message.metadata.dst_node_id for message in asked]
        waiting = dict(zip(self._grid.push_messages(asked), nodes, strict=True))
        end = time.monotonic() + timeout
        while waiting and time.monotonic() < end:
            gone = [number for number, node in waiting.items() if self._gone(node)]
            for message in self._grid.pull_messages(list(waiting)):
                waiting.pop(message.metadata.reply_to_message_id, None)
                yield message
            for number in gone:  # looked at before what they left was read
                waiting.pop(number, None)
            time.sleep(0.05)


def _is_sum(total: IntegerVector, number: int, reports: int, invitation: Invitation) -> bool:
    """Whether a total is exactly that of some devices, and of so many."""
    encoded = [invitation.plan.grid.encode(_fixed(who, number, total.size)) for who in range(_MANY)]
    return any(
        np.array_equal(np.sum(kept, axis=0), total)
        for kept in itertools.combinations(encoded, reports)
    )


def _fixed(who: int, round_number: int, size: int) -> Vector:
    return np.random.default_rng((who, round_number)).normal(0, 0.001, size).astype(np.float32)


class _Fleet:
    """Devices in processes, enrolled and online."""

    def __init__(
        self,
        folder: Path,
        link: SuperLink,
        tls: Tls,
        grid: SuperLinkGrid,
        invitation: Invitation,
        devices: int,
    ) -> None:
        self.grid, self.invitation = grid, invitation
        self._folder, self._link, self._tls = folder, link, tls
        # Processes are forked off one that has loaded what a device is, which takes seconds.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["benchmarks.federated.fleet"])
        self._seen_dead: dict[int, float] = {}
        self.homes = [folder / f"device-{who}" for who in range(devices)]
        self.nodes = [self._let_in(who) for who in range(devices)]
        self.processes = [self._start(who) for who in range(devices)]
        self._wait(range(devices))

    def is_gone(self, node: int) -> bool:
        """Whether a device was killed, and what it sent before has had time to arrive."""
        process = self.processes[self.nodes.index(node)]
        if process.is_alive():
            return False
        since = self._seen_dead.setdefault(process.pid or 0, time.monotonic())
        return time.monotonic() - since > _LINGER_S

    def revive(self, struck: Sequence[int]) -> None:
        """Start devices again that were killed, and wait until they are online."""
        for who in struck:
            self.processes[who].join()
            (self.homes[who] / "online").unlink(missing_ok=True)
            self.processes[who] = self._start(who)
        self._wait(struck)

    def server_cpu(self) -> float:
        """Seconds of CPU that the SuperLink has taken so far."""
        fields = Path(f"/proc/{self._link.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End all."""
        for process in self.processes:
            process.kill()
            process.join()

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

    def _start(self, who: int) -> ForkServerProcess:
        arguments = (self.homes[who], self._folder, self._link.address, self._tls.authority, who)
        process = self._context.Process(target=_device, args=arguments, daemon=True)
        process.start()
        return process

    def _wait(self, devices: Sequence[int]) -> None:
        end = time.monotonic() + _PATIENCE_S
        for who in devices:
            while not (self.homes[who] / "online").exists():
                if not self.processes[who].is_alive() or time.monotonic() > end:
                    raise RuntimeError(f"device {who} did not come online")
                time.sleep(0.02)


@contextlib.contextmanager
def _fleet(
    folder: Path, tier: Tier, categories: list[str], devices: int = _DEVICES
) -> Iterator[_Fleet]:
    now = datetime.datetime.now(datetime.UTC)
    tls = make_tls(folder / "tls", ["localhost", "127.0.0.1"], now=now)
    invitation = invite(folder, wishes(devices), categories, run="bench", tier=tier)
    with SuperLink(folder, tls) as link, link.run() as grid:
        fleet = _Fleet(folder, link, tls, grid, invitation, devices)
        try:
            yield fleet
        finally:
            fleet.close()


def _device(place: Path, server: Path, address: str, authority: Path, who: int) -> None:
    """A process: trains on what it kept, or in secret sums says what only its number tells."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    torch.set_num_threads(1)
    home = DeviceHome(place, read_invitation(server / "invitation.json"))
    secret = read_invitation(server / "invitation.json").tier != "clear"

    def fixed(weights: Vector, round_number: int) -> Vector:
        return _fixed(who, round_number, weights.size)

    def greeted(number: int) -> None:
        home.greeted(number)
        (place / "online").write_text("")

    client = FleetClient(
        address,
        authority.read_bytes(),
        home.key,
        home.app(fixed if secret else None),
        node=home.node,
        greeted=greeted,
        polling=Polling(0.5 if secret else 0.25),  # in sums it would take more CPU than they do
    )
    client.step = _timed(client.step, place / "cpu")  # type: ignore[method-assign]
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
