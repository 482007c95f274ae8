"""Asynchronous training over a network: no rounds, and late updates count.

A round takes as long as its slowest report. Here a device is asked whenever the limit allows it,
trains from the newest weights, and its update enters the next release (Nguyen et al., "Federated
learning with buffered asynchronous aggregation", AISTATS 2022: FedBuff). Updates are read one by
one; secret sums are not possible, since their members are fixed beforehand.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from tactful_federated.core.compression import Encoding
from tactful_federated.core.invitation import Invitation
from tactful_federated.core.polling import Polling
from tactful_federated.core.private_training import Outcome, PrivateTraining
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.errors import BudgetError, WeightsError, extra, require
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector, check_vector, clip_to_norm
from tactful_federated.serving.rounds import LiveView, open_run, publish, show_round
from tactful_federated.transport.flower_clear import FlowerPopulation, update_of

with extra():
    from flwr.app import MessageType
    from flwr.serverapp import Grid

_log = logging.getLogger(__name__)

_POLLING = Polling(interval=0.5)


class BufferedTraining:
    """Buffer of updates that makes a release for every `plan.report_goal` of them.

    Guarantee: that of its `PrivateTraining`. A participation counts for the release that contains
    the update, regardless of the age of the weights it was trained from; updates of a device that
    come too early or too often are refused. A device is charged on disk before its update is added,
    so a kill loses the buffer but no budget. Weighting old updates only shortens them.
    """

    def __init__(self, training: PrivateTraining, *, most_stale: int = 20) -> None:
        """Create an empty buffer of a run, which must not run rounds at the same time.

        `most_stale` is the largest age in releases of the weights an update was trained from.
        """
        require(most_stale >= 0, f"most_stale is {most_stale}: give 0 or more")
        self._training, self._most_stale = training, most_stale
        self._clear()

    def hand_out(self) -> tuple[Vector, int]:
        """Return the weights to train from, and the number of their release."""
        return self._training.weights, self._training.releases

    def able(self, devices: Sequence[int]) -> list[int]:
        """Return the devices whose updates would be accepted now."""
        ledger, release = self._training.ledger, self._training.releases
        if not self._count:  # a buffer lost by a kill is never released
            ledger.did_not_come(release)
        return ledger.eligible(devices, release)

    def accept(self, device: int, update: Vector, trained_from: int) -> Outcome | None:
        """Add one update; return the outcome of the release if the buffer is full.

        An update has the weight ``1 / sqrt(1 + age in releases)``, with the age since the release
        `trained_from`. One that is not finite or has the wrong shape counts as zeros.

        Raises:
            BudgetError: The device may not take part now, the update is too old, or all releases
                are spent. The device is not charged.
        """
        self._training.check_budget()
        stale = self._training.releases - trained_from
        if not 0 <= stale <= self._most_stale:
            raise BudgetError(f"an update is {stale} releases old; {self._most_stale} are allowed")
        self._training.ledger.charge([device], self._training.releases)
        plan = self._training.plan
        self._count += 1
        try:
            bounded = clip_to_norm(check_vector(update, plan.parameters), plan.update_norm)
            weighted = (bounded / np.float32(np.sqrt(1 + stale))).astype(np.float32)
            self._total += plan.grid.encode(weighted)
        except WeightsError:
            pass  # counts as zeros: the content must not decide whether there is a release
        if self._count < plan.report_goal:
            return None
        total = self._total
        self._clear()
        return self._training.release(total)

    def _clear(self) -> None:
        self._count = 0
        self._total = np.zeros(self._training.plan.parameters, dtype=np.int64)


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
    with closing(open_run(directory, invitation, optimizer)) as training:
        buffer, begun = BufferedTraining(training, most_stale=most_stale), polling.monotonic()
        warned = False
        while training.releases < wanted:
            _request(buffer, devices, invitation.plan.cohort, draw)
            idle = True
            for node, update, trained_from in devices.arrived():
                idle = False
                try:
                    outcome = buffer.accept(node, update, trained_from)
                except BudgetError as refusal:
                    _log.warning("an update was refused: %s", refusal)
                    continue
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


def _request(
    buffer: BufferedTraining, devices: FlowerStream, limit: int, draw: np.random.Generator
) -> None:
    """Ask random eligible devices to train, up to `limit` at a time."""
    weights, release = buffer.hand_out()
    eligible = buffer.able(devices.free(release))
    chosen = draw.permutation(len(eligible))[: max(0, limit - devices.waiting)]
    devices.hand_out([eligible[i] for i in chosen], weights, release)
