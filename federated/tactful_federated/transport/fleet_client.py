"""Client of a device for Flower's Fleet API over TLS, with one installed app.

Flower's SuperNode starts a process for each message and runs code that the server sends. This
client does neither: it pulls messages, calls the installed app and pushes the replies. It does not
implement the routes that transfer code (`get-fab`, `get-run`).
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import logging
import time
from base64 import b64encode
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tactful_federated.core.polling import Polling
from tactful_federated.errors import FederatedError, extra
from tactful_federated.transport.certificates import public_pem

with extra():
    import httpx
    from flwr.app import Context, Error, Message, RecordDict
    from flwr.app.message import remove_content_from_message
    from flwr.clientapp import ClientApp
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.common.serde import message_from_proto, message_to_proto
    from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2
    from flwr.supercore.constant import (
        FLEET_HTTP_PUBLIC_KEY_HEADER,
        FLEET_HTTP_SIGNATURE_HEADER,
    )
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        iterate_object_tree,
    )
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import sign_message
    from flwr.supernode.fleet_http_client import FleetHttpClient

_log = logging.getLogger(__name__)

_POLLING = Polling()
_HEARTBEAT_S, _LONGEST_WAIT_S = 30.0, 30.0
# HTTP status: wrong key or route; proxy timeout or rate limit; the run has ended.
_FINAL, _OUTAGE, _RUN_OVER, _UNSIGNED = (401, 404), (408, 429), 403, 401
_UPLOAD_S, _PART_S = 30.0, 0.05
# The SuperLink accepts signatures that are up to 5 s early and 305 s late, and its clock has whole
# seconds here; an error of more than a day has another cause, or needs the user.
_LEAST_SKEW_S, _MOST_SKEW_S = 3.0, 86_400.0
_MAX_PARTS, _MAX_PART_BYTES = 64, 64 * 2**20
_DEVICE_FAILED = 2


class FleetError(FederatedError, ConnectionError):
    """This device is not enrolled, or the server sent an invalid message."""


class ServerClock:
    """Clock of a device, corrected by the time of the server if that refuses its signatures.

    The time is the `Date` of an answer over TLS, from a server that the pinned authority
    certified; it is used for signatures and times of messages only, and up to a day from the
    clock of the device.
    """

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        """Begin with the clock of the device, seconds since the epoch."""
        self._now, self.offset = now, 0.0

    def now(self) -> float:
        """Return the corrected time."""
        return self._now() + self.offset

    def correct(self, date: str | None) -> bool:
        """Correct the clock by the date of a refusal; return whether it was wrong.

        Raises:
            FleetError: The clock of the device is more than a day off.
        """
        try:
            server = email.utils.parsedate_to_datetime(date or "").timestamp()
        except (ValueError, TypeError, OverflowError):
            return False
        if abs(server - self.now()) < _LEAST_SKEW_S:
            return False
        off = self._now() - server
        way = "ahead of" if off > 0 else "behind"
        text = f"the clock of this device is {abs(off):.0f} s {way} the server's"
        if abs(off) > _MOST_SKEW_S:
            raise FleetError(f"{text}, which refuses its signatures: set the clock")
        self.offset = -off
        _log.warning("%s: it uses the server's time; set the clock", text)
        return True


class _NodeSignature:
    """Interceptor that signs requests as Flower's does, but by a clock of ours."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, clock: ServerClock) -> None:
        self._key, self._clock = key, clock
        self._public = b64encode(public_pem(key.public_key())).decode("ascii")

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        """Sign the time, and send the request."""
        now = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC).isoformat()
        signature = sign_message(self._key, now.encode("ascii"))
        context.request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER] = self._public
        context.request.headers[TIMESTAMP_HEADER] = now
        context.request.headers[FLEET_HTTP_SIGNATURE_HEADER] = b64encode(signature).decode("ascii")
        return call_next(context)


