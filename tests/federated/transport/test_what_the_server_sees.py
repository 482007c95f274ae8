"""Every byte that devices send in each tier, recorded as it leaves them, and what it tells."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from tests.federated.private_run import WISHES

from tactful_federated.core.invitation import Invitation, Tier
from tactful_federated.device.home import DeviceHome
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.messages import Advert, Agreement, Boxes, Masked, Opened, enrol
from tactful_federated.serving.rounds import authority_key, collector_for, initial_weights, invite
from tactful_federated.transport.certificates import make_tls
from tactful_federated.transport.fleet_client import FleetClient
from tactful_federated.transport.flower_clear import LocalGrid

CATEGORIES = ["confectionery", "pharmaceuticals", "winter-clothing"]
NODES = range(1, 6)
STAGES = {1: Advert, 2: Boxes, 3: Masked, 4: Agreement, 5: Opened}


class Link:
    """A server at the other end of one device's line; it keeps every byte that it is sent."""

    def __init__(self, node: int) -> None:
        self.node, self.sent = node, list[bytes]()
        self.question: Message | None = None
        self._head: Any = None
        self._tree: Any = None
        self._parts: dict[str, bytes] = {}

    def __getattr__(self, route: str) -> Any:
        answer = getattr(type(self), f"_{route}", None)

        def asked(request: Any) -> Any:
            self.sent.append(request.SerializeToString())
            return answer(self, request) if answer else None

        return asked

    def reply(self) -> Message:
        """What the device answered, put together from the parts that it sent."""
        assert {part.object_id for part in iterate_object_tree(self._tree)} == set(self._parts)
        found = inflate_object_from_contents(self._tree.object_id, self._parts)
        assert isinstance(found, Message)
        self._parts = {}
        return found

    def _ActivateNode(self, _: Any) -> Any:
        return SimpleNamespace(node_id=self.node)

    def _PullMessages(self, _: Any) -> Any:
        message = self.question
        assert message is not None
        message.metadata.__dict__["_message_id"] = message.object_id
        return SimpleNamespace(
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
        )

    def _PullObject(self, request: Any) -> Any:
        assert self.question is not None
        content = get_all_nested_objects(self.question)[request.object_id].deflate()
        return SimpleNamespace(object_found=True, object_available=True, object_content=content)

    def _PushMessages(self, request: Any) -> Any:
        (self._head,), (self._tree,) = request.messages_list, request.message_object_trees
        parts = [part.object_id for part in iterate_object_tree(self._tree)]
        return SimpleNamespace(objects_to_push=parts, session_id="s")

    def _PushObject(self, request: Any) -> Any:
        self._parts[request.object_id] = request.object_content


class Fleet(LocalGrid):
    """Devices with a directory each, behind the client that they have in the field."""

    def __init__(self, directory: Path, invitation: Invitation) -> None:
        super().__init__(lambda message, context: message, 0)  # type: ignore[arg-type]
        self.homes: dict[int, DeviceHome] = {}
        self.lines: dict[int, tuple[FleetClient, Link]] = {}
        self.updates: dict[int, Vector] = {}
        self.answers: list[Message] = []
        now = datetime.datetime.now(datetime.UTC)
        authority = make_tls(directory / "tls", ["localhost"], now=now).authority.read_bytes()
        for node in NODES:
            home = self.homes[node] = DeviceHome(directory / f"device-{node}", invitation)
            home.events.give_consent()
            home.remember([[CATEGORIES[(node + visit) % 3]] * 2 for visit in range(node + 4)])
            identity = Ed25519PublicKey.from_public_bytes(home.request.identity)
            let_in = enrol(authority_key(directory), node, identity)
            (directory / f"device-{node}" / "enrolment").write_bytes(msgspec.msgpack.encode(let_in))
            client = FleetClient(
                "localhost:1", authority, home.key, home.app(self._remembering(node, home))
            )
            link = Link(node)
            client._client = link  # type: ignore[assignment]
            self.lines[node] = client, link

    def get_node_ids(self) -> list[int]:
        return list(NODES)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            client, link = self.lines[message.metadata.dst_node_id]
            link.question = message
            assert client.step()
            reply = link.reply()
            self.answers.append(reply)
            numbers.append(message.object_id)
            self._replies[numbers[-1]] = reply
        return numbers

    @property
    def sent(self) -> bytes:
        return b"".join(part for _, link in self.lines.values() for part in link.sent)

    def _remembering(self, node: int, home: DeviceHome) -> Any:
        train = home._trainer()

        def remembering(weights: Vector, round_number: int) -> Vector:
            self.updates[node] = train(weights, round_number)
            return self.updates[node]

        return remembering


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["clear", "secret", "noise-in-sum"])
def test_a_device_shows_what_its_tier_says(tmp_path: Path, tier: Tier) -> None:
    wishes = replace(WISHES, delta=1e-3, population=40, rounds=6, report_goal=5)
    wishes = replace(wishes, over_selection=1.0, minimum_reports=3)
    invitation = invite(tmp_path, wishes, CATEGORIES, run="test", tier=tier)
    fleet, plan = Fleet(tmp_path, invitation), invitation.plan
    weights = initial_weights(invitation.vocabulary)
    collected = collector_for(invitation, fleet, deadline=60.0).collect(
        list(NODES), weights, plan, 1
    )
    for home in fleet.homes.values():
        home.close()
    assert collected.reports == len(NODES) and len(fleet.updates) == len(NODES)
    check_readable(tmp_path, fleet, plan, collected.total, tier)
    check_room(fleet, plan.parameters, tier)


