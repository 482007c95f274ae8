"""The lease of several servers, on SQLite and MySQL: one holder, growing fences, no late write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platform.databases import Location

from tactful.errors import StorageError
from tactful.metadata.lease import (
    LEASE_MS,
    Lease,
    LeaseLost,
    check_fence,
    claim,
    give_up_claim,
    read_lease,
)
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.metadata.tables import changes, leases


class Times:
    """A clock of the database, and one of each server, which may differ from it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def lease(self, metadata: MetadataStore, name: str, *, fast: float = 1.0) -> Lease:
        return Lease(
            metadata, name, clock=lambda: self.now, elapsed=lambda: fast * self.now / 1000 - 7
        )


@pytest.fixture
def times() -> Times:
    return Times()


def test_one_of_two_holds_it_and_the_other_takes_over(
    database: MetadataStore, times: Times
) -> None:
    first, second = times.lease(database, "a"), times.lease(database, "b")
    fence = first.acquire()
    assert fence is not None and first.held and second.acquire() is None and not second.held
    times.now += LEASE_MS - 1
    assert first.acquire() == fence and second.acquire() is None
    times.now += LEASE_MS
    assert not first.held, "it ends in the eyes of its holder first"
    later = second.acquire()
    assert later is not None and later > fence and first.acquire() is None


def test_a_clean_stop_hands_over_at_once(database: MetadataStore, times: Times) -> None:
    first, second = times.lease(database, "a"), times.lease(database, "b")
    fence = first.acquire()
    first.release()
    assert not first.held and second.free()
    assert (second.acquire() or 0) > (fence or 0)
    first.release()  # is harmless
    assert not second.free() and second.acquire() is not None


def test_nothing_is_written_after_the_lease_changed_hands(
    database: MetadataStore, times: Times
) -> None:
    first, second = times.lease(database, "a"), times.lease(database, "b")
    assert first.acquire() is not None
    first.write(lambda connection: _note(connection, "first"))
    old = first.fence
    times.now += LEASE_MS
    assert second.acquire() is not None
    with pytest.raises(LeaseLost):
        first.write(lambda connection: _note(connection, "late"))
    assert old is not None
    with pytest.raises(LeaseLost):  # of a process that it started
        database.change(lambda connection: check_fence(connection, old))
    second.write(lambda connection: _note(connection, "second"))
    assert _noted(database) == ["first", "second"]


def test_an_expired_lease_that_nobody_took_is_renewed(
    database: MetadataStore, times: Times
) -> None:
    only = times.lease(database, "a")
    fence = only.acquire()
    times.now += 100 * LEASE_MS
    only.write(lambda connection: _note(connection, "nobody else did"))
    assert only.acquire() == fence


def test_metadata_restored_from_a_backup_raise_the_fence_all_the_same(
    database: MetadataStore, times: Times
) -> None:
    fence = times.lease(database, "a").acquire()
    database.change(lambda connection: connection.execute(sa.delete(leases)))  # an older copy
    times.now += 3
    assert (times.lease(database, "b").acquire() or 0) > (fence or 0)


def test_a_server_alone_takes_it_over_at_once(database: MetadataStore, times: Times) -> None:
    fence = times.lease(database, "killed").acquire()
    again = Lease(database, "a", clock=lambda: times.now, alone=True)
    assert (again.acquire() or 0) > (fence or 0)


def test_the_clock_of_the_database_is_used(database: MetadataStore) -> None:
    lease = Lease(database, "host:1:ab")
    fence = lease.acquire()
    state = read_lease(database)
    assert state is not None and (state.holder, state.fence) == ("host:1:ab", fence)
    assert 0 < state.left_ms <= LEASE_MS and read_lease(database, name="other") is None


def test_an_owner_keeps_a_claim(database: MetadataStore) -> None:
    assert claim(database, "ledger", "a") and claim(database, "ledger", "a")
    assert not claim(database, "ledger", "b")
    give_up_claim(database, "ledger")
    assert claim(database, "ledger", "b") and not claim(database, "ledger", "a")


