"""A device's line to a SuperLink: Flower's Fleet API over TLS, and one app that was installed.

Flower's SuperNode starts a process for each message and runs code that the server sends. This
client does neither. It asks for messages, hands them to the app it was given, and sends back what
the app says; the routes by which code travels (`get-fab`, `get-run`) are not in this file.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tactful_federated.certificates import public_pem
from tactful_federated.errors import FederatedError, missing_extra

try:
    import httpx
    from flwr.app import Context, Error, Message, RecordDict
    from flwr.app.message import remove_content_from_message
    from flwr.clientapp import ClientApp
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto.fleet_pb2 import (
        ActivateNodeRequest,
        DeactivateNodeRequest,
        PullMessagesRequest,
        PushMessagesRequest,
    )
    from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
    from flwr.proto.message_pb2 import (
        ConfirmMessageReceivedRequest,
        ObjectTree,
        PullObjectRequest,
        PushObjectRequest,
    )
    from flwr.proto.node_pb2 import Node
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        iterate_object_tree,
    )
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)

_HEARTBEAT_S, _LONGEST_WAIT_S = 30.0, 30.0
_FINAL, _OUTAGE, _RUN_OVER = (401, 404), (408, 429), 403
_UPLOAD_S, _PART_S = 30.0, 0.05
_MOST_PARTS, _LARGEST = 64, 64 * 2**20
_DEVICE_FAILED = 2


class FleetError(FederatedError, ConnectionError):
    """The server does not know this device, or sent what no server of ours sends."""


class FleetClient:
    """One device on a SuperLink.

    It can be killed at any point and started again: a message it did not answer is a report that is
    missing. What a device must not forget (its ledger, its history) is the app's to keep.

    Args:
        address: `host:port` of the proxy in front of the SuperLink.
        authority: PEM of the only certificate authority that is trusted.
        key: The device's node key.
        app: Answers messages.
        ready: Whether the device may work now; while not, it asks for nothing.
        node: Number of this device's node, if it was there before. A device that was killed is
            taken to be online for a minute more; who knows its number can come back before.
        greeted: Called with the node's number when the server lets the device in, to be kept.
        poll: Seconds between two looks for work, above 0.
        patience: Seconds to go on being refused at the door: the server does not tell one who is
            not enrolled from one who is taken to be there already.
        clock: Seconds that never go back.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        address: str,
        authority: bytes,
        key: ec.EllipticCurvePrivateKey,
        app: ClientApp,
        *,
        ready: Callable[[], bool] = lambda: True,
        node: int | None = None,
        greeted: Callable[[int], None] = lambda node: None,
        poll: float = 1.0,
        patience: float = 120.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare; nothing is sent yet."""
        self._app, self._ready, self._poll = app, ready, poll
        self._clock, self._sleep = clock, sleep
        self._node, self._greeted, self._patience = node, greeted, patience
        self._key = public_pem(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            address,
            False,
            authority,
            [
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self._context: Context | None = None
        self._beaten = 0.0

    def work(self, stop: Callable[[], bool]) -> None:
        """Answer messages until `stop` says so; outages of server and network are sat out.

        Raises:
            FleetError: The server refuses this device's key.
        """
        wait, refused_since = self._poll, None
        while not stop():
            try:
                busy = self._ready() and self.step()
                wait, refused_since = self._poll, None
            except httpx.HTTPStatusError as error:
                status, busy = error.response.status_code, False
                if status in _OUTAGE or status >= 500:
                    refused_since = None  # a proxy speaks for a server that is away, or too busy
                else:
                    refused_since = refused_since or self._clock()
                    if status in _FINAL or self._clock() - refused_since > self._patience:
                        raise FleetError(_refusal(status)) from error
                _log.info("the server answered %d; asking again", status)
                if status != _RUN_OVER:
                    self._context = None  # said hello to another start of the server: do it again
                    wait = min(2 * wait, _LONGEST_WAIT_S)
            except httpx.TransportError as error:
                _log.warning("the server cannot be reached: %s", type(error).__name__)
                wait, busy = min(2 * wait, _LONGEST_WAIT_S), False
            if not busy:
                self._sleep(wait)

    def step(self) -> bool:
        """Answer one message if there is one; returns whether there was."""
        context = self._hello()
        node = Node(node_id=context.node_id)
        if self._clock() - self._beaten > _HEARTBEAT_S / 2:
            self._client.SendNodeHeartbeat(
                SendNodeHeartbeatRequest(node=node, heartbeat_interval=_HEARTBEAT_S)
            )
            self._beaten = self._clock()
        response = self._client.PullMessages(PullMessagesRequest(node=node))
        if not response.messages_list:
            return False
        head = message_from_proto(response.messages_list[0])
        message = self._pull(node, head, response.message_object_trees[0])
        if message is not None:
            self._push(node, self._answer(message, context))
        return True

    def close(self) -> None:
        """Tell the server that this device leaves."""
        if self._context is not None:
            with contextlib.suppress(httpx.HTTPError):
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._context.node_id))
        self._client.close()

    def _hello(self) -> Context:
        if self._context is None:
            if self._node is not None:
                with contextlib.suppress(httpx.HTTPStatusError):  # it was offline
                    self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node))
            known = self._client.ActivateNode(
                ActivateNodeRequest(public_key=self._key, heartbeat_interval=_HEARTBEAT_S)
            )
            self._node = known.node_id
            self._greeted(known.node_id)
            self._beaten = self._clock()
            self._context = Context(
                run_id=0, node_id=known.node_id, node_config={}, state=RecordDict(), run_config={}
            )
        return self._context

    def _pull(self, node: Node, head: Message, tree: ObjectTree) -> Message | None:
        run, parts = head.metadata.run_id, [part.object_id for part in iterate_object_tree(tree)]
        if len(parts) > _MOST_PARTS:
            raise FleetError(f"a message in {len(parts)} parts is not from a server of ours")
        contents: dict[str, bytes] = {}
        end = self._clock() + _UPLOAD_S
        for part in parts:
            asked = PullObjectRequest(node=node, run_id=run, object_id=part)
            # A message is announced before its parts are there.
            while not (found := self._client.PullObject(asked)).object_available:
                if not found.object_found or self._clock() > end:
                    return None
                self._sleep(_PART_S)
            if len(found.object_content) > _LARGEST:
                return None
            contents[part] = found.object_content
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(node=node, run_id=run, message_object_id=tree.object_id)
        )
        message: Any = inflate_object_from_contents(tree.object_id, contents)
        if not isinstance(message, Message):
            raise FleetError("what the server sent is no message")
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self._app(message, context)
        except Exception as failure:
            _log.warning("a message was not answered: %s", failure)
            # Only what kind of failure: its text could hold what is on this device.
            error = Error(code=_DEVICE_FAILED, reason=type(failure).__name__)
            return Message(error, reply_to=message)

    def _push(self, node: Node, reply: Message) -> None:
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        head = remove_content_from_message(reply) if reply.has_content() else reply
        asked = self._client.PushMessages(
            PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(head)],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
        )
        for part in asked.objects_to_push:
            self._client.PushObject(
                PushObjectRequest(
                    node=node,
                    run_id=reply.metadata.run_id,
                    session_id=asked.session_id,
                    object_id=part,
                    object_content=objects[part].deflate(),
                )
            )


def _refusal(status: int) -> str:
    if status == 404:
        return "the server has no route for devices: is the address that of a fleet proxy?"
    return "the server does not know this device's key: enrol it (tactful federated enrol)"
