"""Who took part and when: the bounds that a plan's noise was computed for, kept on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from tactful_federated.errors import BudgetError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS participation (
    device TEXT PRIMARY KEY, times INTEGER NOT NULL, latest INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS released (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER);
"""


class Participation:
    """A ledger of participations in one run, in an SQLite file that outlives kills and power cuts.

    A device is charged when it is asked, before anything is sent, and stays charged whatever
    becomes of the round: so what is on disk is never less than what happened.

    Args:
        path: Of the file.
        times: Releases that one device takes part in, at most.
        separation: Releases from one participation of a device to its next, at least.
    """

    def __init__(self, path: Path, *, times: int, separation: int) -> None:
        """Open the ledger, or make it."""
        self._times, self._separation = times, separation
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(_SCHEMA)

    def eligible(self, devices: Iterable[int], release: int) -> list[int]:
        """Those of the devices that may take part in a release, in ascending order."""
        barred = {
            int(device)
            for (device,) in self._file.execute(
                "SELECT device FROM participation WHERE times >= ? OR ? - latest < ?",
                (self._times, release, self._separation),
            )
        }
        return sorted(set(devices) - barred)

    def charge(self, devices: Sequence[int], release: int) -> None:
        """Charge devices for a release, all or none; on disk when this returns.

        Raises:
            BudgetError: One of them may not take part.
        """
        if len(self.eligible(devices, release)) < len(devices):
            raise BudgetError(
                f"a device may take part {self._times} times, {self._separation} releases apart:"
                " one of those to be asked has done so"
            )
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._file.executemany(
                "INSERT INTO participation VALUES (?, 1, ?) ON CONFLICT (device)"
                " DO UPDATE SET times = times + 1, latest = excluded.latest",
                # Numbers of 64 bits without a sign do not fit SQLite's integers.
                [(str(device), release) for device in devices],
            )
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    @property
    def released(self) -> int:
        """Releases that were recorded."""
        row = self._file.execute("SELECT count FROM released").fetchone()
        return int(row[0]) if row else 0

    def record_release(self, count: int) -> None:
        """Record how many releases there have been; on disk when this returns."""
        self._file.execute("INSERT OR REPLACE INTO released VALUES (1, ?)", (count,))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
