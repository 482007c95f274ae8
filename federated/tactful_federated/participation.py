"""Who took part and when: the bounds that a plan's noise was computed for, kept on disk."""

from __future__ import annotations

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
"""


_NEVER, _NO_ROUND = -(1 << 31), 1 << 31


class Participation:
    """A ledger of participations in one run, in an SQLite file that outlives kills and power cuts.

    A device is charged when it is asked, before anything is sent: so what is on disk is never less
    than what happened. A charge is never lifted, as the device's own ledger has it, too. But where
    the release did not come, the device may be asked for it again as soon as its own ledger allows,
    which counts in rounds.

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
        columns = [row[1] for row in self._file.execute("PRAGMA table_info(participation)")]
        for column in {"before", "round"}.difference(columns):  # a run that began earlier
            self._file.execute(f"ALTER TABLE participation ADD COLUMN {column} INTEGER")

    def eligible(
        self, devices: Iterable[int], release: int, round_number: int = _NO_ROUND
    ) -> list[int]:
        """Those of the devices that may take part in a release, in ascending order.

        Args:
            devices: To look among.
            release: Number of the release.
            round_number: In which they would be asked, where there are rounds.
        """
        free = self.free_from(devices, release, round_number)
        return sorted(device for device, first in free.items() if first <= round_number)

    def free_from(self, devices: Iterable[int], release: int, round_number: int) -> dict[int, int]:
        """For those that may take part in a release, the round from which they may be asked.

        It is 0 for those who may be asked in `round_number`.
        """
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
        known = {int(device): (barred, first) for device, barred, first in rows}
        looked_up = {device: known.get(device, (False, 0)) for device in devices}
        return {device: first for device, (barred, first) in looked_up.items() if not barred}

    def charge(self, devices: Sequence[int], release: int, round_number: int | None = None) -> None:
        """Charge devices for a release, all or none; on disk when this returns.

        Args:
            devices: To be asked.
            release: Number of the release.
            round_number: In which they are asked, where there are rounds.

        Raises:
            BudgetError: One of them may not take part.
        """
        at = () if round_number is None else (round_number,)
        if len(self.eligible(devices, release, *at)) < len(devices):
            raise BudgetError(
                f"a device may take part {self._times} times, {self._separation} releases apart:"
                " one of those to be asked has done so"
            )
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._file.executemany(
                "INSERT INTO participation (device, times, latest, round) VALUES (?, 1, ?, ?)"
                " ON CONFLICT (device) DO UPDATE SET times = times + 1, before = latest,"
                " latest = excluded.latest, round = excluded.round",
                # Numbers of 64 bits without a sign do not fit SQLite's integers.
                [(str(device), release, round_number) for device in devices],
            )
        except BaseException:
            self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def did_not_come(self, release: int) -> None:
        """Note that a release was tried and did not come: nobody took part in it.

        Only who knows that no update of that attempt can be released any more may call this.
        """
        # Where an earlier version kept no time before, the release before counts as it.
        self._file.execute(
            "UPDATE participation SET before = NULL, latest ="
            " iif(before IS NULL AND times > 1, latest - 1, ifnull(before, ?)) WHERE latest = ?",
            (_NEVER, release),
        )

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
