"""Ledger of participations on the device; it enforces the bounds of the plan."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.messages import Session

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (nonce BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, times INTEGER NOT NULL, latest INTEGER NOT NULL
) WITHOUT ROWID;
"""


class DeviceLedger:
    """Ledger of the participations of this device, in a durable SQLite file.

    The device does not depend on the server to keep the bounds of a plan: it takes part at most
    `plan.participations` times, never twice in a session, in ascending rounds, and at least
    `plan.separation` rounds apart. (The plan counts releases, which are at most as many as rounds,
    so allowed requests are never refused. If a server counts void rounds as releases, only the
    bound on the number of participations detects it.)
    """

    def __init__(self, path: Path) -> None:
        """Open or create the ledger."""
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(_SCHEMA)

    def times(self, run: str) -> int:
        """Return the number of participations of this device in a run."""
        row = self._file.execute("SELECT times FROM runs WHERE run = ?", (run,)).fetchone()
        return int(row[0]) if row else 0

    def claim(self, session: Session, plan: TrainingPlan) -> None:
        """Charge one participation, durably.

        Raises:
            SecureSumError: The session was joined before, or the plan does not allow it.
        """
        self._file.execute("BEGIN IMMEDIATE")
        with self._file:
            self._charge(session, plan)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _charge(self, session: Session, plan: TrainingPlan) -> None:
        try:
            self._file.execute("INSERT INTO sessions VALUES (?)", (session.nonce,))
        except sqlite3.IntegrityError as error:
            raise SecureSumError("this device took part in that session before") from error
        row = self._file.execute(
            "SELECT times, latest FROM runs WHERE run = ?", (session.run,)
        ).fetchone()
        if row and row[0] >= plan.participations:
            raise SecureSumError(f"this device took part {row[0]} times, the maximum of its plan")
        if row and session.round - row[1] < plan.separation:
            raise SecureSumError(
                f"rounds of a device must be at least {plan.separation} apart by its plan"
            )
        self._file.execute(
            "INSERT INTO runs VALUES (?, 1, ?) ON CONFLICT (run)"
            " DO UPDATE SET times = times + 1, latest = excluded.latest",
            (session.run, session.round),
        )
