"""Secure sums over Flower's Message API: five queries a round, each a number and some bytes.

A device keeps its keys in memory between the questions of a session and forgets them when its
process ends, so the client must live through a round: a thin client or `LocalGrid` does, a stock
SuperNode, which starts a process for every message, does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from tactful_federated.compression import from_bytes, restore, to_bytes
from tactful_federated.errors import missing_extra
from tactful_federated.secure_round import SecureRounds
from tactful_federated.vectors import Vector

try:
    from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)

_STEP, _WEIGHTS = "secure-sum", "weights"


def secure_client_app(rounds_of: Callable[[Context], SecureRounds]) -> ClientApp:
    """A Flower ClientApp that takes part in secure sums and answers nothing else."""
    app = ClientApp()

    @app.query()
    def answer(message: Message, context: Context) -> Message:
        asked = cast(Mapping[str, Any], message.content[_STEP])
        weights: Vector | None = None
        if _WEIGHTS in message.content:
            given = cast(Mapping[str, Any], message.content[_WEIGHTS])[_WEIGHTS]
            weights = restore(from_bytes(given, "float32"))
        said = rounds_of(context).answer(int(asked["stage"]), bytes(asked["data"]), weights)
        return Message(RecordDict({_STEP: ConfigRecord({"data": said})}), reply_to=message)

    return app


class FlowerSecureTransport:
    """The nodes of a Flower grid, as `SecureTransport`.

    Args:
        grid: The grid of a ServerApp, or a `LocalGrid`.
        timeout: Seconds that each stage waits for answers; None waits until each came or expired.
    """

    def __init__(self, grid: Grid, *, timeout: float | None = None) -> None:
        """Look at the nodes of a grid."""
        self._grid, self._timeout = grid, timeout

    def ids(self) -> Sequence[int]:
        """Node ids of the grid."""
        return list(self._grid.get_node_ids())

    def exchange(
        self, stage: int, questions: Mapping[int, bytes], weights: Vector
    ) -> Mapping[int, bytes]:
        """Answers that came in time; nodes that fail or stay silent are missing."""
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
                _log.warning("a node left the secure sum at stage %d", stage)
                continue
            try:
                said = cast(Mapping[str, Any], reply.content[_STEP])["data"]
            except (KeyError, TypeError):
                _log.warning("an answer at stage %d held nothing", stage)
                continue
            if isinstance(said, bytes):
                answers[reply.metadata.src_node_id] = said
        return answers


def _content(stage: int, data: bytes, weights: Vector) -> RecordDict:
    content = RecordDict({_STEP: ConfigRecord({"stage": stage, "data": data})})
    if stage == 1:
        # A record of its own: it is the same for all devices, and what is shared is sent once.
        content[_WEIGHTS] = ConfigRecord({_WEIGHTS: to_bytes(weights)})
    return content
