"""A day of the server's own metrics in one file of at most 20 MB: a point each ten seconds.

One row of SQLite is one point: the numbers of all series, as 32-bit floats in the order of their
ids; a number that is absent is NaN::

    series  id 0: tactful_engine_lag             points  at 1772366400000: [12.0, 0.004, …]
            id 1: tactful_freshness_seconds{…}           at 1772366410000: [ 3.0, 0.005, …]

A commit is whole or absent after a kill. A file that cannot be read is replaced by an empty one:
it is a convenience, and no reason for a server not to start.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tactful.errors import StorageError
from tactful.metrics.readings import Reading, family_of

logger = logging.getLogger(__name__)

STEP_S = 10
KEPT_S = 86_400
MOST_SERIES = 500
"""With more, a day of points would not fit into `MOST_BYTES`."""

MOST_BYTES = 20_000_000
FILE = "metrics.db"

_PAGE = 16_384
_SCHEMA = """
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL, exact INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS points (at INTEGER PRIMARY KEY, numbers BLOB NOT NULL);
"""


@dataclass(frozen=True)
class Series:
    """Numbers of one series, one by step; NaN where nothing was measured.

    Attributes:
        name: as `tactful.metrics.readings` names it.
        exact: whether only administrators may see it.
        means: mean of each step.
        highest: highest number of each step.
    """

    name: str
    exact: bool
    means: Sequence[float]
    highest: Sequence[float]


class MetricHistory:
    """The points of the last day, for one process; its methods may be called in any thread.

    Attributes:
        latest: the newest reading; None before the first one.
    """

    def __init__(self, path: Path) -> None:
        """Open the file or create it; raise StorageError if neither can be done."""
        self._path = path
        self._lock = threading.Lock()
        self._full = False
        self.latest: Reading | None = None
        try:
            self._connection = _open(path)
        except sqlite3.DatabaseError as error:
            logger.warning("%s cannot be read (%s): it begins anew", path, error)
            self._connection = _open_anew(path)
        self._series = self._known()

    def add(self, at: int, reading: Reading) -> None:
        """Add the point of a time (epoch ms) and drop those older than a day.

        Raises:
            StorageError: if the disk refuses it.
        """
        self.latest = reading
        with self._lock, self._changing():
            self._series = self._known()  # an addition that failed has left none
            self._name(reading.public, exact=False)
            self._name(reading.exact, exact=True)
            numbers = array("f", [float("nan")]) * len(self._series)
            for name, value in (*reading.public.items(), *reading.exact.items()):
                if name in self._series:
                    numbers[self._series[name][0]] = value
            run = self._connection.execute
            # A clock that was set back leaves points of the future, which would stay.
            run("DELETE FROM points WHERE at <= ? OR at > ?", (at - KEPT_S * 1000, at))
            run("INSERT OR REPLACE INTO points VALUES (?, ?)", (at, numbers.tobytes()))

    def read(
        self,
        since: int,
        until: int,
        step_s: int,
        *,
        names: Sequence[str] = (),
        exact: bool = False,
    ) -> tuple[list[int], list[Series]]:
        """Return the steps that have a point in ``[since, until)``, and the series.

        Args:
            since: first time, epoch milliseconds.
            until: end, which is left out.
            step_s: length of a step in seconds.
            names: series or whole metrics; all if empty.
            exact: whether to return exact series, too.

        Returns:
            The beginning of each step that has a point, and each series that has a number.

        Raises:
            StorageError: if the file cannot be read.
        """
        query = "SELECT at, numbers FROM points WHERE at >= ? AND at < ? ORDER BY at"
        with self._lock, self._changing():
            rows = self._connection.execute(query, (since, until)).fetchall()
            known = [
                (name, number, is_exact)
                for name, (number, is_exact) in self._series.items()
                if (exact or not is_exact)
                and (not names or name in names or family_of(name) in names)
            ]
        if not rows or not known:
            return [], []
        columns = np.array([number for _, number, _ in known])
        points = np.stack([_chosen(blob, columns) for _, blob in rows])
        steps = np.array([at for at, _ in rows], dtype=np.int64) // (step_s * 1000)
        means, highest = _by_step(points, steps)
        times = [int(step) * step_s * 1000 for step in np.unique(steps)]
        return times, [
            Series(name, is_exact, means[:, at].tolist(), highest[:, at].tolist())
            for at, (name, _, is_exact) in enumerate(known)
            if not np.isnan(means[:, at]).all()
        ]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _known(self) -> dict[str, tuple[int, bool]]:
        """Read the id of each series, and whether it is exact."""
        rows = self._connection.execute("SELECT name, id, exact FROM series ORDER BY id")
        return {name: (number, bool(exact)) for name, number, exact in rows}

    def _name(self, numbers: Mapping[str, float], *, exact: bool) -> None:
        """Give ids to new series, as long as there is room."""
        for name in numbers.keys() - self._series.keys():
            if len(self._series) >= MOST_SERIES:
                if not self._full:
                    logger.warning("more than %d series: others are not kept", MOST_SERIES)
                self._full = True
                return
            number = len(self._series)
            self._connection.execute("INSERT INTO series VALUES (?, ?, ?)", (number, name, exact))
            self._series[name] = number, exact

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Run a block in a transaction; raise StorageError if it fails."""
        try:
            with self._connection:
                yield
        except sqlite3.Error as error:
            raise StorageError(f"{self._path}: {error}; is the disk full?") from error


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA page_size={_PAGE}")
        connection.execute("PRAGMA journal_mode=TRUNCATE")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA max_page_count={MOST_BYTES // _PAGE}")
        connection.executescript(_SCHEMA)
        connection.execute("SELECT max(at) FROM points").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _open_anew(path: Path) -> sqlite3.Connection:
    """Replace a damaged file by an empty one, or raise StorageError."""
    try:
        for name in (path, path.with_name(f"{path.name}-journal")):
            name.unlink(missing_ok=True)
        return _open(path)
    except (OSError, sqlite3.Error) as error:
        raise StorageError(f"{path}: {error}; delete it, it holds the charts of a day") from error


def _chosen(blob: bytes, columns: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the numbers of some series in a point, NaN for those that came later."""
    numbers = np.frombuffer(blob, np.float32)
    inside = columns < len(numbers)
    chosen = np.full(len(columns), np.nan, np.float32)
    chosen[inside] = numbers[columns[inside]]
    return chosen


def _by_step(
    points: NDArray[np.float32], steps: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the highest number of each step and series."""
    begins = np.flatnonzero(np.diff(steps, prepend=steps[0] - 1))
    present = ~np.isnan(points)
    counts = np.add.reduceat(present, begins, axis=0, dtype=np.int64)
    sums = np.add.reduceat(np.where(present, points, 0), begins, axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means, np.fmax.reduceat(points, begins, axis=0).astype(np.float64)