def fields(answer: Message) -> Mapping[str, Any]:
    return {
        name: {key: type(value).__name__ for key, value in record.items()}
        for name, record in answer.content.items()
    }


def readings(update: Vector, plan: Any) -> list[bytes]:
    """Ways in which the start of an update may lie in what is sent."""
    on_grid = plan.grid.encode(update)
    place = int(np.flatnonzero(on_grid)[0])
    return [
        values[place : place + 4].astype(order + width).tobytes()
        for values, widths in ((update, ("f4", "f8")), (on_grid, ("i4", "i8")))
        for width in widths
        for order in "<>"
    ]


def check_readable(directory: Path, fleet: Fleet, plan: Any, total: Any, tier: Tier) -> None:
    sent = fleet.sent
    exact = sum(plan.grid.encode(update) for update in fleet.updates.values())
    # No tier: what a person did, or a key that opens what the device keeps.
    for text in [*CATEGORIES, "visits", str(directory)]:
        assert text.encode() not in sent
    for node in NODES:
        for name in ("store.key", "identity.key"):
            assert (directory / f"device-{node}" / name).read_bytes() not in sent
    # An update: in the clear alone.
    found = [any(r in sent for r in readings(update, plan)) for update in fleet.updates.values()]
    assert found == [tier == "clear"] * len(NODES)
    # The exact sum: not where devices add the noise, which is as wide as planned.
    away = (total - exact).astype(float)
    assert (not away.any()) == (tier != "noise-in-sum")
    planned = len(NODES) * plan.device_sigma_squared
    assert float(away.var()) == pytest.approx(planned, rel=0.1)


def check_room(fleet: Fleet, size: int, tier: Tier) -> None:
    """Each answer has the fields that are declared, and they are all that is sent."""
    stages = dict.fromkeys(NODES, 0)
    for answer in fleet.answers:
        assert not answer.has_error()
        record: Any
        if tier == "clear":
            said = {"values": "bytes", "encoding": "str", "scale": "float"}
            assert fields(answer) == {"update": said}
            record = answer.content["update"]
            assert len(record["values"]) == 4 * size
            assert (record["encoding"], record["scale"]) == ("float32", 1.0)
            continue
        assert fields(answer) == {"secure-sum": {"data": "bytes"}}
        record = answer.content["secure-sum"]
        data, node = record["data"], answer.metadata.src_node_id
        stages[node] += 1
        said = msgspec.msgpack.decode(data, type=STAGES[stages[node]])
        assert msgspec.msgpack.encode(said) == data
        if isinstance(said, Masked):
            assert len(said.values) == 4 * size
    assert set(stages.values()) == ({0} if tier == "clear" else {5})
    # Of what is sent, all but 3 KB for each question is in those fields.
    told = sum(
        len(part.deflate()) for a in fleet.answers for part in get_all_nested_objects(a).values()
    )
    assert told < len(fleet.sent) < told + 3_000 * len(fleet.answers)
