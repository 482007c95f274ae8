"""Replies of a SuperLink whose parts come later than their announcement."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.error import Error
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto, run_to_proto
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run

from tactful_federated.core.polling import Polling
from tactful_federated.transport import superlink_grid
from tactful_federated.transport.superlink_grid import SuperLinkGrid

GONE = 5


def numbered(message: Message) -> Message:
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


class Link:
    """As a SuperLink: it forgets a request when it announces the reply, whose parts come later."""

    def __init__(self, late: int) -> None:
        self.late, self.asked, self.confirmed = late, 0, list[str]()
        self.parts: dict[str, bytes] = {}
        self.announced = False

    def PullTaskInput(self, _: Any) -> Any:
        run = run_to_proto(Run.create_empty(run_id=1))
        return SimpleNamespace(task_id=1, run=run, context=SimpleNamespace(node_id=1))

    def PushMessages(self, request: Any) -> Any:
        (self.number,) = (one.metadata.message_id for one in request.messages_list)
        return SimpleNamespace(objects_to_push=[], message_ids=[self.number], session_id="")

    def PullMessages(self, request: Any) -> Any:
        if not list(request.message_ids):
            return SimpleNamespace(messages_list=[], message_object_trees=[])
        asked = Message(RecordDict(), dst_node_id=7, message_type="train")
        asked.metadata.__dict__["_message_id"] = self.number
        if self.announced:
            reply = Message(Error(code=GONE, reason="gone"), reply_to=asked)
        else:
            self.announced = True
            reply = Message(RecordDict({"update": ConfigRecord({"is": 3})}), reply_to=asked)
        numbered(reply)
        self.parts |= {
            number: part.deflate() for number, part in get_all_nested_objects(reply).items()
        }
        return SimpleNamespace(
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )

    def PullObject(self, request: Any) -> Any:
        self.asked += 1
        content = self.parts[request.object_id] if self.asked > self.late else b""
        return SimpleNamespace(
            object_found=True, object_available=bool(content), object_content=content
        )

    def ConfirmMessageReceived(self, request: Any) -> None:
        self.confirmed.append(request.message_object_id)


@pytest.mark.parametrize("late", [0, 3])
def test_a_reply_with_late_parts_is_waited_for(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    link = Link(late)
    monkeypatch.setattr(superlink_grid, "runtime_client", lambda *_: link)
    monkeypatch.setattr("flwr.supercore.heartbeat.HeartbeatSender.start", lambda _: None)
    grid = SuperLinkGrid("nowhere", b"", "token", polling=Polling(sleep=lambda _: None))
    message = Message(RecordDict(), dst_node_id=7, message_type="train")
    replies: Iterable[Message] = grid.send_and_receive([message], timeout=60.0)
    (reply,) = replies
    assert not reply.has_error()
    assert reply.content["update"] == ConfigRecord({"is": 3})
    assert link.confirmed == [reply.metadata.message_id]