def test_a_database_that_went_away_ends_the_lease_by_itself(tmp_path: Path, times: Times) -> None:
    metadata = open_metadata(tmp_path / "metadata.db")
    lease = times.lease(metadata, "a")
    assert lease.acquire() is not None
    metadata.close()
    (tmp_path / "metadata.db").rename(tmp_path / "gone")
    (tmp_path / "metadata.db").mkdir()
    with pytest.raises(StorageError):
        lease.acquire()
    assert lease.held
    times.now += LEASE_MS
    assert not lease.held


_SERVERS = st.sampled_from("abc")
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["acquire", "write", "pause", "wake", "release"]), _SERVERS),
        st.tuples(st.just("wait"), st.integers(1, LEASE_MS + LEASE_MS // 5)),
    ),
    min_size=4,
    max_size=30,
)


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=_STEPS)
def test_no_interleaving_lets_a_lower_fence_write(
    database: MetadataStore, steps: list[tuple[str, object]]
) -> None:
    """Whatever pauses come between decision and write, writes happen in the order of the fences."""
    database.change(lambda connection: connection.execute(sa.delete(leases)))
    times, written = Times(), [(0, "")]
    servers = {
        name: times.lease(database, name, fast=fast)
        for name, fast in (("a", 1.0), ("b", 1.08), ("c", 0.93))
    }
    paused: dict[str, bool] = {}  # by server: whether it decided to write before
    for action, about in steps:
        if action == "wait":
            times.now += int(str(about))
            continue
        name = str(about)
        lease = servers[name]
        if action == "pause":
            paused.setdefault(name, lease.held)
        elif action == "wake" or (action == "write" and name not in paused):
            if paused.pop(name, lease.held):
                fence = lease._fence
                try:
                    lease.write(lambda connection: None)
                except LeaseLost:
                    continue
                assert fence is not None
                written.append((fence, name))
        elif name not in paused:
            if action == "acquire":
                lease.acquire()
            else:
                lease.release()
        assert sum(each.held for each in servers.values()) <= 1
    fences = [fence for fence, _ in written]
    assert fences == sorted(fences)
    assert len({*written}) == len({*fences}), "one fence, one writer"


def test_the_interleavings_notice_a_write_without_a_check(
    sqlite: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug: a lease that is not checked where something is written."""
    monkeypatch.setattr(Lease, "check", lambda self, connection: None)
    steps: list[tuple[str, object]] = [
        *(("acquire", "a"), ("pause", "a"), ("wait", LEASE_MS), ("acquire", "b")),
        *(("write", "b"), ("wake", "a")),
    ]
    inner = test_no_interleaving_lets_a_lower_fence_write.hypothesis.inner_test  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        inner(sqlite, steps)


_HOLDER = """
import sys
from tactful.metadata.lease import Lease
from tactful.metadata.store import open_metadata

lease = Lease(open_metadata(sys.argv[1]), "stopped", lease_ms=1500)
print(lease.acquire(), flush=True)
sys.stdin.readline()  # stopped here, longer than its lease
print(lease.held, flush=True)
try:
    lease.write(lambda connection: print("wrote", flush=True))
except Exception as error:
    print(type(error).__name__, flush=True)
"""


@pytest.fixture
def stopped(location: Location) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease."""
    open_metadata(location).close()
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _HOLDER, str(location)]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.kill()


def test_a_stopped_process_does_not_write_when_it_wakes(
    location: Location, stopped: subprocess.Popen[str]
) -> None:
    assert stopped.stdout is not None and stopped.stdin is not None
    fence = int(stopped.stdout.readline())
    os.kill(stopped.pid, signal.SIGSTOP)
    with closing(open_metadata(location)) as metadata:
        other = Lease(metadata, "other")
        while (later := other.acquire()) is None:
            pass
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.stdin.write("\n")
        stopped.stdin.flush()
        assert [stopped.stdout.readline().strip() for _ in range(2)] == ["False", "LeaseLost"]
        assert later > fence and other.held


def _note(connection: sa.Connection, target: str) -> None:
    about = {"at": 0, "actor": "x", "action": "lease", "detail": ""}
    connection.execute(sa.insert(changes).values(target=target, **about))


def _noted(metadata: MetadataStore) -> list[str]:
    rows = metadata.fetch(sa.select(changes.c.target).where(changes.c.action == "lease"))
    return [row.target for row in rows]
