"""Bytes that a plan names are those on the wire; its CPU grows as the work of a sum does."""

from collections import Counter
from collections.abc import Mapping

import pytest
from tests.federated.secure_population import AUTHORITY, wire

from tactful_federated.core.graph import Graph
from tactful_federated.secagg.costs import costs_of_sum
from tactful_federated.secagg.messages import encode
from tactful_federated.secagg.server import SecureSumServer, sum_in_secret
from tactful_federated.secagg.sparse_server import SparseSumServer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "size", "graph"), [(9, 500, None), (24, 2_000, None), (24, 2_000, Graph(6, 4))]
)
def test_bytes_of_a_sum_are_those_that_pass(count: int, size: int, graph: Graph | None) -> None:
    carried, of = wire(count, size=size, graph=graph)
    received = Counter[int]()

    def ask(stage: int, questions: Mapping[int, bytes]) -> dict[int, bytes]:
        for device, question in questions.items():
            received[device] += len(question) + (4 * size if stage == 1 else 0)
        return carried.ask(stage, questions)

    kind = SparseSumServer if graph else SecureSumServer
    server = kind(of, AUTHORITY.public_key(), graph=graph)
    sum_in_secret(server, dict.fromkeys(carried.devices, encode(of)), ask)
    sent = Counter[int]()
    for _, device, data in carried.received:
        sent[device] += len(data)
    costs = costs_of_sum(count, size, graph=graph)
    # Device numbers take 9 bytes in the plan and 1 here.
    assert max(sent.values()) <= costs.device_sends <= max(sent.values()) * 1.2
    assert max(received.values()) <= costs.device_receives <= max(received.values()) * 1.2


def test_drop_outs_cost_the_server_and_groups_save_both() -> None:
    whole, silent = costs_of_sum(1_000, 20_000), costs_of_sum(1_000, 20_000, dropped=100)
    assert silent.server_seconds > 2 * whole.server_seconds
    sparse = costs_of_sum(1_000, 20_000, dropped=100, graph=Graph(96, 76))
    assert 2 * sparse.device_sends < silent.device_sends
    assert 2 * sparse.server_seconds < silent.server_seconds
    part = costs_of_sum(200, 20_000)
    assert 4 * part.device_seconds < whole.device_seconds
    assert 5 * part.server_seconds < whole.server_seconds
