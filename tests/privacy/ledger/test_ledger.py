"""The ledger: one release per pane whoever races and whatever is killed, and no overspending."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from numpy.typing import NDArray

from tactful_privacy.errors import BudgetError, LedgerError, ParameterError, UnknownStatisticError
from tactful_privacy.ledger import schema as ledger_schema
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.rows import MAX_PAGE
from tactful_privacy.ledger.statistic import Statistic

HOUR = 3_600_000
HOURLY = Statistic("hourly", ("bread", "milk", "tea"), HOUR, 5, Fraction(1))


@pytest.fixture
def ledger(location: str) -> Iterator[Ledger]:
    opened = Ledger(location, daily_epsilon="1", clock=lambda: 1_700_000_000_000)
    opened.register(HOURLY)
    yield opened
    opened.close()


def counts(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def draws_of(*values: int) -> Callable[[], NDArray[np.int64]]:
    return lambda: counts(*values)


def never() -> NDArray[np.int64]:
    raise AssertionError("a stored pane was drawn again")


def fresh() -> NDArray[np.int64]:
    return np.frombuffer(os.urandom(24), dtype=np.int64)


def test_a_pane_is_drawn_once(ledger: Ledger) -> None:
    first = ledger.release_once(HOURLY, HOUR, draws_of(-3, 0, 2**40))
    again = ledger.release_once(HOURLY, HOUR, never)
    for release in (first, again):
        assert (release.statistic, release.start) == ("hourly", HOUR)
        assert release.noisy_counts.tolist() == [-3, 0, 2**40]
        assert release.noisy_counts.dtype == np.int64
        assert release.released_at == 1_700_000_000_000


def test_many_panes_keep_what_is_stored_and_the_order_asked(ledger: Ledger) -> None:
    """Also more panes than a query holds."""
    ledger.release_once(HOURLY, 2 * HOUR, draws_of(9, 9, 9))
    few = {3 * HOUR: draws_of(3, 3, 3), 2 * HOUR: never, 0: draws_of(0, 0, 0)}
    releases = ledger.release_many(HOURLY, few)
    assert [(it.start // HOUR, it.noisy_counts[0]) for it in releases] == [(3, 3), (2, 9), (0, 0)]
    n = 2 * MAX_PAGE + 7
    for again in (False, True):
        draws = {i * HOUR: never if again else draws_of(i, 0, 0) for i in range(9, n)}
        many = ledger.release_many(HOURLY, draws)
        assert [int(release.noisy_counts[0]) for release in many] == list(range(9, n))


def test_a_reopened_ledger_gives_the_same(location: str) -> None:
    ledger = Ledger(location, daily_epsilon="1")
    ledger.register(HOURLY)
    ledger.release_once(HOURLY, 0, draws_of(1, 2, 3))
    ledger.close()
    reopened = Ledger(location)
    assert reopened.daily_epsilon == 1
    assert reopened.statistics() == {"hourly": HOURLY}
    assert reopened.release_once(HOURLY, 0, never).noisy_counts.tolist() == [1, 2, 3]
    reopened.close()


def test_a_failing_draw_stores_nothing_of_its_batch(ledger: Ledger) -> None:
    with pytest.raises(AssertionError):
        ledger.release_many(HOURLY, {0: draws_of(1, 1, 1), HOUR: never})
    assert ledger.read("hourly").releases == ()


def test_a_draw_of_wrong_shape_is_refused(ledger: Ledger) -> None:
    for shape, kind in ((2, "i8"), ((1, 3), "i8"), (3, "f8"), (3, "i4")):
        with pytest.raises(LedgerError, match="one count for every key"):
            ledger.release_once(HOURLY, 0, lambda: np.zeros(shape, kind))  # noqa: B023
    assert ledger.read("hourly").releases == ()


def test_an_unregistered_or_changed_statistic_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="not the start of a pane"):
        ledger.release_once(HOURLY, HOUR // 2, never)
    other = Statistic("other", HOURLY.keys, HOUR, 5, Fraction(1))
    changed = Statistic("hourly", HOURLY.keys, HOUR, 500, Fraction(1))
    with pytest.raises(UnknownStatisticError, match="register it first"):
        ledger.release_once(other, 0, never)
    with pytest.raises(LedgerError, match="another definition"):
        ledger.release_once(changed, 0, never)
    with pytest.raises(LedgerError, match="another definition"):
        ledger.register(changed)


def costing(name: str, epsilon: str) -> Statistic:
    return Statistic(name, ("bread",), HOUR, 5, Fraction(epsilon))


def test_statistics_fill_the_budget_exactly_and_no_further(location: str) -> None:
    ledger = Ledger(location, daily_epsilon="0.3")
    for name in ("a", "b", "c"):
        ledger.register(costing(name, "0.1"))
        ledger.register(costing(name, "0.1"))
    with pytest.raises(
        BudgetError,
        match=r"epsilon 3/10 .*'d' costs epsilon 1/1000.* 301/1000; .* 'b' costs epsilon 1/10, 'c'",
    ):
        ledger.register(costing("d", "1/1000"))
    assert set(ledger.statistics()) == {"a", "b", "c"}
    ledger.close()


@pytest.mark.slow
def test_the_budget_of_a_ledger_cannot_be_raised(location: str) -> None:
    Ledger(location, daily_epsilon="1").close()
    with pytest.raises(BudgetError, match="a promise to users cannot be changed"):
        Ledger(location, daily_epsilon="2")


def test_a_new_ledger_needs_a_budget(location: str) -> None:
    with pytest.raises(ParameterError, match="give daily_epsilon"):
        Ledger(location)
    with pytest.raises(ParameterError, match="above 0"):
        Ledger(location, daily_epsilon=0)
    with pytest.raises(ParameterError, match="exact number"):
        Ledger(location, daily_epsilon=1.0)  # type: ignore[arg-type]
    for other in ("oracle://localhost/x", "sqlite://", ":memory:"):
        with pytest.raises(ParameterError):
            Ledger(other, daily_epsilon=1)


def test_pages_cover_a_range_in_order_without_gap_or_repeat(ledger: Ledger) -> None:
    ledger.release_many(HOURLY, {i * HOUR: draws_of(i, 0, 0) for i in reversed(range(23))})
    seen: list[int] = []
    cursor, pages = None, 0
    while True:
        page = ledger.read("hourly", start=2 * HOUR, end=21 * HOUR, cursor=cursor, limit=5)
        seen += [release.start // HOUR for release in page.releases]
        cursor, pages = page.cursor, pages + 1
        if cursor is None:
            break
    assert seen == list(range(2, 21))
    assert pages == 4
    assert ledger.read("hourly", limit=23).cursor is None
    assert ledger.read("hourly", limit=22).cursor is not None


def test_wrong_questions_are_refused(ledger: Ledger) -> None:
    with pytest.raises(UnknownStatisticError, match="no statistic 'nothing'"):
        ledger.read("nothing")
    with pytest.raises(ParameterError, match="cursor"):
        ledger.read("hourly", cursor="x")
    for limit in (0, 1001):
        with pytest.raises(ParameterError, match="limit"):
            ledger.read("hourly", limit=limit)


def test_a_damaged_row_is_reported_not_shown(ledger: Ledger) -> None:
    ledger.release_once(HOURLY, 0, draws_of(1, 2, 3))
    with ledger._engine.begin() as connection:
        connection.execute(sa.update(ledger_schema.releases).values(noisy_counts=bytes(16)))
    with pytest.raises(LedgerError, match="damaged"):
        ledger.read("hourly")


def test_sqlite_is_opened_to_survive_a_power_cut(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.db", daily_epsilon=1)
    with ledger._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    ledger.close()


FORK = multiprocessing.get_context("fork")


def race(work: Callable[[], Any], n: int) -> list[Any]:
    """Run a function in several processes that begin at once; return their results."""
    gate, results = FORK.Barrier(n), FORK.SimpleQueue()

    def run() -> None:
        gate.wait(120)
        results.put(work())

    processes = [FORK.Process(target=run) for _ in range(n)]
    for process in processes:
        process.start()
    found = [results.get() for _ in processes]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * n
    return found


@pytest.mark.alone  # its forks wait for locks that threads of other tests hold
def test_processes_racing_for_the_same_panes_get_one_value(location: str) -> None:
    """Also the creation of the tables is raced for: nobody made them before."""

    def release() -> dict[int, list[int]]:
        ledger = Ledger(location, daily_epsilon=1)
        ledger.register(HOURLY)
        releases = [ledger.release_once(HOURLY, n * HOUR, fresh) for n in range(20)]
        releases += ledger.release_many(HOURLY, {n * HOUR: fresh for n in range(20, 60)})
        return {release.start: release.noisy_counts.tolist() for release in releases}

    shown = race(release, 4)
    assert len(shown[0]) == 60
    assert shown == [shown[0]] * 4


def test_threads_racing_for_the_same_panes_get_one_value(ledger: Ledger) -> None:
    panes = {i * HOUR: fresh for i in range(30)}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: ledger.release_many(HOURLY, panes), range(6)))
    shown = [[release.noisy_counts.tolist() for release in releases] for releases in found]
    assert shown == [shown[0]] * 6


@pytest.mark.alone  # its forks wait for locks that threads of other tests hold
def test_processes_racing_for_the_budget_do_not_overspend(location: str) -> None:
    def register() -> str:
        ledger = Ledger(location, daily_epsilon=1)
        try:
            ledger.register(costing(f"statistic-{os.getpid()}", "1/3"))
        except BudgetError:
            return "refused"
        return "registered"

    assert sorted(race(register, 5)) == ["refused"] * 2 + ["registered"] * 3


def die(*_: object) -> NDArray[np.int64]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("survived")


def release_and_die(location: str, moment: str) -> None:
    """Release a pane and die: in the draw, in the transaction, or before the answer."""
    ledger = Ledger(location)
    reading, calls = ledger_schema.reading, []

    def killed_after_the_commit(engine: sa.Engine) -> Any:
        calls.append(1)
        return reading(engine) if len(calls) == 1 else die()

    if moment == "transaction":
        sa.event.listen(ledger._engine, "commit", die)
    elif moment == "answer":
        ledger_schema.reading = killed_after_the_commit
    ledger.release_once(HOURLY, 0, die if moment == "draw" else fresh)


@pytest.mark.alone  # its fork waits for locks that threads of other tests hold
@pytest.mark.parametrize("moment", ["draw", "transaction", "answer"])
def test_kill_9_at_any_moment_leaves_one_release_or_none(
    moment: str, location: str, in_child: Callable[..., int]
) -> None:
    Ledger(location, daily_epsilon=1).register(HOURLY)
    assert in_child(release_and_die, location, moment) == -signal.SIGKILL
    ledger = Ledger(location)
    stored = ledger.read("hourly").releases
    if moment == "answer":
        (release,) = stored
        again = ledger.release_once(HOURLY, 0, never)
        assert again.noisy_counts.tolist() == release.noisy_counts.tolist()
    else:
        assert stored == ()
        assert ledger.release_once(HOURLY, 0, draws_of(1, 2, 3)).noisy_counts.tolist() == [1, 2, 3]
    ledger.close()


def publish_for_ever(location: str, shown: Connection) -> None:
    ledger = Ledger(location, daily_epsilon=1)
    ledger.register(HOURLY)
    for start in range(0, 100_000 * HOUR, 3 * HOUR):
        for release in ledger.release_many(HOURLY, {start + i * HOUR: fresh for i in range(3)}):
            shown.send((release.start, release.noisy_counts.tolist()))


@pytest.mark.alone  # its forks wait for locks that threads of other tests hold
def test_what_was_shown_before_kill_9_is_shown_again(location: str) -> None:
    """Each run starts over with fresh noise, shows what it publishes, and is killed."""
    shown: dict[int, list[int]] = {}
    for run in range(4):
        receiver, sender = FORK.Pipe(duplex=False)
        process = FORK.Process(target=publish_for_ever, args=(location, sender))
        process.start()
        sender.close()
        for n in itertools.count(1):
            try:
                pane, values = receiver.recv()
            except EOFError:
                break
            assert shown.setdefault(pane, values) == values
            if n == 20 + 25 * run:
                process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        receiver.close()
    ledger = Ledger(location)
    assert len(shown) > 20
    again = ledger.release_many(HOURLY, {pane: never for pane in shown})
    assert {release.start: release.noisy_counts.tolist() for release in again} == shown
    ledger.close()
