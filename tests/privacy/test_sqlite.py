"""How files of SQLite are opened: many at once, and one that somebody holds."""

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tactful_privacy.sqlite import use_write_ahead_log


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False)


def test_many_open_a_new_file_at_once(tmp_path: Path) -> None:
    def open_one(number: int) -> None:
        connection = connect(path)
        use_write_ahead_log(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (number INTEGER)")
        connection.execute("INSERT INTO numbers VALUES (?)", [number])
        connection.close()

    for turn in range(10):
        path = tmp_path / f"{turn}.db"
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(open_one, range(6)))
        assert connect(path).execute("SELECT count(*) FROM numbers").fetchone() == (6,)


def test_it_waits_for_whoever_holds_the_file(tmp_path: Path) -> None:
    holder = connect(tmp_path / "held.db")
    holder.execute("BEGIN EXCLUSIVE")
    waiting = connect(tmp_path / "held.db")
    waiting.execute("PRAGMA busy_timeout = 0")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_write_ahead_log(waiting, timeout_s=0.05)
    release = threading.Timer(0.2, holder.execute, ["COMMIT"])
    release.start()
    use_write_ahead_log(waiting)
    release.join()
    assert waiting.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert waiting.execute("PRAGMA synchronous").fetchone() == (2,)


def test_what_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is no database, however long one looks at it." * 100)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        use_write_ahead_log(connect(tmp_path / "text"))
