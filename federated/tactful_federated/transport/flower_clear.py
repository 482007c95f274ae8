"""Devices and rounds over Flower's Message API, in the clear.

Flower is used for transport and job control only. The records of a message:

    training request   request: round, vocabulary (fingerprint), encoding, weights
    training reply     update: values, encoding, scale; or refusal: reason
    evaluation reply   score: steps, top1, top5, loss

Messages contain nothing else, and a test scans for it. Weights and updates are bytes of one record:
a Flower array would be three objects, each with its own request to the SuperLink.

`LocalGrid` runs a `ClientApp` in this process, without Ray and network, deterministically.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol, cast

import numpy as np

from tactful_federated.core.compression import (
    ENCODINGS,
    Encoding,
    compress,
    from_bytes,
    restore,
    to_bytes,
)
from tactful_federated.errors import VocabularyError, WeightsError, extra, require
from tactful_federated.model.scores import Score, Scores
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Updates, Vector

with extra():
    from flwr.app import (
        ConfigRecord,
        Context,
        Error,
        Message,
        MessageType,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity

_log = logging.getLogger(__name__)

_UPDATE, _SCORE, _REQUEST = "update", "score", "request"
_REFUSAL, _DIVERGED = "refusal", "training diverged"
_DEVICE_FAILED = 2


class Trainee(Protocol):
    """Interface to a device that trains and evaluates, such as `Device`."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Public vocabulary of the device."""

    def train(self, weights: Vector, round_number: int) -> Vector:
        """Return the clipped update."""

    def evaluate(self, weights: Vector) -> Score:
        """Return counts of right answers."""


def client_app(device_of: Callable[[Context], Trainee]) -> ClientApp:
    """Return a Flower ClientApp of the device that `device_of` returns for a context."""
    app = ClientApp()

    def device_for(message: Message, context: Context) -> Trainee:
        device = device_of(context)
        _check_vocabulary(message, device.vocabulary)
        return device

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return _trained(message, device_for(message, context).train)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        score = device_for(message, context).evaluate(_weights(message))
        return Message(RecordDict({_SCORE: MetricRecord(asdict(score))}), reply_to=message)

    return app


def training_app(vocabulary: Vocabulary, train: Callable[[Vector, int], Vector]) -> ClientApp:
    """Return a Flower ClientApp that only trains, for servers with this vocabulary.

    `train` maps weights and the number of the round to a clipped update.
    """
    app = ClientApp()

    @app.train()
    def answer(message: Message, context: Context) -> Message:
        _check_vocabulary(message, vocabulary)
        return _trained(message, train)

    return app


@contextlib.contextmanager
def only_kind_of_errors() -> Iterator[None]:
    """Raise `RuntimeError` with the kind of an error alone, and log the error.

    A stock node sends the text of errors to its server, and a text could contain visits.
    """
    try:
        yield
    except Exception as error:
        _log.exception("the device did not answer")
        raise RuntimeError(type(error).__name__) from None


class FlowerPopulation:
    """Nodes of a Flower grid as a `Population`.

    Args:
        grid: Grid of a ServerApp, or a `LocalGrid`.
        vocabulary: Public vocabulary of the model; a device with another one answers an error.
        timeout: Seconds to wait for replies; None waits until each arrived or expired.
        encoding: Encoding of updates. Except for `float32`, weights are sent in half precision, and
            devices train from these.
    """

    def __init__(
        self,
        grid: Grid,
        vocabulary: Vocabulary,
        *,
        timeout: float | None = None,
        encoding: Encoding = "float32",
    ) -> None:
        """Raise `SettingsError` if the encoding is unknown."""
        require(encoding in ENCODINGS, f"encoding is {encoding!r}: give {', '.join(ENCODINGS)}")
        self._grid, self._encoding = grid, encoding
        self._fingerprint = vocabulary.fingerprint
        self._timeout = timeout

    def ids(self) -> Sequence[int]:
        """Return the node ids of the grid."""
        return list(self._grid.get_node_ids())

    def train(self, ids: Sequence[int], weights: Vector, round_number: int) -> Updates:
        """Yield updates in order of arrival; nodes that do not answer are left out.

        If training diverged or the encoding is unknown, the update is empty, which is invalid.
        """
        requests = self.requests(MessageType.TRAIN, ids, weights, round_number)
        for reply in self._grid.send_and_receive(requests, timeout=self._timeout):
            update = update_of(reply, round_number)
            if update is not None:
                yield reply.metadata.src_node_id, update

    def evaluate(self, ids: Sequence[int], weights: Vector, round_number: int) -> Scores:
        """Return the scores of the nodes that answered."""
        scores: dict[int, Score] = {}
        requests = self.requests(MessageType.EVALUATE, ids, weights, round_number)
        for reply in self._grid.send_and_receive(requests, timeout=self._timeout):
            if reply.has_error():
                _log_failure(reply, round_number)
                continue
            try:
                counts = cast(Mapping[str, Any], reply.content[_SCORE])
                steps, top1, top5 = (int(counts[name]) for name in ("steps", "top1", "top5"))
                score = Score(steps, top1, top5, float(counts["loss"]))
                scores[reply.metadata.src_node_id] = score
            except (KeyError, ValueError, TypeError, OverflowError):  # int(inf) overflows
                _log.warning("round %d: a reply had no valid counts", round_number)
        return scores

    def requests(
        self, kind: str, ids: Sequence[int], weights: Vector, round_number: int
    ) -> list[Message]:
        """Return the requests to nodes, one message each."""
        request = ConfigRecord(
            {
                "round": round_number,
                "vocabulary": self._fingerprint,
                "encoding": self._encoding,
                "weights": to_bytes(weights.astype(_weights_encoding(self._encoding), copy=False)),
            }
        )
        content = RecordDict({_REQUEST: request})
        return [
            Message(
                content,
                dst_node_id=node,
                message_type=kind,
                group_id=str(round_number),
                ttl=self._timeout,  # no request of a past round reaches a device
            )
            for node in ids
        ]


