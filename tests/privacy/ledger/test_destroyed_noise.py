"""Destroyed noise is in no byte of the ledger's files."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.ledger import schema
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, RUNNING_TOTALS, Statistic
from tactful_privacy.sqlite import use_write_ahead_log

TOTALS = Statistic(
    "totals", ("tea", "milk", "jam"), DAY_MS // 96, 1, Fraction(1), kind=RUNNING_TOTALS
)
DRAWS = 143


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    opened.register(TOTALS)
    yield opened
    opened.close()


def draw_all(ledger: Ledger, day: int, seed: int = 1) -> list[bytes]:
    """Store noise of a day, and return its bytes, which occur nowhere by chance."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(2**40, 2**62, (DRAWS, len(TOTALS.keys)))
    rows = iter(drawn)
    parts = [str(number) for number in range(DRAWS)]
    ledger.shared_noise.draw_once(TOTALS, day, dict.fromkeys(parts, lambda: next(rows)))
    return [row.astype("<i8").tobytes() for row in drawn]


def left(folder: Path, noise: list[bytes]) -> int:
    """Count the draws that are in any file: the ledger, its log, its index and its journal."""
    files = [path.read_bytes() for path in folder.iterdir()]
    return sum(any(draw in content for content in files) for draw in noise)


def test_destroyed_noise_is_in_no_byte(ledger: Ledger, tmp_path: Path) -> None:
    """The write-ahead log held 143 of 143 draws after their deletion."""
    noise, kept = draw_all(ledger, 0), draw_all(ledger, DAY_MS, seed=2)
    assert left(tmp_path, noise) == DRAWS
    assert ledger.shared_noise.delete_before(TOTALS, DAY_MS)
    assert left(tmp_path, noise) == 0
    assert left(tmp_path, kept) == DRAWS


def test_noise_that_a_reader_holds_is_destroyed_later(ledger: Ledger, tmp_path: Path) -> None:
    """While another connection reads, the log keeps old pages; the next pane tries again."""
    noise = draw_all(ledger, 0)
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM privacy_noise").fetchone()
        publisher = Publisher(BoundedCounts(TOTALS, secret=bytes(16), start=DAY_MS), ledger)
        publisher.publish(DAY_MS + TOTALS.pane_ms)
        assert left(tmp_path, noise) == DRAWS
    publisher.publish(DAY_MS + 2 * TOTALS.pane_ms)
    assert left(tmp_path, noise) == 0


def test_noise_deleted_by_an_older_version_is_overwritten(tmp_path: Path) -> None:
    """Free pages of a file of 0.1 held deleted noise; the first opening rewrites it."""
    path = tmp_path / "ledger.db"
    with closing(Ledger(path, daily_epsilon=1)) as ledger:
        ledger.register(TOTALS)
        noise = draw_all(ledger, 0)
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        old.execute("PRAGMA secure_delete=OFF")
        old.execute(f"DELETE FROM {schema.noise.name}")
        old.execute("PRAGMA user_version=0")
    assert left(tmp_path, noise) > DRAWS // 2
    Ledger(path, daily_epsilon=1).close()
    assert left(tmp_path, noise) == 0


def test_every_file_with_a_write_ahead_log_overwrites(tmp_path: Path) -> None:
    """Deleted rows of the metadata, the vault, sinks and client queues are overwritten, too."""
    with closing(sqlite3.connect(tmp_path / "any.db")) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        use_write_ahead_log(connection)
        assert connection.execute("PRAGMA secure_delete").fetchone() == (1,)
