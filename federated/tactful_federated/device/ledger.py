"""Ledger of participations on the device; it enforces the bounds of the plan."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from tactful_federated.core.plan import TrainingPlan
from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.messages import Session

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (nonce BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, times INTEGER NOT NULL, latest INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sums (run TEXT NOT NULL, partners BLOB NOT NULL);
"""
_DIGEST = 16


class DeviceLedger:
    """Ledger of the participations of this device, in a durable SQLite file.

    The device does not depend on the server to keep the bounds of a plan: it takes part at most
    `plan.participations` times, never twice in a session, in ascending rounds, and at least
    `plan.separation` rounds apart. (The plan counts releases, which are at most as many as rounds,
    so allowed requests are never refused. If a server counts void rounds as releases, only the
    bound on the number of participations detects it.)

    A participation counts from the update on: `join` before a secure sum, `charge` when the masked
    update leaves the device; `claim` does both. The survivors of secure sums are stored as
    digests, so that two sums whose difference is that of a few devices are refused (`agree`).
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
        """Join a session and charge one participation, durably.

        Raises:
            SecureSumError: The session was joined before, or the plan does not allow it.
        """
        self._file.execute("BEGIN IMMEDIATE")
        with self._file:
            self._join(session, plan)
            self._charge(session, plan)

    def join(self, session: Session, plan: TrainingPlan) -> None:
        """Join a session, durably: this round and earlier ones are closed to this device.

        Raises:
            SecureSumError: The session was joined before, or the plan does not allow it.
        """
        self._file.execute("BEGIN IMMEDIATE")
        with self._file:
            self._join(session, plan)

    def charge(self, session: Session, plan: TrainingPlan) -> None:
        """Charge one participation for a joined session, durably.

        Raises:
            SecureSumError: The plan does not allow it.
        """
        self._file.execute("BEGIN IMMEDIATE")
        with self._file:
            self._charge(session, plan)

    def agree(self, session: Session, partners: Iterable[bytes], fewest: int) -> None:
        """Store the identities of the other devices in a sum, durably.

        Raises:
            SecureSumError: This sum and an earlier one of this run differ in some devices, but in
                fewer than `fewest`; 0 allows any and stores nothing.
        """
        if not fewest:
            return
        digests = {hashlib.sha256(identity).digest()[:_DIGEST] for identity in partners}
        self._file.execute("BEGIN IMMEDIATE")
        with self._file:
            sums = self._file.execute("SELECT partners FROM sums WHERE run = ?", (session.run,))
            for (stored,) in sums:
                earlier = {stored[i : i + _DIGEST] for i in range(0, len(stored), _DIGEST)}
                if 0 < (count := len(digests ^ earlier)) < fewest:
                    raise SecureSumError(
                        f"this sum and an earlier one of this device differ in {count} devices,"
                        f" and {fewest} are needed: their difference would show too much"
                    )
            members = b"".join(sorted(digests))
            self._file.execute("INSERT INTO sums VALUES (?, ?)", (session.run, members))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _join(self, session: Session, plan: TrainingPlan) -> None:
        try:
            self._file.execute("INSERT INTO sessions VALUES (?)", (session.nonce,))
        except sqlite3.IntegrityError as error:
            raise SecureSumError("this device took part in that session before") from error
        self._check_times(session, plan)
        row = self._file.execute("SELECT latest FROM runs WHERE run = ?", (session.run,)).fetchone()
        if row and session.round - row[0] < plan.separation:
            raise SecureSumError(
                f"rounds of a device must be at least {plan.separation} apart by its plan"
            )
        self._file.execute(
            "INSERT INTO runs VALUES (?, 0, ?) ON CONFLICT (run)"
            " DO UPDATE SET latest = excluded.latest",
            (session.run, session.round),
        )

    def _charge(self, session: Session, plan: TrainingPlan) -> None:
        self._check_times(session, plan)
        self._file.execute("UPDATE runs SET times = times + 1 WHERE run = ?", (session.run,))

    def _check_times(self, session: Session, plan: TrainingPlan) -> None:
        if (times := self.times(session.run)) >= plan.participations:
            raise SecureSumError(f"this device took part {times} times, the maximum of its plan")
