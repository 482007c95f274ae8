"""Audit log of trainings, promotions and rollbacks: author, time and reason.

An entry is written before anything changes and closed afterwards, so a process that is killed in
between leaves an entry in the state `begun`, with its author: something may have changed.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from tactful.config.settings import Settings
from tactful.experiments.store import refuse_while_rolled_out
from tactful.metadata.connections import open_installation
from tactful.metadata.lease import check_fence
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import model_changes
from tactful.util.clock import now_ms

Action = Literal["train", "promote", "rollback"]
State = Literal["begun", "done", "failed"]

FENCE = "TACTFUL_LEASE_FENCE"
"""Variable with the fence of the lease of the server that started this process."""

_ERROR_LENGTH = 2_000


@dataclass(frozen=True)
class ModelChange:
    """An entry of the audit log; fields are in the order of the table."""

    id: int  # grows with every entry
    action: Action
    name: str  # registered model name
    # the version that was trained, or that serves from then on; empty until it has one
    version: str
    previous: str  # the version that served before; empty for none
    changed_by: str  # author: the login and host of a command, or a part of the server
    reason: str  # in the author's words
    state: State  # `begun` also after its process was killed
    begun_at: int  # epoch milliseconds
    ended_at: int | None = None  # epoch milliseconds; None in the state `begun`
    error: str | None = None  # reason of the failure


class ModelLog:
    """The entries of one installation, in its metadata; only their end is ever changed."""

    def __init__(
        self, metadata: MetadataStore, *, clock: Callable[[], int], fence: int | None = None
    ) -> None:
        """Use a metadata store and a clock, epoch milliseconds.

        With a fence, entries are refused once the lease of the server has changed hands.
        """
        self._metadata = metadata
        self._clock = clock
        self._fence = fence

    @contextlib.contextmanager
    def entry(
        self,
        action: Action,
        name: str,
        *,
        by: str,  # author
        reason: str,
        version: str = "",  # of the entry, where it is known before
        previous: str = "",  # the version that serves before it
    ) -> Iterator[Callable[[str], None]]:
        """Write an entry, and close it when the context ends, as done or as failed.

        It yields a function that sets the version, where it was not known before.

        Raises:
            ModelError: if a rollout compares the champion with another model.
            StorageError: if the entry cannot be written; nothing should be done then. LeaseLost is
                one: another server goes on.
        """

        def begin(connection: sa.Connection) -> Any:
            if self._fence is not None:
                check_fence(connection, self._fence)
            if action != "train":
                refuse_while_rolled_out(connection)
            row = sa.insert(model_changes).values(
                action=action,
                name=name,
                version=version,
                previous=previous,
                changed_by=by,
                reason=reason,
                state="begun",
                begun_at=self._clock(),
            )
            return connection.execute(row).inserted_primary_key

        number = self._metadata.change(begin)
        versions = [version]
        try:
            yield versions.append
        except Exception as error:
            self._close(number, state="failed", error=str(error)[:_ERROR_LENGTH])
            raise
        self._close(number, state="done", version=versions[-1])

    def changes(self, *, limit: int = 100, before: int | None = None) -> list[ModelChange]:
        """Return entries with a smaller id than `before`, newest first."""
        query = sa.select(model_changes).order_by(model_changes.c.id.desc()).limit(limit)
        if before is not None:
            query = query.where(model_changes.c.id < before)
        return [ModelChange(*list(row)) for row in self._metadata.fetch(query)]

    def forget(self, before: int) -> None:
        """Delete entries that ended before a time (epoch ms), but the last of each kind."""
        newest = sa.select(sa.func.max(model_changes.c.id)).group_by(
            model_changes.c.action, model_changes.c.name
        )

        def delete(connection: sa.Connection) -> None:
            kept = [row[0] for row in connection.execute(newest)]
            old = sa.and_(model_changes.c.ended_at < before, model_changes.c.id.not_in(kept))
            connection.execute(sa.delete(model_changes).where(old))

        self._metadata.change(delete)

    def latest(self, action: Action, name: str) -> ModelChange | None:
        """Return the last entry of an action on a model, in any state."""
        query = (
            sa.select(model_changes)
            .where(model_changes.c.action == action, model_changes.c.name == name)
            .order_by(model_changes.c.id.desc())
            .limit(1)
        )
        return next((ModelChange(*list(row)) for row in self._metadata.fetch(query)), None)

    def _close(self, number: Any, **values: str) -> None:
        statement = (
            sa.update(model_changes)
            .where(model_changes.c.id == number[0])
            .values(ended_at=self._clock(), **values)
        )
        self._metadata.change(lambda connection: connection.execute(statement))


@contextlib.contextmanager
def open_model_log(settings: Settings) -> Iterator[ModelLog]:
    """Open the audit log of models while the context lasts.

    Raises:
        StorageError: if the metadata cannot be used.
    """
    with contextlib.closing(open_installation(settings, create=True)) as metadata:
        fence = os.environ.get(FENCE, "")
        yield ModelLog(metadata, clock=now_ms, fence=int(fence) if fence.isdecimal() else None)


def login_and_host() -> str:
    """Return login and host of this process, for `ModelLog.entry`."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        login = "unknown"
    return f"{login}@{socket.gethostname()}"
