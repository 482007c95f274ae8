"""One contract for SQLite, MariaDB/MySQL and PostgreSQL: rows, upgrades, refusals."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.platform.databases import Location, execute

from tactful.errors import StorageError
from tactful.metadata import store as metadata
from tactful.metadata.store import BackfillJob, DefinitionVersion, MetadataStore, open_metadata
from tactful.metadata.tables import backfill_jobs, definition_versions, tables


@pytest.fixture
def prepared_metadata() -> None:
    """Run all upgrades in every database."""


@pytest.fixture
def store(location: Location) -> Iterator[MetadataStore]:
    times = itertools.count(1_000)
    with closing(open_metadata(location, clock=lambda: next(times))) as opened:
        yield opened


# Definitions.


@pytest.mark.slow
def test_changed_definitions_are_recorded(store: MetadataStore, location: Location) -> None:
    text = "- {name: é, …}\n" * 10_000  # more than MySQL's TEXT holds
    assert store.definitions_history() == []
    assert store.record_definitions("a" * 64, text, applied_by="serve")
    assert not store.record_definitions("a" * 64, "another style", applied_by="serve")
    assert store.record_definitions("b" * 64, "two", applied_by="features backfill")
    assert store.record_definitions("a" * 64, "back", applied_by="serve")
    with closing(open_metadata(location)) as again:
        history = again.definitions_history()
        assert [(h.fingerprint[0], h.definitions, h.applied_by) for h in history] == [
            ("a", "back", "serve"),
            ("b", "two", "features backfill"),
            ("a", text, "serve"),
        ]
        assert history[2] == DefinitionVersion("a" * 64, text, 1_000, "serve")
        assert again.definitions_history(limit=1) == history[:1]


@pytest.mark.slow
def test_concurrent_starts(location: Location, request: pytest.FixtureRequest) -> None:
    def start(_: int) -> bool:
        try:
            store = open_metadata(location)
        except BaseException:
            barrier.abort()  # or the others would wait for ever
            raise
        barrier.wait()
        news = store.record_definitions("f", "text", applied_by="serve")
        store.close()
        return news

    def slowly(_: sa.Connection) -> None:
        time.sleep(0.05)  # whoever goes on before the upgrade is committed finds it half done

    barrier = threading.Barrier(6)
    sa.event.listen(sa.Engine, "commit", slowly)
    request.addfinalizer(lambda: sa.event.remove(sa.Engine, "commit", slowly))
    with ThreadPoolExecutor(6) as pool:
        starts = [pool.submit(start, number) for number in range(6)]
    failures = [failed for one in starts if (failed := one.exception())]
    for failure in failures:  # not that of those who were only kept waiting by it
        if not isinstance(failure, threading.BrokenBarrierError):
            raise failure
    assert sorted(one.result() for one in starts) == [False] * 5 + [True]


# Backfills.


@pytest.mark.slow
def test_a_backfill_goes_on_where_it_was(store: MetadataStore) -> None:
    begun = store.begin_backfill("f", ["b", "a"], partition=3, position=10, end=100)
    job = BackfillJob(begun.id, "f", 3, ("a", "b"), "running", 10, 100, 1_000, 1_000)
    assert begun == job
    store.advance_backfill(begun.id, 40)
    resumed = store.begin_backfill("f", ["a", "b"], partition=3, position=10, end=120)
    assert (resumed.id, resumed.position, resumed.end) == (begun.id, 40, 120)
    assert resumed.started_at == 1_000
    store.finish_backfill(begun.id, error="the disk is full")
    failed = store.backfills()[0]
    assert (failed.state, failed.error, failed.position) == ("failed", "the disk is full", 40)
    resumed = store.begin_backfill("f", ["a", "b"], partition=3, position=10, end=120)
    assert (resumed.state, resumed.error, resumed.position) == ("running", None, 40)
    store.finish_backfill(begun.id)
    done = store.backfills()[0]
    assert (done.state, done.position) == ("done", 120)
    assert done.updated_at > done.started_at == 1_000
    again = store.begin_backfill("f", ["a", "b"], partition=3, position=5, end=20)
    assert (again.id, again.state, again.position, again.end) == (begun.id, "running", 5, 20)
    assert again.started_at > 1_000


def test_backfills_differ_by_definitions_partition_and_features(store: MetadataStore) -> None:
    jobs = [("f", ["a"], 0), ("f", ["a"], 1), ("g", ["a"], 0)]
    jobs += [("f", ["a", "b"], 0), ("f", ["a, b"], 0)]
    ids = [
        store.begin_backfill(fingerprint, features, partition=partition, position=0, end=1).id
        for fingerprint, features, partition in jobs
    ]
    assert len(set(ids)) == 5
    assert [job.id for job in store.backfills()] == ids[::-1]


def test_a_backfill_nobody_began_is_refused(store: MetadataStore) -> None:
    for update in (partial(store.advance_backfill, position=1), store.finish_backfill):
        with pytest.raises(StorageError, match="no backfill has the id 'nobody'"):
            update("nobody")


# Transactions.


def test_work_that_fails_changes_nothing(store: MetadataStore) -> None:
    def work(connection: sa.Connection) -> None:
        values = {"fingerprint": "f", "definitions": "", "applied_at": 0, "applied_by": ""}
        connection.execute(sa.insert(definition_versions).values(**values))
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        store.change(work)
    assert store.definitions_history() == []


def test_what_is_too_long_is_refused_not_shortened(store: MetadataStore) -> None:
    if store._engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no lengths")
    with pytest.raises(StorageError, match="too long"):
        store.record_definitions("f" * 65, "", applied_by="")
    assert store.definitions_history() == []


def test_counters_that_many_threads_raise_at_once_lose_nothing(store: MetadataStore) -> None:
    job = store.begin_backfill("f", ["a"], partition=0, position=0, end=10).id
    table = backfill_jobs

    def raise_position(connection: sa.Connection) -> None:
        where = table.c.id == job
        found = connection.execute(sa.select(table.c.position).where(where).with_for_update())
        position = found.scalar_one() + 1
        connection.execute(sa.update(table).where(where).values(position=position))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.change(raise_position), range(60)))
    assert store.backfills()[0].position == 60


# The schema.


@pytest.mark.slow
def test_the_migrations_end_where_the_code_begins(store: MetadataStore, location: Location) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    folder = Path(metadata.__file__).with_name("migrations")
    assert ScriptDirectory(str(folder)).get_heads() == [metadata.SCHEMA]

    def differences(connection: sa.Connection) -> list[Any]:
        options = {"version_table": metadata.VERSION_TABLE, "compare_type": True}
        options["include_name"] = lambda name, kind, _: kind != "table" or name in tables.tables
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, tables))

    assert store.change(differences) == []


@pytest.mark.slow
def test_many_processes_may_start_at_once(location: Location) -> None:
    code = (
        "import sys; from tactful.metadata.store import open_metadata\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "store = open_metadata(sys.argv[1]); store.record_definitions('f', '', applied_by='x')\n"
        "assert len(store.definitions_history()) == 1"
    )
    command, pipe = [sys.executable, "-c", code, str(location)], subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        process.communicate(b"\n")
    assert [process.returncode for process in processes] == [0] * 4


@pytest.mark.slow
def test_a_newer_schema_is_refused_and_left_alone(location: Location) -> None:
    open_metadata(location).close()
    execute(location, f"UPDATE {metadata.VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(StorageError, match=r"schema 9999.*supports \d+ at most.*backup"):
        open_metadata(location)
    execute(location, f"UPDATE {metadata.VERSION_TABLE} SET version_num = '{metadata.SCHEMA}'")
    open_metadata(location).close()


@pytest.mark.slow
def test_an_upgrade_that_broke_off_is_finished(location: Location) -> None:
    # MySQL commits table by table: a process killed between two leaves this behind.
    open_metadata(location).close()
    forgotten = f"DELETE FROM {metadata.VERSION_TABLE} WHERE 1 = 1"
    execute(location, "DROP TABLE backfill_jobs", forgotten)
    with closing(open_metadata(location)) as store:
        assert store.backfills() == []


@pytest.mark.slow
def test_upgrades_exclude_each_other(location: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "_LOCK_SECONDS", 1)
    engine = metadata._connect(location)
    with metadata._alone(engine), pytest.raises(StorageError, match=r"does not finish|locked"):
        open_metadata(location)
    open_metadata(location).close()
    engine.dispose()


# What cannot be used.


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("sqlite://", "lost at exit"),
        ("sqlite:///:memory:", "lost at exit"),
        ("oracle://u:secret@h/d", "cannot be kept in oracle"),
        ("postgresql+psycopg2://u:secret@h/d", "write postgresql\\+psycopg"),
        ("postgresql://u:secret@127.0.0.1:1/d", r"u:\*\*\*@127.0.0.1:1/d.*cannot be used"),
        ("mysql://u:secret@host:port/d", "not a database URL"),
        ("mysql+other://u:secret@host/d", "write mysql\\+pymysql"),
        ("mysql+pymysql://u:secret@127.0.0.1:1/d", r"u:\*\*\*@127.0.0.1:1/d.*cannot be used"),
    ],
)
def test_other_locations_are_refused_without_their_password(wrong: str, said: str) -> None:
    with pytest.raises(StorageError, match=said) as refusal:
        open_metadata(wrong)
    assert "secret" not in str(refusal.value)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.db").write_bytes(b"no database" * 100)
    with pytest.raises(StorageError, match=r"m\.db.*restore it from a backup"):
        open_metadata(tmp_path / "m.db")
    strange = tmp_path / "a%20b?c.db"
    open_metadata(strange).close()
    assert strange.exists()
    with pytest.raises(StorageError, match=r"absent does not exist: name the data directory"):
        open_metadata(tmp_path / "absent" / "m.db")


@pytest.mark.parametrize(
    ("driver", "extra", "url"),
    [("pymysql", "mysql", "mysql://u@h/d"), ("psycopg", "postgres", "postgres://u@h/d")],
)
def test_without_the_driver_the_cure_is_named(
    driver: str, extra: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, driver, None)
    monkeypatch.delitem(sys.modules, "tactful_privacy.postgresql", raising=False)
    with pytest.raises(StorageError, match=rf"pip install 'tactful\[{extra}\]'"):
        open_metadata(url)


def test_text_is_stored_as_it_is(store: MetadataStore) -> None:
    """PostgreSQL refuses the first of them."""
    for text in ("a\x00b", "\x1a0", "\x1a", "é😀", " a ", "a\\'%"):
        store.record_definitions(text.encode().hex(), text, applied_by=text)
        found = store.definitions_history(limit=1)[0]
        assert (found.definitions, found.applied_by) == (text, text)


@pytest.mark.slow
def test_killed_while_it_writes_it_keeps_what_it_acknowledged(location: Location) -> None:
    """Opening again needs no alembic."""
    open_metadata(location).close()
    code = """
import itertools, sys
from tactful.metadata.store import open_metadata
store = open_metadata(sys.argv[1])
assert "alembic" not in sys.modules
job = store.begin_backfill("f", ["a"], partition=0, position=0, end=1).id
for position in itertools.count(1):
    store.advance_backfill(job, position)
    print(position, flush=True)
"""
    command = [sys.executable, "-c", code, str(location)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(20)]
        process.kill()
        acknowledged += [int(line) for line in process.stdout.read().split()]
    with closing(open_metadata(location)) as store:
        assert store.backfills()[0].position in (acknowledged[-1], acknowledged[-1] + 1)
