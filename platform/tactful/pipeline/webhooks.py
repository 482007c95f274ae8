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
from tactful.util.clock import now_ms
from tactful_streaming.errors import LogError, StateError
from tactful_streaming.log.event_log import EventLog
from tactful_streaming.sinks.webhook import Delivery, DeliveryQueue, RetryPolicy, WebhookSender
from tactful_streaming.state.store import RocksState

logger = logging.getLogger(__name__)

_LOOK_S = 0.5


class Webhooks:
    """Delivers the actions of a log; one queue for each partition.

    A new queue begins at the end of its partition: earlier actions are not delivered.
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
    ) -> None:
        """Open the queues in `directory`; `start` starts the thread.

        Nothing is delivered for `suppressed` keys. `post` sends one request; by default over HTTP.

        Raises:
            ConfigError: if the secret is missing.
            StateError: if a queue is damaged.
        """
        signing = secret("actions.secret_env", settings.secret_env)
        if signing is None:
            signing = secret("actions.secret_file", "", settings.secret_file)
        self._types = frozenset(types)
        self._partitions = partitions
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tactful-webhooks", daemon=True)
        self._queues: list[DeliveryQueue] = []
        self._senders: list[WebhookSender] = []
        self._states: list[RocksState] = []
        # Successful deliveries since the start, failed attempts (repeated), deliveries given up.
        self.delivered = self.failed = self.buried = 0
        with ExitStack() as stack:
            for number, log in enumerate(partitions):
                state = RocksState(directory / str(number))
                stack.callback(state.close)
                is_new = next(iter(state.scan(b"")), None) is None
                queue = DeliveryQueue(state)
                if is_new:
                    queue.add([], log.end)
                self._queues.append(queue)
                self._states.append(state)
                sender = WebhookSender(
                    queue,
                    settings.webhook_url,
                    clock=clock,
                    secret=None if signing is None else signing.encode(),
                    policy=RetryPolicy(settings.attempts, timeout_s=settings.timeout_s),
                    post=post,
                    suppressed=suppressed,
                )
                self._senders.append(sender)
            self._opened = stack.pop_all()

    @property
    def positions(self) -> list[int]:
        """Next offset to read, by partition."""
        return [queue.position for queue in self._queues]

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def forget(self, matches: Callable[[Delivery], bool]) -> int:
        """Delete matching deliveries and return their number."""
        return sum(queue.remove(matches) for queue in self._queues)

    def purge(self) -> None:
        """Remove the bytes of deleted deliveries; it may be repeated after a StateError."""
        for state in self._states:
            state.purge()

    def close(self) -> None:
        """Finish the current delivery and close the queues."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._opened.close()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                busy = self._work()
            except (LogError, StateError) as error:
                logger.warning("webhooks wait: %s", error)
                busy = False
            except Exception:
                logger.exception("webhooks stop")
                return
            if not busy:
                self._stopping.wait(_LOOK_S)

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
