"""What differs between database servers: text, errors, locks, the moment of reads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from tactful_privacy import database_servers
from tactful_privacy.database_servers import (
    connect_server,
    describe_error,
    is_transient,
    parse_url,
    without_password,
)
from tactful_privacy.errors import DriverError, LedgerError
from tactful_privacy.ledger import schema
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import Statistic
from tactful_privacy.named_lock import hold_named_lock

HOURLY = Statistic("hourly", ("tea",), 3_600_000, 5, Fraction(1, 2))
SERVERS = [pytest.param(name, marks=pytest.mark.service(name)) for name in ("mysql", "postgres")]


@pytest.fixture(params=SERVERS)
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    opened = connect_server(parse_url(request.getfixturevalue(f"{request.param}_url")))
    yield opened
    opened.dispose()


@given(st.text(st.sampled_from("\x00\x1a01a"), max_size=12))
def test_escaped_text_has_no_nul_and_comes_back(text: str) -> None:
    postgresql = pytest.importorskip("tactful_privacy.postgresql")
    escaped = postgresql.escape_text(text)
    assert "\x00" not in escaped
    assert postgresql.unescape_text(escaped) == text
    assert (escaped == text) == (not {"\x00", "\x1a"} & set(text))


@pytest.mark.parametrize(
    ("cause", "again"),
    [
        (SimpleNamespace(sqlstate="40001", args=("could not serialize",)), True),
        (SimpleNamespace(sqlstate="40P01", args=("deadlock detected",)), True),
        (SimpleNamespace(sqlstate="55P03", args=("lock timeout",)), True),
        (SimpleNamespace(sqlstate="23505", args=("duplicate key",)), False),
        (SimpleNamespace(sqlstate=None, args=("connection refused",)), False),
        (SimpleNamespace(args=(1213, "Deadlock found")), True),
        (SimpleNamespace(args=(1205, "Lock wait timeout")), True),
        (SimpleNamespace(args=(2013, "Lost connection")), False),
        (SimpleNamespace(args=()), False),
        (None, False),
    ],
)
def test_transactions_that_a_server_broke_off_are_repeated(cause: Any, again: bool) -> None:
    error = sa.exc.OperationalError("SELECT 1", {}, Exception())
    error.orig = cause
    assert is_transient(error) is again


def test_urls_of_other_programs() -> None:
    url = parse_url("postgres://u:secret@h/d?password=secret")
    assert url.get_backend_name() == "postgresql"
    assert without_password(url) == "postgresql://u:***@h/d"
    with pytest.raises(DriverError, match=r"asyncpg is not supported.*tactful\[postgres\]"):
        connect_server(parse_url("postgresql+asyncpg://u@h/d"))


def test_a_lock_excludes_and_its_end_admits(engine: sa.Engine) -> None:
    with hold_named_lock(engine, "test", timeout_s=5):
        with (
            pytest.raises(TimeoutError, match="'test' of the database for 1 s"),
            hold_named_lock(engine, "test", timeout_s=1),
        ):
            pass
        with hold_named_lock(engine, "other", timeout_s=1):
            pass
    with hold_named_lock(engine, "test", timeout_s=1):
        pass


@pytest.mark.service("postgres")
def test_messages_quote_no_row(postgres_url: str) -> None:
    engine = connect_server(parse_url(postgres_url))
    insert = sa.text("INSERT INTO people VALUES ('ada-17')")
    with engine.connect() as connection:
        connection.execute(sa.text("CREATE TEMPORARY TABLE people (id TEXT PRIMARY KEY)"))
        connection.execute(insert)
        with pytest.raises(sa.exc.IntegrityError, match="ada-17") as caught:
            connection.execute(insert)
    assert describe_error(caught.value).startswith("duplicate key value violates")
    assert "ada-17" not in describe_error(caught.value)
    engine.dispose()


@pytest.mark.service("postgres")
def test_a_database_of_another_encoding_is_refused(postgres_url: str) -> None:
    place = sa.make_url(postgres_url)
    own = place.set(database=f"{place.database}_ascii")
    engine = sa.create_engine(place, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE IF EXISTS {own.database}"))
        options = "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE_PROVIDER libc LOCALE 'C'"
        connection.execute(sa.text(f"CREATE DATABASE {own.database} {options}"))
        try:
            with pytest.raises(LedgerError, match=r"stores text in SQL_ASCII.*ENCODING 'UTF8'"):
                Ledger(own.render_as_string(hide_password=False), daily_epsilon=1)
        finally:
            connection.execute(sa.text(f"DROP DATABASE {own.database} WITH (FORCE)"))
    engine.dispose()


def test_all_reads_see_one_moment(location: str) -> None:
    """A budget and its charges that were read at two moments would not agree."""
    ledger, other = Ledger(location, daily_epsilon=1), Ledger(location)
    names = sa.select(schema.statistics.c.name)
    with schema.reading(ledger._engine) as connection:
        assert connection.execute(names).all() == []
        other.register(HOURLY)
        assert connection.execute(names).all() == []
    with schema.reading(ledger._engine) as connection:
        assert connection.execute(names).all() == [("hourly",)]
    ledger.close()
    other.close()


def test_a_writer_that_waited_reads_what_was_committed_meanwhile(location: str) -> None:
    """Of two that ask for the same rest of a budget, the later one is refused."""
    ledger, other = Ledger(location, daily_epsilon=1), Ledger(location)
    entered, go_on = threading.Event(), threading.Event()
    granted: list[Any] = []

    def hold(connection: sa.Connection) -> None:
        schema.lock(connection)
        values = {"name": "first", "fingerprint": "", "definition": "", "registered_at": 0}
        connection.execute(sa.insert(schema.statistics).values(**values))
        entered.set()
        assert go_on.wait(30)

    def look(connection: sa.Connection) -> None:
        schema.lock(connection)
        granted.extend(connection.execute(sa.select(schema.statistics.c.name)).scalars())

    first = threading.Thread(target=schema.write, args=(ledger._engine, hold))
    second = threading.Thread(target=schema.write, args=(other._engine, look))
    first.start()
    assert entered.wait(30)
    second.start()
    second.join(0.3)
    assert granted == []
    go_on.set()
    first.join()
    second.join()
    assert granted == ["first"]
    ledger.close()
    other.close()


def test_a_lost_race_keeps_the_first_row(location: str) -> None:
    ledger = Ledger(location, daily_epsilon=1)
    ledger.register(HOURLY)
    row = {"statistic": "hourly", "pane_start": 0, "released_at": 5}
    for counts in (1, 2):
        values = {**row, "noisy_counts": np.array([counts], "<i8").tobytes()}
        schema.write(
            ledger._engine,
            lambda connection, v=values: schema.insert_where_absent(  # type: ignore[misc]
                connection, schema.releases, [v]
            ),
        )
    (release,) = ledger.read("hourly").releases
    assert release.noisy_counts.tolist() == [1]
    ledger.close()


@pytest.mark.parametrize("backend", SERVERS)
def test_a_suspended_process_keeps_no_lock(
    backend: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction in which nothing happens is rolled back; what it wrote is gone."""
    monkeypatch.setattr(database_servers, "_IDLE_S", 1)
    engine = connect_server(parse_url(request.getfixturevalue(f"{backend}_url")))
    table = sa.Table("kept_locks", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
    table.drop(engine, checkfirst=True)
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(table).values(id=1))
    with engine.connect() as suspended:
        suspended.execute(sa.update(table).values(id=2))
        with engine.begin() as other:
            other.execute(sa.update(table).values(id=table.c.id + 10))
        with pytest.raises(sa.exc.DBAPIError):
            suspended.execute(sa.select(table))
    with engine.begin() as connection:
        assert connection.scalar(sa.select(table.c.id)) == 11
    table.drop(engine)
    engine.dispose()
