"""Asynchronous training over a network: no rounds, and late updates count.

A round takes as long as its slowest report. Here a device is asked whenever the limit allows it,
trains from the newest weights, and its update enters the next release (`buffered.py`). Updates are
read one by one; secret sums are not possible, since their members are fixed beforehand.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tactful_federated.core.buffered import BufferedTraining
from tactful_federated.core.compression import Encoding
from tactful_federated.core.invitation import Invitation
from tactful_federated.core.polling import Polling
from tactful_federated.core.private_training import Outcome
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.errors import BudgetError, missing_extra, require
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector
from tactful_federated.serving.rounds import LiveView, open_run, publish, show_round
from tactful_federated.transport.flower_clear import FlowerPopulation, update_of

try:
    from flwr.app import MessageType
    from flwr.serverapp import Grid
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)

_POLLING = Polling(interval=0.5)


class FlowerStream:
    """Open training requests to the nodes of a Flower grid.

    Args:
        grid: Grid of a run.
        vocabulary: Public vocabulary of the model.
        deadline: Seconds after which a request is abandoned.
        encoding: Encoding of updates.
        clock: Returns seconds of a clock that never goes back.
    """

    def __init__(
        self,
        grid: Grid,
        vocabulary: Vocabulary,
        *,
        deadline: float = 600.0,
        encoding: Encoding = "float32",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create the stream without requests."""
        self._grid, self._deadline, self._clock = grid, deadline, clock
        self._population = FlowerPopulation(grid, vocabulary, timeout=deadline, encoding=encoding)
        self._open: dict[str, tuple[int, int, float]] = {}  # message id: node, release, deadline
        self._answered: dict[int, int] = {}  # node: release of its last answer

    @property
    def waiting(self) -> int:
        """Number of open requests."""
        return len(self._open)

    def free(self, release: int) -> list[int]:
        """Return online nodes without a request that did not answer for this release yet."""
        busy = {node for node, _, _ in self._open.values()}
        return [
            node
            for node in self._grid.get_node_ids()
            if node not in busy and self._answered.get(node) != release
        ]

    def hand_out(self, nodes: Sequence[int], weights: Vector, release: int) -> None:
        """Send nodes the weights of a release to train from."""
        requests = self._population.requests(MessageType.TRAIN, nodes, weights, release + 1)
        end = self._clock() + self._deadline
        numbers = self._grid.push_messages(requests)
        self._open |= {
            number: (node, release, end) for node, number in zip(nodes, numbers, strict=True)
        }

    def arrived(self) -> Iterator[tuple[int, Vector, int]]:
        """Yield (node, update, release it was trained from) of new updates."""
        for reply in self._grid.pull_messages(list(self._open)):
            request = self._open.pop(reply.metadata.reply_to_message_id, None)
            if request is None:
                continue
            node, release, _ = request
            self._answered[node] = release
            update = update_of(reply, release + 1)
            if update is not None:
                yield node, update, release
        now = self._clock()
        self._open = {number: request for number, request in self._open.items() if request[2] > now}


def serve_buffered(
    directory: Path,
    invitation: Invitation,
    devices: FlowerStream,
    *,
    optimizer: Optimizer | None = None,
    most_stale: int = 20,
    rounds: int | None = None,
    progress: Callable[[Outcome, LiveView], None] | None = None,
    polling: Polling = _POLLING,
) -> Vector:
    """Train until the plan is complete; a restart resumes with an empty buffer.

    Up to `plan.cohort` devices train at a time. The files are those of `serve_rounds`.

    Args:
        directory: Directory of the server.
        invitation: Invitation of the run, in the clear tier.
        devices: Requests to the nodes of its grid.
        optimizer: Server optimiser, the same at each start.
        most_stale: Largest age in releases of the weights an update was trained from.
        rounds: Number of releases to stop after; None is the number of the plan.
        progress: Called after each release.
        polling: Interval and clock.

    Returns:
        Weights to use.

    Raises:
        SettingsError: The tier hides updates, or the run began with another optimizer.
        CheckpointError: The directory is in use, damaged, or of another run.
    """
    require(invitation.tier == "clear", "buffered training needs single updates, so tier clear")
    wanted = min(rounds or invitation.plan.rounds, invitation.plan.rounds)
    draw = np.random.default_rng(int.from_bytes(os.urandom(16), "big"))
    training = open_run(directory, invitation, optimizer)
    try:
        buffer, begun = BufferedTraining(training, most_stale=most_stale), polling.monotonic()
        warned = False
        while training.releases < wanted:
            _request(buffer, devices, invitation.plan.cohort, draw)
            idle = True
            for node, update, trained_from in devices.arrived():
                idle = False
                outcome = _accept(buffer, node, update, trained_from)
                if outcome is None:
                    continue
                seconds, begun = polling.monotonic() - begun, polling.monotonic()
                show_round(directory, invitation, outcome, seconds, progress)
                if outcome.releases >= wanted:
                    break
            if idle:
                if not (devices.waiting or warned):
                    _log.warning("waiting for devices: none that may take part is online")
                polling.sleep(polling.interval)
            warned = idle and not devices.waiting
        publish(directory, invitation, training)
        return training.model
    finally:
        training.close()


def _request(
    buffer: BufferedTraining, devices: FlowerStream, limit: int, draw: np.random.Generator
) -> None:
    """Ask random eligible devices to train, up to `limit` at a time."""
    weights, release = buffer.hand_out()
    eligible = buffer.able(devices.free(release))
    chosen = draw.permutation(len(eligible))[: max(0, limit - devices.waiting)]
    devices.hand_out([eligible[i] for i in chosen], weights, release)


def _accept(
    buffer: BufferedTraining, node: int, update: Vector, trained_from: int
) -> Outcome | None:
    try:
        return buffer.accept(node, update, trained_from)
    except BudgetError as refusal:
        _log.warning("an update was refused: %s", refusal)
        return None
