"""Secure sums over Flower's Message API: five queries in a round.

The records of a message:

    query   secure-sum: stage (1 to 5), data (bytes); at stage 1 also weights: weights (bytes)
    reply   secure-sum: data (bytes)

A device keeps the keys of a session in memory, so its process must run for the whole round, as
`FleetClient` and `LocalGrid` do. A stock SuperNode starts a process for each message and cannot
take part.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from tactful_federated.core.compression import from_bytes, restore, to_bytes
from tactful_federated.errors import extra
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.rounds import SecureRounds

with extra():
    from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

if TYPE_CHECKING:
    from tactful_federated.secagg.server import Payloads

_log = logging.getLogger(__name__)

_STEP, _WEIGHTS = "secure-sum", "weights"


def secure_client_app(rounds_of: Callable[[Context], SecureRounds]) -> ClientApp:
    """Return a Flower ClientApp that only takes part in secure sums."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        query = cast(Mapping[str, Any], message.content[_STEP])
        weights: Vector | None = None
        if _WEIGHTS in message.content:
            data = cast(Mapping[str, Any], message.content[_WEIGHTS])[_WEIGHTS]
            weights = restore(from_bytes(data, "float32"))
        answer_data = rounds_of(context).answer(int(query["stage"]), bytes(query["data"]), weights)
        return Message(RecordDict({_STEP: ConfigRecord({"data": answer_data})}), reply_to=message)

    return app


class FlowerSecureTransport:
    """Nodes of a Flower grid as a `SecureTransport`.

    Args:
        grid: Grid of a ServerApp, or a `LocalGrid`.
        timeout: Seconds to wait for the answers of a stage; None waits until each arrived or
            expired.
    """

    def __init__(self, grid: Grid, *, timeout: float | None = None) -> None:
        """Keep the grid."""
        self._grid, self._timeout = grid, timeout

    def ids(self) -> Sequence[int]:
        """Return the node ids of the grid."""
        return list(self._grid.get_node_ids())

    def exchange(self, stage: int, questions: Payloads, weights: Vector) -> Payloads:
        """Return the answers in time; nodes that fail or do not answer are left out."""
        answers: dict[int, bytes] = {}
        requests = [
            Message(
                _content(stage, data, weights),
                dst_node_id=node,
                message_type=MessageType.QUERY,
                ttl=self._timeout,
            )
            for node, data in questions.items()
        ]
        for reply in self._grid.send_and_receive(requests, timeout=self._timeout):
            if reply.has_error():
                hint = ": devices of an earlier version do, and must be updated"
                _log.warning(
                    "a node left the secure sum at stage %d%s", stage, hint if stage == 1 else ""
                )
                continue
            try:
                content = cast(Mapping[str, Any], reply.content[_STEP])["data"]
            except (KeyError, TypeError):
                _log.warning("an answer at stage %d had no data", stage)
                continue
            if isinstance(content, bytes):
                answers[reply.metadata.src_node_id] = content
        return answers


def _content(stage: int, data: bytes, weights: Vector) -> RecordDict:
    content = RecordDict({_STEP: ConfigRecord({"stage": stage, "data": data})})
    if stage == 1:
        # A separate record: it is equal for all devices, so it is uploaded once.
        content[_WEIGHTS] = ConfigRecord({_WEIGHTS: to_bytes(weights)})
    return content
