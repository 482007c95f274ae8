"""The grid of a run on a SuperLink: replies are passed on as they come, and none holds up others.

Flower's own grid asks for replies every three seconds and, once a device has announced one, waits
for all its parts up to two hours, so that a phone that dies in the middle of an upload stops the
round. This one asks several times a second, and comes back to a reply whose parts are not there
yet until the round ends.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

from tactful_federated.errors import missing_extra
from tactful_federated.one_run_grid import OneRunGrid

try:
    from flwr.app import Message
    from flwr.app.message import remove_content_from_message
    from flwr.common.constant import SUPERLINK_NODE_ID
    from flwr.common.serde import message_to_proto, run_from_proto
    from flwr.proto.message_pb2 import (
        ConfirmMessageReceivedRequest,
        ObjectTree,
        PullObjectRequest,
        PushObjectRequest,
    )
    from flwr.proto.node_pb2 import Node
    from flwr.proto.runtime_pb2 import (
        GetNodesRequest,
        PullAppMessagesRequest,
        PullTaskInputRequest,
        PushAppMessagesRequest,
        PushTaskOutputRequest,
    )
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
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)

_POLL_S = 0.1
_LARGEST = 64 * 2**20


class _Half(NamedTuple):
    """A reply that was announced: the request it answers, its parts, and those that have come."""

    answers: str
    tree: ObjectTree
    contents: dict[str, bytes]


class SuperLinkGrid(OneRunGrid):
    """Nodes and messages of one run.

    Making one claims the process for its run, as Flower keeps a task's identity per process.

    Args:
        address: Of the SuperLink.
        authority: PEM of the certificate that it is checked with.
        token: Of the run's task.
        poll: Seconds between two looks for replies, above 0.
        clock: Seconds that never go back.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        address: str,
        authority: bytes,
        token: str,
        *,
        poll: float = _POLL_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Begin the task, and keep it alive."""
        self._poll, self._clock, self._sleep = poll, clock, sleep
        self._client = _runtime_client(
            address, authority, [RuntimeTokenHttpInterceptor(token=token)]
        )
        self._node = Node(node_id=SUPERLINK_NODE_ID)
        begun = self._client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = begun.task_id, begun.run.run_id
        TaskIdentity.node_id = begun.context.node_id
        self._run = run_from_proto(begun.run)
        self._half: dict[str, _Half] = {}
        self._heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(self._client))
        self._heartbeat.start()

    @property
    def run(self) -> Run:
        """The run."""
        return Run(**vars(self._run))

    def get_node_ids(self) -> list[int]:
        """Numbers of the nodes that are online."""
        return [node.node_id for node in self._client.GetNodes(GetNodesRequest()).nodes]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send; what several messages share is uploaded once."""
        listed = list(messages)
        if not listed:
            return []
        objects: dict[str, Any] = {}
        trees = []
        for message in listed:
            message.metadata.__dict__["_message_id"] = message.object_id
            objects.update(get_all_nested_objects(message))
            trees.append(get_object_tree(message))
        response = self._client.PushMessages(
            PushAppMessagesRequest(
                messages_list=[
                    message_to_proto(remove_content_from_message(message)) for message in listed
                ],
                message_object_trees=trees,
            )
        )
        for number in set(response.objects_to_push):
            self._client.PushObject(
                PushObjectRequest(
                    node=self._node,
                    run_id=self._run.run_id,
                    session_id=response.session_id,
                    object_id=number,
                    object_content=objects[number].deflate(),
                )
            )
        return list(response.message_ids)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are there with all their parts."""
        # The SuperLink forgets a request with its first answer, and of another one says it is gone.
        arriving = {half.answers for half in self._half.values()}
        asked = [number for number in message_ids if number not in arriving]
        if asked:
            response = self._client.PullMessages(PullAppMessagesRequest(message_ids=asked))
            for reply, tree in zip(
                response.messages_list, response.message_object_trees, strict=True
            ):
                answered = reply.metadata.reply_to_message_id
                self._half[reply.metadata.message_id] = _Half(answered, tree, {})
        whole = (self._complete(number) for number in list(self._half))
        return [message for message in whole if message is not None]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Replies as they come, until each came or `timeout` seconds went by.

        Who stops reading early leaves the others behind: their replies are dropped.
        """
        waiting = set(self.push_messages(messages))
        self._half.clear()  # what is left of an earlier exchange
        end = None if timeout is None else self._clock() + timeout
        while waiting:
            for message in self.pull_messages(waiting):
                if message.metadata.reply_to_message_id in waiting:
                    waiting.remove(message.metadata.reply_to_message_id)
                    yield message
            if not waiting or (end is not None and self._clock() >= end):
                return
            self._sleep(self._poll)

    def close(self) -> None:
        """End the run."""
        if self._heartbeat.is_running:
            self._heartbeat.stop()
        with contextlib.suppress(Exception):  # the SuperLink may be gone; it finds out by itself
            self._client.PushTaskOutput(PushTaskOutputRequest(sub_status="completed", details=""))
        self._client.close()

    def _complete(self, number: str) -> Message | None:
        half = self._half[number]
        for part in (branch.object_id for branch in iterate_object_tree(half.tree)):
            if part in half.contents:
                continue
            found = self._client.PullObject(
                PullObjectRequest(node=self._node, run_id=self._run.run_id, object_id=part)
            )
            if not found.object_found or len(found.object_content) > _LARGEST:
                _log.warning("a reply was dropped: it cannot be read whole")
                del self._half[number]
                return None
            if not found.object_available:
                return None
            half.contents[part] = found.object_content
        del self._half[number]
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._node, run_id=self._run.run_id, message_object_id=number
            )
        )
        try:
            message = cast(Message, inflate_object_from_contents(number, half.contents))
        except Exception:  # whatever a device may send, the round goes on
            _log.warning("a reply was dropped: it is no message")
            return None
        message.metadata.__dict__["_message_id"] = number
        return message


@contextlib.contextmanager
def runtime_client(
    address: str, authority: bytes, interceptors: Sequence[Any]
) -> Iterator[RuntimeHttpClient]:
    """A client of the Runtime API, for as long as the context lasts."""
    client = _runtime_client(address, authority, interceptors)
    try:
        yield client
    finally:
        client.close()


def _runtime_client(
    address: str, authority: bytes, interceptors: Sequence[Any]
) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        address,
        False,
        authority,
        [RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"), *interceptors],
    )
