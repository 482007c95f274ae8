"""The ledger: one release per pane whoever races and whatever is killed, and no overspending."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

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


# -- releases -----------------------------------------------------------------------------------


def test_a_pane_is_drawn_once(ledger: Ledger) -> None:
    first = ledger.release_once(HOURLY, HOUR, draws_of(-3, 0, 2**40))
    again = ledger.release_once(HOURLY, HOUR, never)
    for release in (first, again):
        assert (release.statistic, release.start) == ("hourly", HOUR)
        assert release.noisy_counts.tolist() == [-3, 0, 2**40]
        assert release.noisy_counts.dtype == np.int64
        assert release.released_at == 1_700_000_000_000


def test_many_panes_keep_what_is_stored_and_the_order_asked(ledger: Ledger) -> None:
    ledger.release_once(HOURLY, 2 * HOUR, draws_of(9, 9, 9))
    releases = ledger.release_many(
        HOURLY, {3 * HOUR: draws_of(3, 3, 3), 2 * HOUR: never, 0: draws_of(0, 0, 0)}
    )
    assert [release.start for release in releases] == [3 * HOUR, 2 * HOUR, 0]
    assert [release.noisy_counts[0] for release in releases] == [3, 9, 0]


def test_more_panes_than_a_query_holds(ledger: Ledger) -> None:
    n = 2 * MAX_PAGE + 7
    first = ledger.release_many(HOURLY, {i * HOUR: draws_of(i, 0, 0) for i in range(n)})
    again = ledger.release_many(HOURLY, {i * HOUR: never for i in range(n)})
    assert [int(r.noisy_counts[0]) for r in first] == list(range(n))
    assert [int(r.noisy_counts[0]) for r in again] == list(range(n))


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


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros(2, dtype=np.int64),
        np.zeros((1, 3), dtype=np.int64),
        np.zeros(3, dtype=np.float64),
        np.zeros(3, dtype=np.int32),
    ],
)
def test_a_draw_of_wrong_shape_is_refused(ledger: Ledger, wrong: NDArray[np.int64]) -> None:
    with pytest.raises(LedgerError, match="one count for every key"):
        ledger.release_once(HOURLY, 0, lambda: wrong)
    assert ledger.read("hourly").releases == ()


def test_a_start_between_panes_is_refused(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="not the start of a pane"):
        ledger.release_once(HOURLY, HOUR // 2, never)


def test_an_unregistered_or_changed_statistic_is_refused(ledger: Ledger) -> None:
    other = Statistic("other", HOURLY.keys, HOUR, 5, Fraction(1))
    changed = Statistic("hourly", HOURLY.keys, HOUR, 500, Fraction(1))
    with pytest.raises(UnknownStatisticError, match="register it first"):
        ledger.release_once(other, 0, never)
    with pytest.raises(LedgerError, match="another definition"):
        ledger.release_once(changed, 0, never)
    with pytest.raises(LedgerError, match="another definition"):
        ledger.register(changed)


# -- budget -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("where", ["postgresql://localhost/x", "sqlite://", ":memory:"])
def test_other_databases_are_refused(where: str) -> None:
    with pytest.raises((ParameterError, ModuleNotFoundError)):
        Ledger(where, daily_epsilon=1)


# -- reading ------------------------------------------------------------------------------------


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


def test_a_full_last_page_has_no_cursor(ledger: Ledger) -> None:
    ledger.release_many(HOURLY, {i * HOUR: draws_of(i, 0, 0) for i in range(4)})
    assert ledger.read("hourly", limit=4).cursor is None
    assert ledger.read("hourly", limit=3).cursor is not None


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


# -- races and kills ----------------------------------------------------------------------------

PRELUDE = """
import json, os, signal, sys, time
from fractions import Fraction
import numpy as np
from tactful_privacy import BudgetError, Ledger, Statistic
HOUR = 3_600_000
HOURLY = Statistic("hourly", ("bread", "milk", "tea"), HOUR, 5, Fraction(1))
def fresh():
    return np.frombuffer(os.urandom(24), dtype=np.int64)
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
location, gate = sys.argv[1:]
print("ready", flush=True)
while not os.path.exists(gate):
    time.sleep(0.001)
