"""Ledger of participations on the server; it enforces the bounds of a plan."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from tactful_federated.errors import BudgetError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS participation (
    device TEXT PRIMARY KEY, times INTEGER NOT NULL, latest INTEGER NOT NULL, before INTEGER,
    round INTEGER
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS released (one INTEGER PRIMARY KEY CHECK (one = 1), count INTEGER);
CREATE TABLE IF NOT EXISTS run (one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL);
"""


_NEVER, _NO_ROUND = -(1 << 31), 1 << 31
# Files of an earlier version have no `before`: the previous release stands in.
_UNDONE = (
    f"before = NULL, latest = iif(before IS NULL AND times > 1, latest - 1,"
    f" ifnull(before, {_NEVER})) WHERE latest = ?"
)


class Participation:
    """Ledger of participations in one run, in a durable SQLite file.

    A device is charged before it is asked, so the ledger never counts too little, also after a kill
    or a power cut. A charge is removed only if the device was not asked for its update (`refund`),
    because otherwise the ledger of the device has it as well. If the release fails, the device may
    be asked for it again once its own ledger allows it, which counts in rounds. Rows, for a device
    charged for releases 3 and 9:

        device  times  latest  before  round
        "17"    2      9       3       11
    """

    def __init__(self, path: Path, *, times: int, separation: int) -> None:
        """Open or create the ledger.

        A device takes part in at most `times` releases, at least `separation` releases apart.
        """
        self._times, self._separation = times, separation
        self._file = sqlite3.connect(path, isolation_level=None)
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(_SCHEMA)
        columns = [row[1] for row in self._file.execute("PRAGMA table_info(participation)")]
        for column in {"before", "round"}.difference(columns):  # a file of an earlier version
            self._file.execute(f"ALTER TABLE participation ADD COLUMN {column} INTEGER")

    def eligible(
        self, devices: Iterable[int], release: int, round_number: int = _NO_ROUND
    ) -> list[int]:
        """Return the devices that may take part in a release, and be asked in a round, sorted."""
        first_rounds = self.free_from(devices, release, round_number)
        return sorted(device for device, first in first_rounds.items() if first <= round_number)

    def free_from(self, devices: Iterable[int], release: int, round_number: int) -> dict[int, int]:
        """Map each device that may take part in a release to the first round to ask it in.

        The first round is 0 for devices that may be asked in `round_number`.
        """
        # Only devices with a restriction; all others are free at once.
        rows = self._file.execute(
            "SELECT device, times >= :times OR :release - latest < :apart AS barred, round + :apart"
            " FROM participation WHERE barred OR round + :apart > :round",
            {
                "times": self._times,
                "apart": self._separation,
                "release": release,
                "round": round_number,
            },
        )
        restricted = {int(device): (barred, first) for device, barred, first in rows}
        restrictions = {device: restricted.get(device, (False, 0)) for device in devices}
        return {device: first for device, (barred, first) in restrictions.items() if not barred}

    def charge(self, devices: Sequence[int], release: int, round_number: int | None = None) -> None:
        """Charge devices for a release, durably, all or none, before they are asked in a round.

        Raises:
            BudgetError: A device may not take part.
        """
        round_arguments = () if round_number is None else (round_number,)
        if len(self.eligible(devices, release, *round_arguments)) < len(devices):
            raise BudgetError(
                f"a device may take part {self._times} times, {self._separation} releases apart:"
                " at least one of the devices to be asked has reached this bound"
            )
        self._file.execute("BEGIN IMMEDIATE")
        with self._file:
            self._file.executemany(
                "INSERT INTO participation (device, times, latest, round) VALUES (?, 1, ?, ?)"
                " ON CONFLICT (device) DO UPDATE SET times = times + 1, before = latest,"
                " latest = excluded.latest, round = excluded.round",
                # Text, since unsigned 64-bit numbers do not fit the integers of SQLite.
                [(str(device), release, round_number) for device in devices],
            )

    def did_not_come(self, release: int) -> None:
        """Record that an attempt at a release failed, so that nobody took part in it.

        The caller must ensure that no update of that attempt can still be released.
        """
        self._file.execute(f"UPDATE participation SET {_UNDONE}", (release,))

    def refund(self, devices: Iterable[int], release: int) -> None:
        """Remove the charge of devices for a release for which they were asked no update."""
        self._file.execute("BEGIN IMMEDIATE")
        with self._file:
            self._file.executemany(
                f"UPDATE participation SET times = times - 1, {_UNDONE} AND device = ?",
                [(release, str(device)) for device in devices],
            )

    def name(self) -> tuple[str, bool]:
        """Return the random name of this ledger, and whether it was drawn just now."""
        drawn = self._file.execute(
            "INSERT OR IGNORE INTO run VALUES (1, ?)", (os.urandom(16).hex(),)
        ).rowcount
        return self._file.execute("SELECT name FROM run").fetchone()[0], bool(drawn)

    @property
    def released(self) -> int:
        """Number of releases recorded."""
        row = self._file.execute("SELECT count FROM released").fetchone()
        return int(row[0]) if row else 0

    def record_release(self, count: int) -> None:
        """Record the number of releases, durably."""
        self._file.execute("INSERT OR REPLACE INTO released VALUES (1, ?)", (count,))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
