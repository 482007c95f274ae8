"""The device's own account of where it took part: it refuses what its plan forbids."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tactful_federated.errors import SecureSumError
from tactful_federated.plan import TrainingPlan
from tactful_federated.secure_messages import Session

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (nonce BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, times INTEGER NOT NULL, latest INTEGER NOT NULL
) WITHOUT ROWID;
"""


class DeviceLedger:
    """Participations of this device, in an SQLite file that outlives kills and power cuts.

    A device need not believe a server that the bounds of a plan are kept: it takes part at most
    `plan.participations` times, never twice in a session, in ascending rounds, and at least
    `plan.separation` rounds apart. (The plan counts releases. There are never more of them than
    rounds, so what a server may ask is never refused; a server that counts void rounds as
    releases is caught only by the number of times.)

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        """Open the ledger, or make it."""
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(_SCHEMA)

    def times(self, run: str) -> int:
        """How often this device took part in a run."""
        row = self._file.execute("SELECT times FROM runs WHERE run = ?", (run,)).fetchone()
        return int(row[0]) if row else 0

    def claim_for(self, plan: TrainingPlan) -> Callable[[Session], None]:
        """What `SecureSumDevice` claims sessions with, under this plan."""
        return lambda session: self.claim(session, plan)

    def claim(self, session: Session, plan: TrainingPlan) -> None:
        """Charge one participation; on disk when this returns.

        Raises:
            SecureSumError: The session was joined before, or the plan does not allow it.
        """
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._charge(session, plan)
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _charge(self, session: Session, plan: TrainingPlan) -> None:
        try:
            self._file.execute("INSERT INTO sessions VALUES (?)", (session.nonce,))
        except sqlite3.IntegrityError as error:
            raise SecureSumError("this device has been in that session") from error
        row = self._file.execute(
            "SELECT times, latest FROM runs WHERE run = ?", (session.run,)
        ).fetchone()
        if row and row[0] >= plan.participations:
            raise SecureSumError(
                f"this device took part {row[0]} times, as often as its plan allows"
            )
        if row and session.round - row[1] < plan.separation:
            raise SecureSumError(
                f"rounds of one device are at least {plan.separation} apart in its plan"
            )
        self._file.execute(
            "INSERT INTO runs VALUES (?, 1, ?) ON CONFLICT (run)"
            " DO UPDATE SET times = times + 1, latest = excluded.latest",
            (session.run, session.round),
        )


@dataclass(frozen=True)
class Conditions:
    """What a device is doing; the platform fills it in."""

    idle: bool
    charging: bool
    unmetered: bool

    @property
    def allow_training(self) -> bool:
        """Training must not be felt: idle, on power, and on a network that costs nothing."""
        return self.idle and self.charging and self.unmetered
