"""Training over a network without rounds: nobody is waited for, and late updates are still of use.

A round lasts as long as its slowest reports. Here devices are asked whenever there is room, each
trains from the newest weights, and whatever has come fills the next release (`buffered.py`).
Updates are read one by one: a secret sum has members that are fixed before it begins, so there is
no such run in secret.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tactful_federated.buffered import BufferedTraining
from tactful_federated.compression import Encoding
from tactful_federated.errors import BudgetError, missing_extra, require
from tactful_federated.flower import FlowerPopulation, update_of
from tactful_federated.invitation import Invitation
from tactful_federated.optimizer import Optimizer
from tactful_federated.private_rounds import Outcome
from tactful_federated.serving import LiveView, open_run, publish, show_round
from tactful_federated.tokens import Vocabulary
from tactful_federated.vectors import Vector

try:
    from flwr.app import MessageType
    from flwr.serverapp import Grid
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)


class FlowerStream:
    """The nodes of a Flower grid, asked one by one and never waited for.

    Args:
        grid: Of a run.
        vocabulary: Public vocabulary of the model.
        deadline: Seconds after which a request is given up.
        encoding: How devices are to send updates.
        clock: Seconds that never go back.
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
        """Nobody is asked yet."""
        self._grid, self._deadline, self._clock = grid, deadline, clock
        self._asking = FlowerPopulation(grid, vocabulary, timeout=deadline, encoding=encoding)
        self._open: dict[str, tuple[int, int, float]] = {}
        self._answered: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """Requests that are open."""
        return len(self._open)

    def free(self, release: int) -> list[int]:
        """Nodes that are online, not at work, and have not answered for this release before."""
        busy = {node for node, _, _ in self._open.values()}
        return [
            node
            for node in self._grid.get_node_ids()
            if node not in busy and self._answered.get(node) != release
        ]

    def hand_out(self, nodes: Sequence[int], weights: Vector, release: int) -> None:
        """Ask nodes to train from the weights of a release."""
        requests = self._asking.requests(MessageType.TRAIN, nodes, weights, release + 1)
        end = self._clock() + self._deadline
        numbers = self._grid.push_messages(requests)
        self._open |= {
            number: (node, release, end) for node, number in zip(nodes, numbers, strict=True)
        }

    def arrived(self) -> Iterator[tuple[int, Vector, int]]:
        """Node, update and release it was trained from, of those that have come since."""
        for reply in self._grid.pull_messages(list(self._open)):
            asked = self._open.pop(reply.metadata.reply_to_message_id, None)
            if asked is None:
                continue
            node, release, _ = asked
            self._answered[node] = release
            update = update_of(reply, release + 1)
            if update is not None:
                yield node, update, release
        now = self._clock()
        self._open = {number: of for number, of in self._open.items() if of[2] > now}


def serve_buffered(
    directory: Path,
    invitation: Invitation,
    devices: FlowerStream,
    *,
    optimizer: Optimizer | None = None,
    most_stale: int = 20,
    rounds: int | None = None,
    progress: Callable[[Outcome, LiveView], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    poll: float = 0.5,
) -> Vector:
    """Train until the plan is carried out; started again, it goes on, with an empty buffer.

    Up to `plan.cohort` devices are at work at a time. Otherwise as `serve_rounds`.

    Args:
        directory: Of the server.
        invitation: Of the run, in the clear.
        devices: Of its grid.
        optimizer: How the server steps; the same at every start.
        most_stale: Updates from weights that are more releases old are refused.
        rounds: Stop after so many releases in all; None is the plan's number.
        progress: Called after each release.
        clock: Seconds that never go back.
        sleep: Waits for seconds.
        poll: Seconds between two looks for updates.

    Returns:
        The weights to use.

    Raises:
        SettingsError: The tier hides updates, or the run began with another optimizer.
        CheckpointError: The directory is in use, damaged, or of another run.
    """
    require(invitation.tier == "clear", "a buffer reads updates one by one: the tier must be clear")
    plan, wanted = invitation.plan, min(rounds or invitation.plan.rounds, invitation.plan.rounds)
    draw = np.random.default_rng(int.from_bytes(os.urandom(16), "big"))
    training = open_run(directory, invitation, optimizer)
    try:
        buffer, begun = BufferedTraining(training, most_stale=most_stale), clock()
        told = False
        while training.releases < wanted:
            weights, release = buffer.hand_out()
            able = buffer.able(devices.free(release))
            chosen = draw.permutation(len(able))[: max(0, plan.cohort - devices.waiting)]
            devices.hand_out([able[i] for i in chosen], weights, release)
            found = False
            for node, update, trained_from in devices.arrived():
                found = True
                try:
                    outcome = buffer.accept(node, update, trained_from)
                except BudgetError as refused:
                    _log.warning("an update was not taken: %s", refused)
                    continue
                if outcome is None:
                    continue
                seconds, begun = clock() - begun, clock()
                show_round(directory, invitation, outcome, seconds, progress)
                if outcome.releases >= wanted:
                    break
            if not (found or devices.waiting or told):
                _log.warning("waiting: no device that may take part is online")
            told = not (found or devices.waiting)
            if not found:
                sleep(poll)
        publish(directory, invitation, training)
        return training.model
    finally:
        training.close()