"""


def start(code: str, location: str, gate: Path) -> subprocess.Popen[str]:
    """Start a process, wait until it is ready; it runs the code once the gate exists."""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code), location, str(gate)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """What is left to read, and how it ended."""
    assert process.stdout is not None
    # Not communicate: that passes over what readline has taken in beyond its line.
    with process.stdout as out:
        lines = out.read().splitlines()
    return process.wait(120), lines


def test_processes_racing_for_the_same_panes_get_one_value(location: str, tmp_path: Path) -> None:
    """Also the creation of the tables is raced for: nobody made them before."""
    code = """
        ledger = Ledger(location, daily_epsilon=1)
        ledger.register(HOURLY)
        shown = {}
        for start in range(0, 20 * HOUR, HOUR):
            shown[start] = ledger.release_once(HOURLY, start, fresh).noisy_counts.tolist()
        panes = {start: fresh for start in range(20 * HOUR, 60 * HOUR, HOUR)}
        for release in ledger.release_many(HOURLY, panes):
            shown[release.start] = release.noisy_counts.tolist()
        print(json.dumps(shown))
    """
    gate = tmp_path / "gate"
    processes = [start(code, location, gate) for _ in range(4)]
    gate.touch()
    results = [finish(process) for process in processes]
    assert [status for status, _ in results] == [0] * 4
    shown = [json.loads(lines[-1]) for _, lines in results]
    assert len(shown[0]) == 60
    assert shown == [shown[0]] * 4


def test_threads_racing_for_the_same_panes_get_one_value(ledger: Ledger) -> None:
    shown: list[list[list[int]]] = []

    def run() -> None:
        panes = {i * HOUR: fresh for i in range(30)}
        shown.append([r.noisy_counts.tolist() for r in ledger.release_many(HOURLY, panes)])

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown == [shown[0]] * 6


def test_processes_racing_for_the_budget_do_not_overspend(location: str, tmp_path: Path) -> None:
    code = """
        ledger = Ledger(location, daily_epsilon=1)
        name = f"statistic-{os.getpid()}"
        try:
            ledger.register(Statistic(name, ("bread",), HOUR, 5, Fraction(1, 3)))
            print("registered")
        except BudgetError:
            print("refused")
    """
    gate = tmp_path / "gate"
    processes = [start(code, location, gate) for _ in range(5)]
    gate.touch()
    answers = sorted(finish(process)[1][-1] for process in processes)
    assert answers == ["refused"] * 2 + ["registered"] * 3


KILLED_IN = {
    "draw": "ledger.release_once(HOURLY, 0, die)",
    "transaction": """
import sqlalchemy
sqlalchemy.event.listen(ledger._engine, "commit", die)
ledger.release_once(HOURLY, 0, fresh)
""",
    "answer": """
import sys
schema = sys.modules[type(ledger).__module__].schema
reading, calls = schema.reading, []
def killed_after_the_commit(engine):
    calls.append(1)
    return reading(engine) if len(calls) == 1 else die()
schema.reading = killed_after_the_commit
ledger.release_once(HOURLY, 0, fresh)
""",
}


@pytest.mark.parametrize("moment", KILLED_IN)
def test_kill_9_at_any_moment_leaves_one_release_or_none(
    moment: str, location: str, tmp_path: Path
) -> None:
    ledger = Ledger(location, daily_epsilon=1)
    ledger.register(HOURLY)
    gate = tmp_path / "gate"
    gate.touch()
    code = "ledger = Ledger(location)\n" + KILLED_IN[moment]
    assert finish(start(code, location, gate))[0] == -signal.SIGKILL
    stored = ledger.read("hourly").releases
    if moment == "answer":
        (release,) = stored
        again = ledger.release_once(HOURLY, 0, never)
        assert again.noisy_counts.tolist() == release.noisy_counts.tolist()
    else:
        assert stored == ()
        assert ledger.release_once(HOURLY, 0, draws_of(1, 2, 3)).noisy_counts.tolist() == [1, 2, 3]
    ledger.close()


def test_what_was_shown_before_kill_9_is_shown_again(location: str, tmp_path: Path) -> None:
    """Each run starts over with fresh noise, prints what it publishes, and is killed."""
    code = """
        ledger = Ledger(location, daily_epsilon=1)
        ledger.register(HOURLY)
        for start in range(0, 100_000 * HOUR, 3 * HOUR):
            panes = {start + i * HOUR: fresh for i in range(3)}
            for release in ledger.release_many(HOURLY, panes):
                print(json.dumps([release.start, release.noisy_counts.tolist()]), flush=True)
    """
    gate = tmp_path / "gate"
    gate.touch()
    shown: dict[int, list[int]] = {}
    for run in range(4):
        process = start(code, location, gate)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20 + 25 * run)]
        assert all(lines), f"the process ended by itself, with {process.wait(60)}"
        process.kill()
        lines += finish(process)[1][:-1]  # the last may be cut
        for line in lines:
            pane, values = json.loads(line)
            assert shown.setdefault(pane, values) == values
    ledger = Ledger(location)
    assert len(shown) > 20
    for pane, values in shown.items():
        assert ledger.release_once(HOURLY, pane, never).noisy_counts.tolist() == values
    ledger.close()
