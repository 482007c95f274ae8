"""Delivery of the log's actions to a webhook, in a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Container, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tactful.config.server import ActionSettings
from tactful.config.settings import secret
from tactful.errors import StorageError
from tactful.metadata.lease import LeaseLost
from tactful.pipeline.shared_deliveries import SharedDeliveries, Sharing
from tactful.util.clock import now_ms
from tactful_streaming.errors import LogError, StateError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.sinks.webhook import (
    Deliveries,
    Delivery,
    DeliveryQueue,
    RetryPolicy,
    WebhookSender,
)
from tactful_streaming.state.store import RocksState

logger = logging.getLogger(__name__)

_LOOK_S = 0.5


class Webhooks:
    """Delivers the actions of a log; one queue for each partition.

    A new queue begins at the end of its partition: earlier actions are not delivered. Shared
    queues are in the metadata, and this server delivers while it holds the lease; others are files
    of its own.
    """

    def __init__(
        self,
        settings: ActionSettings,
        partitions: Sequence[EventLog],
        types: Collection[str],
        directory: Path,
        *,
        clock: Callable[[], int] = now_ms,
        post: Any = None,
        suppressed: Container[str] = frozenset(),
        sharing: Sharing | None = None,
    ) -> None:
        """Open the queues in `directory`; `start` starts the thread.

        Nothing is delivered for `suppressed` keys. `post` sends one request; by default over HTTP.
        None for `sharing`: no other server delivers the actions of this log.

        Raises:
            ConfigError: if the secret is missing.
            StateError: if a queue is damaged.
        """
        signing = secret("actions.secret_env", settings.secret_env)
        if signing is None:
            signing = secret("actions.secret_file", "", settings.secret_file)
        self._settings = settings
        self._signing = None if signing is None else signing.encode()
        self._clock, self._post, self._suppressed = clock, post, suppressed
        self._types = frozenset(types)
        self._partitions = partitions
        self._sharing = sharing
        self._fence: int | None = None  # of the lease under which the queues were opened
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tactful-webhooks", daemon=True)
        self._queues: list[DeliveryQueue] | list[SharedDeliveries] = []
        self._senders: list[WebhookSender] = []
        self._states: list[RocksState] = []
        # Successful deliveries since the start, failed attempts (repeated), deliveries given up.
        self.delivered = self.failed = self.buried = 0
        with ExitStack() as stack:
            if sharing is None:
                self._queues = [
                    self._open(directory / str(number), log, stack)
                    for number, log in enumerate(partitions)
                ]
                self._senders = [self._sender(queue) for queue in self._queues]
            self._opened = stack.pop_all()

    def _open(self, path: Path, log: EventLog, stack: ExitStack) -> DeliveryQueue:
        state = RocksState(path)
        stack.callback(state.close)
        is_new = next(iter(state.scan(b"")), None) is None
        queue = DeliveryQueue(state)
        if is_new:
            queue.add([], log.end)
        self._states.append(state)
        return queue

    def _sender(self, queue: Deliveries) -> WebhookSender:
        lease = None if self._sharing is None else self._sharing.lease
        return WebhookSender(
            queue,
            self._settings.webhook_url,
            clock=self._clock,
            secret=self._signing,
            policy=RetryPolicy(self._settings.attempts, timeout_s=self._settings.timeout_s),
            post=self._post,
            suppressed=self._suppressed,
            may_send=lambda: not self._stopping.is_set() and (lease is None or lease.held),
        )

    @property
    def positions(self) -> list[int]:
        """Next offset to read, by partition; empty while another server delivers."""
        return [queue.position for queue in self._queues]

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def forget(self, matches: Callable[[Delivery], bool]) -> int:
        """Delete matching deliveries and return their number."""
        return sum(queue.remove(matches) for queue in [*self._queues])

    def purge(self) -> None:
        """Remove the bytes of deleted deliveries; it may be repeated after a StateError."""
        for state in self._states:
            state.purge()

    def close(self) -> None:
        """Finish the current delivery and close the queues."""
        self.stop()
        self._opened.close()

    def stop(self) -> None:
        """Finish the current delivery, and begin no other."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                busy = self._may_work() and self._work()
            except LeaseLost as error:
                logger.warning("webhooks: %s", error)
                self._fence, busy = None, False
            except (LogError, StateError, StorageError) as error:
                logger.warning("webhooks wait: %s", error)
                busy = False
            except Exception:
                logger.exception("webhooks stop")
                return
            if not busy:
                self._stopping.wait(_LOOK_S)

    def _may_work(self) -> bool:
        """Open the queues anew under a new lease; return whether this server delivers."""
        if self._sharing is None:
            return True
        fence = self._sharing.lease.fence
        if fence is None or fence != self._fence:
            self._fence, self._queues, self._senders = None, [], []
        if fence is not None and self._fence is None:
            queues = [
                SharedDeliveries(self._sharing, number, log, clock=self._clock)
                for number, log in enumerate(self._partitions)
            ]
            self._senders = [self._sender(queue) for queue in queues]
            self._fence, self._queues = fence, queues
        return self._fence is not None

    def _work(self) -> bool:
        """Queue new actions and send due ones; return whether more may be waiting."""
        busy = False
        for log, sender in zip(self._partitions, self._senders, strict=True):
            busy |= sender.collect(log, self._types) > 0
            sent = sender.send_due()
            self.delivered += sent.delivered
            self.failed += sent.failed
            self.buried += sent.dead
            busy |= sent.delivered > 0
        return busy
