"""Grid of a run on a SuperLink; an incomplete reply does not block other replies.

Flower's own grid polls every three seconds and, once a device has announced a reply, waits up to
two hours for all its parts, so a phone that stops during an upload stops the round. This grid polls
several times a second and retries incomplete replies until the round ends.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from tactful_federated.core.polling import Polling
from tactful_federated.errors import extra
from tactful_federated.transport.flower_clear import OneRunGrid

with extra():
    import httpx
    from flwr.app import Message
    from flwr.app.message import remove_content_from_message
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.common.serde import message_to_proto, run_from_proto
    from flwr.proto import log_pb2, message_pb2, node_pb2, runtime_pb2
    from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
    from flwr.supercore.inflatable.inflatable_object import (
        get_all_nested_objects,
        get_object_tree,
        iterate_object_tree,
    )
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
    from flwr.supercore.interceptors import (
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
    )
    from flwr.supercore.run import Run
    from flwr.supercore.runtime import RuntimeHttpClient
    from flwr.supercore.task_identity import TaskIdentity

_log = logging.getLogger(__name__)

_POLLING = Polling(interval=0.1)
_MAX_PART_BYTES = 64 * 2**20


class _Incomplete(NamedTuple):
    """An incomplete reply: id of its request, tree of its parts, and parts received."""

    request: str
    tree: message_pb2.ObjectTree
    contents: dict[str, bytes]


class SuperLinkGrid(OneRunGrid):
    """Grid of the nodes and messages of one run.

    Flower keeps the identity of a task per process, so a process can have one grid.
    """

    def __init__(
        self, address: str, authority: bytes, token: str, *, polling: Polling = _POLLING
    ) -> None:
        """Start the task and its heartbeat."""
        self._polling = polling
        self._client = runtime_client(
            address, authority, [RuntimeTokenHttpInterceptor(token=token)]
        )
        self._node = node_pb2.Node(node_id=SUPERLINK_NODE_ID)
        begun = self._client.PullTaskInput(runtime_pb2.PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = begun.task_id, begun.run.run_id
        TaskIdentity.node_id = begun.context.node_id
        self._run = run_from_proto(begun.run)
        self._incomplete: dict[str, _Incomplete] = {}
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(self._client))
        self._heartbeat.start()

    @property
    def run(self) -> Run:
        """Run of this grid."""
        return Run(**vars(self._run))

    def get_node_ids(self) -> list[int]:
        """Return the numbers of the nodes that are online."""
        return [node.node_id for node in self._client.GetNodes(runtime_pb2.GetNodesRequest()).nodes]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; objects shared by several messages are uploaded once."""
        batch = list(messages)
        if not batch:
            return []
        objects: dict[str, Any] = {}
        trees = []
        for message in batch:
            message.metadata.__dict__["_message_id"] = message.object_id
            objects.update(get_all_nested_objects(message))
            trees.append(get_object_tree(message))
        heads = [message_to_proto(remove_content_from_message(message)) for message in batch]
        push = runtime_pb2.PushAppMessagesRequest(messages_list=heads, message_object_trees=trees)
        response = self._client.PushMessages(push)
        for number in set(response.objects_to_push):
            self._client.PushObject(
                message_pb2.PushObjectRequest(
                    node=self._node,
                    run_id=self._run.run_id,
                    session_id=response.session_id,
                    object_id=number,
                    object_content=objects[number].deflate(),
                )
            )
        return list(response.message_ids)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return complete replies."""
        # The SuperLink deletes a request with its first answer, then reports it as unknown.
        arriving = {reply.request for reply in self._incomplete.values()}
        waiting_ids = [number for number in message_ids if number not in arriving]
        if waiting_ids:
            response = self._client.PullMessages(
                runtime_pb2.PullAppMessagesRequest(message_ids=waiting_ids)
            )
            for reply, tree in zip(
                response.messages_list, response.message_object_trees, strict=True
            ):
                request = reply.metadata.reply_to_message_id
                self._incomplete[reply.metadata.message_id] = _Incomplete(request, tree, {})
        completed = (self._complete(number) for number in list(self._incomplete))
        return [message for message in completed if message is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages and yield replies, until all arrived or `timeout` seconds passed.

        If the caller stops reading early, the remaining replies are dropped.
        """
        waiting = set(self.push_messages(messages))
        self._incomplete.clear()  # replies of an earlier exchange
        end = None if timeout is None else self._polling.monotonic() + timeout
        while waiting:
            for message in self.pull_messages(waiting):
                if message.metadata.reply_to_message_id in waiting:
                    waiting.remove(message.metadata.reply_to_message_id)
                    yield message
            if not waiting or (end is not None and self._polling.monotonic() >= end):
                return
            self._polling.sleep(self._polling.interval)

    def log(self, line: str) -> None:
        """Add a line to the log of the run, which `flwr log` shows to the operator."""
        logs, node = [f"{line}\n"], node_pb2.Node(node_id=0)
        request = log_pb2.PushLogsRequest(node=node, run_id=self._run.run_id, logs=logs)
        with contextlib.suppress(httpx.HTTPError):  # no round waits for its log
            self._client.PushLogs(request)

    def close(self) -> None:
        """End the run."""
        if self._heartbeat.is_running:
            self._heartbeat.stop()
        with contextlib.suppress(Exception):  # the SuperLink may have stopped
            self._client.PushTaskOutput(
                runtime_pb2.PushTaskOutputRequest(sub_status="completed", details="")
            )
        self._client.close()

    def _complete(self, number: str) -> Message | None:
        reply = self._incomplete[number]
        for part in (branch.object_id for branch in iterate_object_tree(reply.tree)):
            if part in reply.contents:
                continue
            response = self._client.PullObject(
                message_pb2.PullObjectRequest(
                    node=self._node, run_id=self._run.run_id, object_id=part
                )
            )
            if not response.object_found or len(response.object_content) > _MAX_PART_BYTES:
                _log.warning("a reply was dropped: a part is missing or too large")
                del self._incomplete[number]
                return None
            if not response.object_available:
                return None
            reply.contents[part] = response.object_content
        del self._incomplete[number]
        self._client.ConfirmMessageReceived(
            message_pb2.ConfirmMessageReceivedRequest(
                node=self._node, run_id=self._run.run_id, message_object_id=number
            )
        )
        try:
            message = cast(Message, inflate_object_from_contents(number, reply.contents))
        except Exception:  # a device may send anything; the round goes on
            _log.warning("a reply was dropped: it is not a Flower message")
            return None
        message.metadata.__dict__["_message_id"] = number
        return message


def runtime_client(
    address: str, authority: bytes, interceptors: Sequence[Any]
) -> RuntimeHttpClient:
    """Return a client of the Runtime API, to be closed."""
    return RuntimeHttpClient.from_server_address(
        address,
        False,
        authority,
        [RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"), *interceptors],
    )
