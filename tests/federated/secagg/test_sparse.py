"""Sums over a sparse graph: exact as over a complete one, and a lying server opens nothing."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.federated.secure_population import AUTHORITY, Wire, lead, wire

from tactful_federated.core.graph import Graph
from tactful_federated.errors import SecureSumError
from tactful_federated.secagg import messages
from tactful_federated.secagg.messages import (
    Dealt,
    Masked,
    Opened,
    Survivors,
    decode,
    encode,
    threshold_of,
)
from tactful_federated.secagg.ring import ring_of
from tactful_federated.secagg.secret_sharing import Opening
from tactful_federated.secagg.server import SecureTotal, sum_in_secret
from tactful_federated.secagg.sparse_server import SparseSumServer

GRAPH = Graph(neighbours=6, threshold=4)


def lead_sparse(
    carried: Wire, of: messages.Session, graph: Graph = GRAPH
) -> tuple[SparseSumServer, SecureTotal]:
    server = SparseSumServer(of, AUTHORITY.public_key(), graph=graph)
    invited = dict.fromkeys(carried.devices, encode(of))
    return server, sum_in_secret(server, invited, carried.ask)


def opened(carried: Wire) -> dict[int, Opened]:
    return {device: decode(data, Opened) for stage, device, data in carried.received if stage == 6}


def plain(carried: Wire, devices: set[int] | frozenset[int]) -> list[int]:
    return [int(v) for v in np.sum([carried.vectors[i] for i in devices], axis=0)]


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.integers(1, 14), st.integers(1, 6), max_size=7))
@example({})
@example({2: 1, 7: 2, 9: 3, 11: 4})
@example({2: 4, 7: 4, 9: 4, 11: 4})
@example({2: 6, 7: 6, 9: 5, 11: 5})
@example(dict.fromkeys(range(1, 6), 4))
def test_a_sparse_sum_is_the_plain_sum_or_nothing(silent_from: dict[int, int]) -> None:
    stages = {s: {d for d, at in silent_from.items() if at == s} for s in range(1, 7)}
    carried, of = wire(14, silent=stages, graph=GRAPH)
    server = SparseSumServer(of, AUTHORITY.public_key(), graph=GRAPH)
    invited = dict.fromkeys(carried.devices, encode(of))

    def still(stage: int) -> set[int]:
        return {d for d in range(1, 15) if silent_from.get(d, 9) > stage}

    members, survivors, last = still(1), still(4), still(6)
    quorum = len(last) >= threshold_of(len(members))
    ring = ring_of(b"", members, None)
    try:
        total = sum_in_secret(server, invited, carried.ask)
    except SecureSumError:
        ring = server._ring
        near = all(len(survivors & {*ring.others(d)}) >= ring.least for d in survivors)
        # The silent dealers and survivors need their shares from whoever opened them.
        held = all(len(last & {*ring.circles[d]}) >= ring.shares for d in still(2))
        assert not (quorum and near and held)
        assert not opened(carried) or not held or len(last) < threshold_of(len(members))
    else:
        assert quorum and total.devices == survivors
        assert total.values.tolist() == plain(carried, survivors)


@pytest.mark.slow
def test_sparse_and_complete_graphs_have_the_same_sum() -> None:
    sums = []
    for graph in (GRAPH, None):
        carried, of = wire(20, size=50, graph=graph)
        total = lead_sparse(carried, of)[1] if graph else lead(carried, of)
        sums.append(total.values.tolist())
    assert sums[0] == sums[1] == plain(carried, set(range(1, 21)))


@pytest.mark.slow
def test_members_mask_and_share_with_neighbours_only() -> None:
    carried, of = wire(20, graph=GRAPH)
    server, _ = lead_sparse(carried, of)
    circles = server._ring.circles
    for stage, device, data in carried.received:
        if stage == 2:
            sealed = decode(data, messages.Boxes).sealed
            assert set(sealed) == set(circles[device]) - {device} and len(sealed) == 6
        if stage == 6:
            assert set(decode(data, Opened).seeds) == set(circles[device])
    edges = {(a, b) for a, circle in circles.items() for b in circle}
    assert edges == {(b, a) for a, b in edges}
    other = ring_of(b"another context", circles, GRAPH)
    assert other.circles != circles and ring_of(server._context, circles, GRAPH).circles == circles


def test_a_small_roster_is_complete() -> None:
    carried, of = wire(7, graph=GRAPH)
    server, total = lead_sparse(carried, of)
    assert server._ring.least == 0 and server._ring.shares == threshold_of(7)
    assert total.values.tolist() == plain(carried, set(range(1, 8)))


def test_liars_about_shares_are_corrected() -> None:
    def lie(stage: int, device: int, data: bytes) -> bytes:
        if (stage, device) != (6, 3):
            return data
        return encode(Opened(dict.fromkeys(decode(data, Opened).seeds, b"\0" * 33), {}))

    carried, of = wire(14, graph=GRAPH)
    carried.answered = lie
    _, total = lead_sparse(carried, of)
    assert total.values.tolist() == plain(carried, set(range(1, 15)))


# A server that lies.


class Cutter(SparseSumServer):
    """It says that most neighbours of one member dropped out, after they sent their vectors.

    Two other neighbours collude with it.
    """

    victim = 1

    def collect(self, answers: Mapping[int, bytes]) -> dict[int, bytes]:
        super().collect(answers)
        self.masked = {
            d: np.frombuffer(decode(v, Masked).values, "<u4") for d, v in answers.items()
        }
        self.colluding = self._ring.others(self.victim)[:2]
        gone = self._ring.others(self.victim)[2:]
        self._survivors = [d for d in self._survivors if d not in gone]
        return dict.fromkeys(self._survivors, encode(Survivors(self._survivors)))

    def _open(self, opened: Mapping[int, Opened], dropped: set[int]) -> Opening:
        opening = super()._open(opened, dropped)
        self.secrets = opening.secrets
        return opening

    def read_victim(self, keys: Mapping[int, X25519PrivateKey]) -> list[int]:
        """Return the vector of the victim alone; `keys` are those of the colluding members."""
        size, me = self._session.size, self.victim
        value = self.masked[me] - messages.own_mask(self.secrets[me], self._context, size)
        for other in self._ring.others(me):
            if other in self.colluding:
                key = keys[other]
            else:
                key = X25519PrivateKey.from_private_bytes(self.secrets[other])
            mask = messages.pair_mask(key, self._members[me].mask_key, self._context, size)
            value = value - mask if me < other else value + mask
        return [int(v) for v in value.view(np.int32)]


@pytest.mark.slow
@pytest.mark.parametrize(("threshold", "safe"), [(6, True), (2, False)])
def test_a_server_that_cuts_off_a_member_opens_nothing(threshold: int, safe: bool) -> None:
    """With k = 6 and c = 2 colluding members in a window, t = 6 is the least that is safe."""
    graph = Graph(neighbours=6, threshold=threshold)
    carried, of = wire(24, graph=graph)
    keys = {number: device._mask_key for number, device in carried.devices.items()}
    server = Cutter(of, AUTHORITY.public_key(), graph=graph)
    invited = dict.fromkeys(carried.devices, encode(of))
    if safe:
        with pytest.raises(SecureSumError, match="0 devices agreed on the survivors"):
            sum_in_secret(server, invited, carried.ask)
        assert not opened(carried) and len(carried.refusals) == 20
        assert all("surviving neighbours, and 6" in text for _, _, text in carried.refusals)
    else:  # the planted mistake: 20 of 24 are a quorum, and the vector of one member is read
        sum_in_secret(server, invited, carried.ask)
        assert server.read_victim(keys) == carried.vectors[1].tolist()


def test_a_server_that_asks_for_both_kinds_of_shares_is_refused() -> None:
    """The seed and the mask key of one member, together, would open its vector."""
    carried, of = wire(14, graph=GRAPH)
    both = list[str]()

    def lie(stage: int, number: int, data: bytes) -> bytes:
        device = carried.devices[number]
        if (stage, number) == (6, 2):  # first as a survivor, then as dropped
            others = encode(Survivors([d for d in range(1, 15) if d != 1]))
            for step, question in ((device.confirm, others), (device.open, data)):
                with pytest.raises(SecureSumError, match="six questions in order") as refused:
                    step(question)
                both.append(str(refused.value))
        return data

    carried.asked = lie
    lead_sparse(carried, of)
    assert len(both) == 2 and len(opened(carried)) == 13
    for message in opened(carried).values():
        assert not set(message.seeds) & set(message.mask_keys)


def test_contradictory_survivors_open_nothing() -> None:
    carried, of = wire(14, graph=GRAPH)
    most = list(range(1, 14))
    carried.asked = lambda stage, device, data: (
        encode(Survivors(most)) if stage == 5 and device <= 7 else data
    )
    with pytest.raises(SecureSumError, match="agreed on the survivors"):
        lead_sparse(carried, of)
    assert not opened(carried)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (list(range(1, 14)), "0 dealers who signed the same list"),
        (list(range(1, 9)), "there are 8 dealers of shares"),
        ([*range(1, 14), 99], "not distinct members"),
        ([*range(1, 15), 1], "not distinct members"),
        (list(range(2, 15)), "not among the dealers"),
    ],
    ids=["hidden", "few", "stranger", "repeated", "itself"],
)
def test_no_vector_is_sent_for_other_dealers(listed: list[int], message: str) -> None:
    """Hidden dealers would leave a member with few masks."""
    carried, of = wire(14, graph=GRAPH)
    carried.asked = lambda stage, device, data: (
        encode(Survivors(listed)) if (stage, device) == (3, 1) else data
    )
    _, total = lead_sparse(carried, of)
    assert 1 not in total.devices and total.values.tolist() == plain(carried, total.devices)
    assert not [d for stage, d, _ in carried.received if stage == 4 and d == 1]
    assert len(carried.refusals) == (message[0] != "0")
    assert message in carried.refusals[0][2] if carried.refusals else message[0] == "0"


def test_no_vector_is_sent_without_a_quorum_for_the_dealers() -> None:
    carried, of = wire(14, graph=GRAPH)

    def lie(stage: int, device: int, data: bytes) -> bytes:
        if (stage, device) != (4, 1):
            return data
        dealt = decode(data, Dealt)
        few = dict(list(dealt.signatures.items())[: threshold_of(14) - 1])
        return encode(Dealt(few, dealt.sealed))

    carried.asked = lie
    _, total = lead_sparse(carried, of)
    assert 1 not in total.devices
    assert "9 dealers who signed the same list" in carried.refusals[0][2]


def test_boxes_of_others_than_neighbours_are_refused() -> None:
    carried, of = wire(14, graph=GRAPH)

    def lie(stage: int, device: int, data: bytes) -> bytes:
        if (stage, device) != (4, 1):
            return data
        dealt = decode(data, Dealt)
        stranger = next(d for d in range(2, 15) if d not in dealt.sealed)
        return encode(Dealt(dealt.signatures, {**dealt.sealed, stranger: b"box"}))

    carried.asked = lie
    lead_sparse(carried, of)
    assert "no neighbour" in carried.refusals[0][2]


def test_places_on_the_ring_follow_from_the_keys_of_all() -> None:
    contexts = [bytes([i]) * 32 for i in range(200)]
    places = [ring_of(c, range(1, 31), GRAPH).circles[1] for c in contexts]
    met = np.bincount(np.concatenate(places), minlength=31)[2:]
    expected = 200 * 6 / 29
    chi_squared = float(((met - expected) ** 2 / expected).sum())
    assert chi_squared < 28 + 6 * 7.5
    assert all(a != b for a, b in pairwise(places[:50]))
