"""Exposures of units that a client has evaluated, sent once and in batches."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tactful.errors import ApiError
from tactful.flags.exposures import EXPOSURE
from tactful_bandits.flags import Evaluation

_REMEMBERED = 100_000
_MOST_WAITING = 10_000
_BATCH = 500

Send = Callable[[list[dict[str, Any]]], object]
"""Sends events; raises a ClientError if that failed."""


class ExposureQueue:
    """Exposures that wait to be sent, in memory; safe to share by threads.

    An exposure is queued once for each unit, experiment and arm among the latest 100,000. At most
    10,000 wait; the oldest are dropped beyond this.
    """

    def __init__(self, send: Send) -> None:
        """Use a function that sends events."""
        self._send = send
        self._lock = threading.Lock()
        self._sent: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._waiting: list[dict[str, Any]] = []

    def put(self, result: Evaluation, identity: dict[str, str], version: int, at: int) -> None:
        """Queue the exposure of an evaluation, if its arm was drawn.

        Args:
            result: the evaluation.
            identity: `user_id` or `device_id` of the unit; empty for none.
            version: version of the flags.
            at: time, epoch milliseconds.
        """
        experiment, arm = result.experiment, result.arm
        if not (result.hash_used and identity and experiment and arm):
            return
        key = (*sorted(identity.items()), experiment, arm)
        said = {"experiment": experiment, "arm": arm, "flag": result.flag, "version": version}
        # With an id of its own it counts once, although an answer may be lost.
        event_id = secrets.token_hex(16)
        event = {"event_id": event_id, "type": EXPOSURE, "timestamp": at, "properties": said}
        with self._lock:
            if key in self._sent:
                return
            self._sent[key] = None
            if len(self._sent) > _REMEMBERED:
                self._sent.popitem(last=False)
            self._waiting.append({**event, **identity})
            if len(self._waiting) > _MOST_WAITING:
                del self._waiting[0]

    def flush(self) -> None:
        """Send the waiting exposures.

        Raises:
            ClientError: they cannot be sent now. They wait, unless the server has refused them.
        """
        while True:
            with self._lock:
                batch = self._waiting[:_BATCH]
            if not batch:
                return
            try:
                self._send(batch)
            except ApiError as error:
                if 400 <= error.status < 500 and error.status not in (408, 429):
                    self._remove(batch)
                raise
            self._remove(batch)

    def _remove(self, batch: list[dict[str, Any]]) -> None:
        gone = {id(event) for event in batch}
        with self._lock:
            self._waiting = [event for event in self._waiting if id(event) not in gone]
