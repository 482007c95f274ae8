"""Messages on their way to sinks: stored before they are sent, retried until they arrive.

A message arrives at least once; its key is the same at each attempt. Quiet hours keep it waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tactful.alerts.sinks import AlertMessage, send
from tactful.metadata.lease import Lease
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import alert_messages
from tactful.schemas.alert_routes import AlertRoute, Sink

logger = logging.getLogger(__name__)

_FIRST_MS = 5_000
_LONGEST_MS = 600_000
_AT_ONCE = 20
_MONTH_MS = 31 * 86_400_000

_table = alert_messages.c
Send = Callable[..., str]


def enqueue(connection: sa.Connection, route: AlertRoute, message: AlertMessage, now: int) -> None:
    """Store a message for each sink of a route."""
    body = msgspec.json.encode(message).decode()
    for name in route.sink_names():
        row = {"alert": message.id, "sink": name, "body": body, "state": "waiting"}
        times = {"attempts": 0, "due_at": now, "problem": ""}
        connection.execute(sa.insert(alert_messages).values(**row, **times))


def withdraw(connection: sa.Connection, alert: int, route: AlertRoute) -> bool:
    """Delete messages that were never tried; return whether there were any for all sinks."""
    names = route.sink_names()
    statement = sa.delete(alert_messages).where(
        _table.alert == alert,
        _table.sink.in_(names),
        _table.state == "waiting",
        _table.attempts == 0,
    )
    return connection.execute(statement).rowcount >= len(names)


class Outbox:
    """Sends stored messages."""

    def __init__(
        self, metadata: MetadataStore, *, send: Send = send, lease: Lease | None = None
    ) -> None:
        """Send the messages in a metadata store, with a lease only while it is held."""
        self._metadata = metadata
        self._lease = lease
        self._write = metadata.change if lease is None else lease.write
        self._send = send
        self._failing: set[str] = set()

    @property
    def failing(self) -> int:
        """Number of sinks whose last attempt failed."""
        return len(self._failing)

    def deliver(self, routes: Sequence[AlertRoute], now: int) -> int:
        """Try messages that are due; return how many arrived.

        Raises:
            LeaseLost: if another server sends them now; what it has not sent, it sends.
        """
        query = (
            sa.select(alert_messages)
            .where(_table.state == "waiting", _table.due_at <= now)
            .order_by(_table.due_at, _table.id)
        )
        sinks = {
            name: (route, sink)
            for route in routes
            for name, sink in zip(route.sink_names(), route.sinks, strict=True)
        }
        arrived = tried = 0
        for row in self._metadata.fetch(query.limit(500)):
            if self._lease is not None and not self._lease.held:
                break
            message = msgspec.json.decode(row.body, type=AlertMessage)
            if row.sink not in sinks:
                self._update(row, state="dead", problem="the route or sink was removed")
                continue
            route, sink = sinks[row.sink]
            if route.quiet is not None and route.quiet.holds(message.severity, now):
                continue
            arrived += self._try(row, sink, message, now)
            tried += 1
            if tried >= _AT_ONCE:
                break
        return arrived

    def _try(self, row: sa.Row[Any], sink: Sink, message: AlertMessage, now: int) -> bool:
        problem = self._send(sink, row.sink, message, key=f"alert-{row.id}-{message.id}")
        if not problem:
            self._failing.discard(row.sink)
            self._update(row, state="sent", problem="", attempts=row.attempts + 1)
            return True
        self._failing.add(row.sink)
        attempts = row.attempts + 1
        state = "dead" if attempts >= sink.attempts else "waiting"
        pause = min(_FIRST_MS * 2 ** min(row.attempts, 20), _LONGEST_MS)
        self._update(row, state=state, problem=problem, attempts=attempts, due_at=now + pause)
        logger.warning("alert %s: %s: %s", message.id, row.sink, problem)
        return False

    def prune(self, now: int) -> None:
        """Delete messages that arrived or were given up a month ago."""
        old = sa.delete(alert_messages).where(
            _table.state != "waiting", _table.due_at < now - _MONTH_MS
        )
        self._metadata.change(lambda connection: connection.execute(old))

    def _update(self, row: sa.Row[Any], **values: Any) -> None:
        statement = sa.update(alert_messages).where(_table.id == row.id).values(**values)
        self._write(lambda connection: connection.execute(statement))
