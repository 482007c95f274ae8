"""Secure sums of large cohorts: bytes and CPU over complete and sparse graphs, and exactness.

All members run in this process. A sample of them does all of its own work, and its CPU counts; the
others share the results of checks that all members make alike (signatures of the roster, and its
ring), which would take hours. A tenth of the members falls silent after it dealt shares.

Usage: python -m benchmarks.federated.sums [--members N ...] [--sparse] [--json]
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.core.graph import Graph, sparse_graph
from tactful_federated.model.vectors import IntegerVector
from tactful_federated.secagg import client, messages, ring
from tactful_federated.secagg.client import SecureSumDevice
from tactful_federated.secagg.costs import costs_of_sum
from tactful_federated.secagg.server import SecureSumServer, sum_in_secret
from tactful_federated.secagg.sparse import SparseSumDevice
from tactful_federated.secagg.sparse_server import SparseSumServer

_SAMPLE = 5
_PARAMETERS = 17_953  # 97 categories, widths 32 and 32


@dataclass(frozen=True)
class SumFigures:
    """Measured costs of one sum, and those that a plan names for it."""

    members: int
    neighbours: int
    threshold: int
    exact: bool
    device_sends: int
    device_receives: int
    device_cpu_s: float
    server_cpu_s: float
    planned_device_cpu_s: float
    planned_server_cpu_s: float


def measure(members: int, graph: Graph | None, parameters: int = _PARAMETERS) -> SumFigures:
    """Run one sum and return its figures."""
    authority = Ed25519PrivateKey.generate()
    of = messages.Session("bench", 1, b"n" * 32, parameters, b"w" * 32, b"t" * 32)
    kind = SparseSumDevice if graph else SecureSumDevice

    def device(number: int) -> SecureSumDevice:
        identity = Ed25519PrivateKey.generate()
        enrolled = messages.enrol(authority, number, identity.public_key())
        key = authority.public_key()
        return kind(of, enrolled, identity, key, claim=lambda _: None, graph=graph)

    # Numbers of 64 bits, as those of nodes and pages.
    devices = {(1 << 63) + number: device((1 << 63) + number) for number in range(members)}
    sample = set(list(devices)[-_SAMPLE:])
    silent = set(list(devices)[: members // 10])
    mask_stage = 1 + kind.STEPS.index("mask")
    sent, received, spent, server_pause = Counter[int](), Counter[int](), 0.0, 0.0
    own = {"is_signed": messages.is_signed, "ring_of": ring.ring_of}
    signed, found_ring = cache(messages.is_signed), cache(ring.ring_of)
    shared = {
        "is_signed": signed,
        "ring_of": lambda context, listed, of_graph: found_ring(context, tuple(listed), of_graph),
    }

    def use(functions: Mapping[str, object]) -> None:
        vars(messages)["is_signed"], vars(client)["ring_of"] = functions.values()

    def ask(stage: int, questions: Mapping[int, bytes]) -> dict[int, bytes]:
        nonlocal spent, server_pause
        begun, answers = time.process_time(), dict[int, bytes]()
        for number, question in questions.items():
            received[number] += len(question) + (4 * parameters if stage == 1 else 0)
            if stage >= mask_stage and number in silent:
                continue
            whole = number in sample
            use(own if whole else shared)
            started = time.process_time()
            answers[number] = _answer(devices[number], stage, question, parameters, number)
            spent += (time.process_time() - started) * whole
            sent[number] += len(answers[number])
        use(own)
        server_pause += time.process_time() - begun
        return answers

    server_kind = SparseSumServer if graph else SecureSumServer
    server = server_kind(of, authority.public_key(), graph=graph)
    begun = time.process_time()
    total = sum_in_secret(server, dict.fromkeys(devices, messages.encode(of)), ask)
    server_cpu = time.process_time() - begun - server_pause
    expected = np.zeros(parameters, dtype=np.int64)
    for number in devices.keys() - silent:
        expected += _vector(number, parameters)
    planned = costs_of_sum(members, parameters, dropped=len(silent), graph=graph)
    return SumFigures(
        members=members,
        neighbours=graph.neighbours if graph else members - 1,
        threshold=graph.threshold if graph else messages.threshold_of(members),
        exact=bool(np.array_equal(total.values, expected)),
        device_sends=max(sent[number] for number in sample),
        device_receives=max(received[number] for number in sample),
        device_cpu_s=round(spent / _SAMPLE, 4),
        server_cpu_s=round(server_cpu, 3),
        planned_device_cpu_s=round(planned.device_seconds, 4),
        planned_server_cpu_s=round(planned.server_seconds, 3),
    )


def _vector(number: int, parameters: int) -> IntegerVector:
    return np.random.default_rng(number).integers(-1000, 1000, parameters)


def _answer(
    device: SecureSumDevice, stage: int, question: bytes, parameters: int, number: int
) -> bytes:
    step = device.STEPS[stage - 1]
    if step == "advertise":
        return device.advertise()
    if step == "mask":
        return device.mask(question, _vector(number, parameters))
    return bytes(getattr(device, step)(question))


def main() -> None:
    """Print the figures of each sum."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[200])
    parser.add_argument("--sparse", action="store_true", help="sparse graphs, else complete ones")
    parser.add_argument("--corrupt", type=float, default=0.05)
    parser.add_argument("--dropped", type=float, default=0.1)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    for members in asked.members:
        graph = sparse_graph(members, asked.corrupt, asked.dropped) if asked.sparse else None
        figures = asdict(measure(members, graph))
        if asked.json:
            print(json.dumps(figures), flush=True)
        else:
            print(*(f"{name} {value}" for name, value in figures.items()), sep="\n", flush=True)


if __name__ == "__main__":
    main()