class FleetClient:
    """Connection of one device to a SuperLink.

    It may be killed and restarted at any point: an unanswered message is a missing report. The app
    keeps durable state (ledger, history).

    Args:
        address: `host:port` of the proxy in front of the SuperLink.
        authority: PEM of the only trusted certificate authority.
        key: Node key of the device.
        app: Answers messages.
        ready: Returns whether the device may work now; if not, it pulls nothing.
        node: Number of the node from an earlier start. The server counts a killed device as online
            for a minute more; the number lets the device reconnect at once.
        greeted: Called with the number of the node when the server accepts the device.
        patience: Seconds to retry after a refusal: the server answers alike to a device that is not
            enrolled and to one that it counts as online.
        polling: Interval and clock.
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
        patience: float = 120.0,
        polling: Polling = _POLLING,
    ) -> None:
        """Create the client; nothing is sent."""
        self._clock = ServerClock()
        self._app, self._ready, self._polling = app, ready, polling
        self._node, self._on_accepted, self._patience = node, greeted, patience
        self._key = public_pem(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            address,
            False,
            authority,
            [
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                _NodeSignature(key, self._clock),
            ],
        )
        self._context: Context | None = None
        self._last_heartbeat = 0.0

    def work(self, stop: Callable[[], bool]) -> None:
        """Answer messages until `stop` returns True; retry after outages, with backoff.

        Raises:
            FleetError: The server refuses the key of this device, or its clock is far off.
        """
        wait, refused_since = self._polling.interval, None
        while not stop():
            try:
                busy = self._ready() and self.step()
                wait, refused_since = self._polling.interval, None
            except httpx.HTTPStatusError as error:
                status, busy = error.response.status_code, False
                if status == _UNSIGNED and self._clock.correct(error.response.headers.get("date")):
                    wait = self._polling.interval
                    self._polling.sleep(wait)
                    continue
                if status in _OUTAGE or status >= 500:
                    refused_since = None  # a proxy answers for an unavailable server
                else:
                    refused_since = refused_since or self._polling.monotonic()
                    if (
                        status in _FINAL
                        or self._polling.monotonic() - refused_since > self._patience
                    ):
                        raise FleetError(_refusal_message(status)) from error
                _log.info("the server answered %d; trying again", status)
                if status != _RUN_OVER:
                    self._context = None  # the server may have restarted: connect again
                    wait = min(2 * wait, _LONGEST_WAIT_S)
            except httpx.TransportError as error:
                _log.warning("the server cannot be reached: %s", _outage_message(error))
                wait, busy = min(2 * wait, _LONGEST_WAIT_S), False
            if not busy:
                self._polling.sleep(wait)

    def step(self) -> bool:
        """Answer one message; return False if there was none."""
        context = self._connect()
        node = node_pb2.Node(node_id=context.node_id)
        if self._polling.monotonic() - self._last_heartbeat > _HEARTBEAT_S / 2:
            self._client.SendNodeHeartbeat(
                heartbeat_pb2.SendNodeHeartbeatRequest(node=node, heartbeat_interval=_HEARTBEAT_S)
            )
            self._last_heartbeat = self._polling.monotonic()
        response = self._client.PullMessages(fleet_pb2.PullMessagesRequest(node=node))
        if not response.messages_list:
            return False
        head = message_from_proto(response.messages_list[0])
        message = self._pull(node, head, response.message_object_trees[0])
        if message is not None:
            self._push(node, self._answer(message, context))
        return True

    def close(self) -> None:
        """Deactivate the node and close the connection."""
        if self._context is not None:
            with contextlib.suppress(httpx.HTTPError):
                self._client.DeactivateNode(
                    fleet_pb2.DeactivateNodeRequest(node_id=self._context.node_id)
                )
        self._client.close()

    def _connect(self) -> Context:
        if self._context is None:
            if self._node is not None:
                with contextlib.suppress(httpx.HTTPStatusError):  # the node was offline
                    self._client.DeactivateNode(fleet_pb2.DeactivateNodeRequest(node_id=self._node))
            activated = self._client.ActivateNode(
                fleet_pb2.ActivateNodeRequest(public_key=self._key, heartbeat_interval=_HEARTBEAT_S)
            )
            self._node = activated.node_id
            self._on_accepted(activated.node_id)
            self._last_heartbeat = self._polling.monotonic()
            self._context = Context(
                0, activated.node_id, node_config={}, state=RecordDict(), run_config={}
            )
        return self._context

    def _pull(
        self, node: node_pb2.Node, head: Message, tree: message_pb2.ObjectTree
    ) -> Message | None:
        run, parts = head.metadata.run_id, [part.object_id for part in iterate_object_tree(tree)]
        if len(parts) > _MAX_PARTS:
            raise FleetError(f"a message has {len(parts)} parts, and {_MAX_PARTS} are allowed")
        contents: dict[str, bytes] = {}
        end = self._polling.monotonic() + _UPLOAD_S
        for part in parts:
            request = message_pb2.PullObjectRequest(node=node, run_id=run, object_id=part)
            # The server announces a message before its parts are uploaded.
            while not (response := self._client.PullObject(request)).object_available:
                if not response.object_found or self._polling.monotonic() > end:
                    return None
                self._polling.sleep(_PART_S)
            if len(response.object_content) > _MAX_PART_BYTES:
                return None
            contents[part] = response.object_content
        self._client.ConfirmMessageReceived(
            message_pb2.ConfirmMessageReceivedRequest(
                node=node, run_id=run, message_object_id=tree.object_id
            )
        )
        message: Any = inflate_object_from_contents(tree.object_id, contents)
        if not isinstance(message, Message):
            raise FleetError("the server sent an object that is not a Flower message")
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            return self._app(message, context)
        except Exception as failure:
            _log.warning("the app failed on a message: %s", failure)
            # Only the type: the text of the error could contain data of this device.
            error = Error(code=_DEVICE_FAILED, reason=type(failure).__name__)
            return Message(error, reply_to=message)

    def _push(self, node: node_pb2.Node, reply: Message) -> None:
        # The end of a reply is that of its request, whose time is the server's.
        end = reply.metadata.created_at + reply.metadata.ttl
        reply.metadata.created_at = self._clock.now()
        reply.metadata.ttl = end - reply.metadata.created_at
        reply.metadata.__dict__["_message_id"] = reply.object_id
        objects = get_all_nested_objects(reply)
        head = remove_content_from_message(reply) if reply.has_content() else reply
        request = self._client.PushMessages(
            fleet_pb2.PushMessagesRequest(
                node=node,
                messages_list=[message_to_proto(head)],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[0.0],
            )
        )
        for part in request.objects_to_push:
            self._client.PushObject(
                message_pb2.PushObjectRequest(
                    node=node,
                    run_id=reply.metadata.run_id,
                    session_id=request.session_id,
                    object_id=part,
                    object_content=objects[part].deflate(),
                )
            )


def _outage_message(error: httpx.TransportError) -> str:
    if "certificate is not yet valid" in str(error) or "certificate has expired" in str(error):
        return "its certificate is not valid at the time of this device: set the clock, or renew it"
    return type(error).__name__


def _refusal_message(status: int) -> str:
    if status == 404:
        return "the server has no route for devices: give the address of a fleet proxy"
    return "the key of this device is not registered: enrol it (tactful federated enrol)"
