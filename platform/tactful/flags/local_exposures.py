"""Exposures of units that a client has evaluated, sent once and in batches."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from tactful.errors import ApiError
from tactful.flags.exposures import EXPOSURE
from tactful.schemas.ingestion import EventsAccepted
from tactful_bandits.flags import Evaluation

_REMEMBERED = 100_000
_MOST_WAITING = 10_000
_BATCH = 500

logger = logging.getLogger(__name__)

Send = Callable[[list[dict[str, Any]]], EventsAccepted]
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

    def put(self, result: Evaluation, unit: dict[str, Any], version: int, at: int) -> None:
        """Queue the exposure of an evaluation, if its arm was drawn.

        Args:
            result: the evaluation.
            unit: parts of the event that name the unit, and its consent; empty for none.
            version: version of the flags.
            at: time, epoch milliseconds.
        """
        experiment, arm = result.experiment, result.arm
        user, device = unit.get("user_id"), unit.get("device_id")
        if not (result.hash_used and (user or device) and experiment and arm):
            return
        # Another consent counts again: the server may have refused the exposure without it.
        key = (user, device, "context" in unit, experiment, arm)
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
            self._waiting.append({**event, **unit})
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
                answer = self._send(batch)
            except ApiError as error:
                if 400 <= error.status < 500 and error.status not in (408, 429):
                    self._remove(batch)
                raise
            self._remove(batch)
            if refused := answer.rejected:
                first = refused[0]
                logger.warning(
                    "flags: the server refused exposures, one of them for %s: %s",
                    first.code,
                    first.message,
                )

    def _remove(self, batch: list[dict[str, Any]]) -> None:
        gone = {id(event) for event in batch}
        with self._lock:
            self._waiting = [event for event in self._waiting if id(event) not in gone]