def update_of(reply: Message, round_number: int) -> Vector | None:
    """Return the update of a reply; an empty one on divergence, None on failure."""
    if reply.has_error():
        _log_failure(reply, round_number)
        return None
    if _REFUSAL in reply.content:
        return np.zeros(0, dtype=np.float32)
    try:
        return _read_update(reply)
    except WeightsError:
        return np.zeros(0, dtype=np.float32)
    except (KeyError, ValueError, TypeError):
        _log.warning("round %d: a reply had no update", round_number)
        return None


class OneRunGrid(Grid):
    """Flower grid of a single run."""

    def set_run(self, run: Run) -> None:
        """Do nothing: the run is fixed."""

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message to a node, as Flower's interface requires."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)


class LocalGrid(OneRunGrid):
    """Grid in this process; the app handles each message at once, in order.

    Flower keeps the identity of a running task per process, so do not create this grid inside a
    ServerApp.

    Args:
        app: Client app of all nodes.
        nodes: Number of nodes; node n has id n and `partition-id` n - 1.
        drops: Called with (node id, message); True drops the message without a reply.
        run_config: Run configuration of the nodes.
    """

    def __init__(
        self,
        app: ClientApp,
        nodes: int,
        *,
        drops: Callable[[int, Message], bool] = lambda node, message: False,
        run_config: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the nodes, each with its own context."""
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0
        self._app = app
        self._drops = drops
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for node in range(1, nodes + 1)
        }
        self._replies: dict[str, Message] = {}

    @property
    def run(self) -> Run:
        """Run of this grid."""
        return Run.create_empty(run_id=1)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Handle each message now; store the replies."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that were not pulled before."""
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Handle messages and return the replies; never waits."""
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        message_id = uuid.uuid4().hex
        message.metadata.__dict__["_message_id"] = message_id
        node = message.metadata.dst_node_id
        if self._drops(node, message):
            return message_id
        received = copy.deepcopy(message)
        try:
            reply = self._app(received, self._contexts[node])
        except Exception as failure:
            reason = f"{type(failure).__name__}: {failure}"
            reply = Message(Error(code=_DEVICE_FAILED, reason=reason), reply_to=received)
        self._replies[message_id] = copy.deepcopy(reply)
        return message_id


def _log_failure(reply: Message, round_number: int) -> None:
    _log.warning("round %d: a node failed: %s", round_number, reply.error.reason)


def _request(message: Message) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], message.content[_REQUEST])


def _check_vocabulary(message: Message, vocabulary: Vocabulary) -> None:
    if _request(message)["vocabulary"] != vocabulary.fingerprint:
        raise VocabularyError("the vocabulary of server and device differs: update the device")


def _trained(message: Message, train: Callable[[Vector, int], Vector]) -> Message:
    request = _request(message)
    try:
        update = train(_weights(message), request["round"])
        values, scale = compress(update, request["encoding"])
    except WeightsError:
        # Answered, since a missing report could decide whether the round is released.
        refusal = ConfigRecord({"reason": _DIVERGED})
        return Message(RecordDict({_REFUSAL: refusal}), reply_to=message)
    answer = ConfigRecord(
        {"values": to_bytes(values), "encoding": values.dtype.name, "scale": scale}
    )
    return Message(RecordDict({_UPDATE: answer}), reply_to=message)


def _weights_encoding(encoding: Encoding) -> Encoding:
    """Return the encoding of weights in requests for updates of `encoding`."""
    return "float32" if encoding == "float32" else "float16"


def _weights(message: Message) -> Vector:
    request = _request(message)
    return restore(from_bytes(request["weights"], _weights_encoding(request["encoding"])))


def _read_update(message: Message) -> Vector:
    record = cast(Mapping[str, Any], message.content[_UPDATE])
    values, scale = record["values"], record["scale"]
    if not isinstance(values, bytes):  # replies are untrusted
        raise TypeError(f"an update is {type(values).__name__}, not bytes")
    return restore(from_bytes(values, record["encoding"]), float(scale))
