"""Many processes write to one ledger at once and are killed; then everything shown is checked.

Run as a program (``python -m benchmarks.privacy.ledger LOCATION WRITERS KILLS SEED``) it prints
what it found as JSON: its writers are forked, so it must have no threads of its own.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from tactful_privacy.errors import BudgetError, LedgerError
from tactful_privacy.ledger import grants as ledger_grants
from tactful_privacy.ledger.budget import Budget, Charge, refuse_overspending
from tactful_privacy.ledger.ledger import DayClaim, Draw, Ledger, Release
from tactful_privacy.ledger.query import Answer, Query
from tactful_privacy.ledger.statistic import Statistic

_DAY, _HOUR = 86_400_000, 3_600_000
_BUDGETS = (Budget(Fraction(3, 10), purpose="reports"), Budget(Fraction(3, 10), purpose="research"))
_DAILY = Fraction(1, 2)
_EACH = Fraction(1, 20)
_STATISTICS, _QUERIES = 6, 12
_A_DAY = 40  # after so many requests of all writers come the next day's: they want the same
_REQUESTS_FOR_A_KILL = 10
_LIMIT_S = 900.0


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Attributes:
        writers: Processes that wrote at once.
        killed: Processes that were killed with SIGKILL.
        shown: Releases and answers that were returned to a writer.
        refused: Requests that no longer fitted a budget.
        busy: Requests that the database gave up, because too many others were waiting.
        drawn_twice: Panes or queries of which two values were shown, or one that is not stored.
        overspent: Budgets and days on which more was granted than the budget allows.
        failed: Writers that ended with an error of their own.
    """

    writers: int
    killed: int
    shown: int
    refused: int
    busy: int
    drawn_twice: int
    overspent: int
    failed: int

    @property
    def overspends(self) -> int:
        """Everything that must not happen."""
        return self.drawn_twice + self.overspent


def figures(quick: bool) -> list[Figure]:
    """Measure `ledger_overspends` on SQLite."""
    writers, kills = (40, 40) if quick else (200, 400)
    with tempfile.TemporaryDirectory() as folder:
        found = run_apart(str(Path(folder) / "ledger.db"), writers, kills, seed=1)
    note = (
        f"{found.writers} writers at once on SQLite, {found.killed} killed; {found.shown} values"
        f" shown, {found.refused} requests refused, {found.busy} given up as busy,"
        f" {found.failed} writers failed"
    )
    return [Figure("ledger_overspends", float(found.overspends), "1", runs=1, note=note)]


def run_apart(location: str, writers: int, kills: int, seed: int, mistake: str = "none") -> Outcome:
    """Do as `run` in a process of its own."""
    numbers = (str(writers), str(kills), str(seed))
    command = [sys.executable, "-m", __name__, location, *numbers, mistake]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the writers could not be run: {done.stderr[-2_000:]}")
    return Outcome(**json.loads(done.stdout))


def run(location: str, writers: int, kills: int, seed: int, mistake: str = "none") -> Outcome:
    """Let writers race on an empty ledger until enough of them are killed, and look.

    Args:
        location: Of an empty ledger.
        writers: Processes at once; one that dies is replaced.
        kills: How many of them are to die.
        seed: Of who does what; how the processes interleave is theirs.
        mistake: One of `MISTAKES`, which the check has to catch.
    """
    rng = random.Random(seed)
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        alive: list[ForkProcess] = []
        started = killed = failed = 0
        next_kill = _REQUESTS_FOR_A_KILL
        # Without a lock, which one that is killed might hold: it need not count exactly.
        requests = fork.Value("l", 0, lock=False)
        begin = time.monotonic()
        while killed < kills and time.monotonic() < begin + _LIMIT_S:
            while len(alive) < writers:
                arguments = (location, folder, started, requests, rng.random(), MISTAKES[mistake])
                process = fork.Process(target=_write_until_stopped, args=arguments)
                process.start()
                alive.append(process)
                started += 1
            time.sleep(0.02)
            if requests.value >= next_kill:  # not by the clock, which a busy machine outruns
                rng.choice(alive).kill()
                next_kill = requests.value + _REQUESTS_FOR_A_KILL
            for each in alive:
                if each.exitcode is not None:
                    killed += each.exitcode == -signal.SIGKILL
                    failed += each.exitcode not in (0, -signal.SIGKILL)
            alive = [each for each in alive if each.exitcode is None]
        (folder / "stop").touch()
        for each in alive:
            each.join()
            killed += each.exitcode == -signal.SIGKILL
            failed += each.exitcode not in (0, -signal.SIGKILL)
        return _judged(location, folder, writers, killed, failed)


class _ShowsItsOwnDraw(Ledger):
    """Returns what it drew and not what is stored."""

    def release_many(
        self, statistic: Statistic, draws: Mapping[int, Draw], *, claim: DayClaim | None = None
    ) -> list[Release]:
        drawn = {start: draw() for start, draw in draws.items()}
        super().release_many(statistic, {start: drawn[start].copy for start in draws}, claim=claim)
        return [Release(statistic.name, start, drawn[start], 0) for start in draws]


class _LooksBeforeItLocks(Ledger):
    """Looks at what is granted in one transaction and grants in the next."""

    def answer_once(self, query: Query, draw: Draw) -> Answer:
        asked = Charge("new", "", query.purpose, query.first_day, query.last_day, query.loss)
        if not any(a.query == query for a in self.answers(query.first_day, query.last_day)):
            refuse_overspending(self.budgets, self.charges(), [asked])
        with mock.patch.object(ledger_grants, "refuse_overspending"):
            return super().answer_once(query, draw)


MISTAKES: dict[str, type[Ledger]] = {
    "none": Ledger,
    "shows its own draw": _ShowsItsOwnDraw,
    "looks before it locks": _LooksBeforeItLocks,
}


def _write_until_stopped(
    location: str, folder: Path, number: int, requests: Any, seed: float, kind: type[Ledger]
) -> None:
    rng = random.Random(seed)
    handle = os.open(folder / f"{number}.shown", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def record(*what: object) -> None:
        os.write(handle, json.dumps(what).encode() + b"\n")

    def drawing(length: int) -> Callable[[], NDArray[np.int64]]:
        def draw() -> NDArray[np.int64]:
            _die_sometimes(rng)  # between the charge and the store
            return np.frombuffer(os.urandom(8 * length), dtype=np.int64)

        return draw

    stop = folder / "stop"
    ledger = None
    while not stop.exists():
        requests.value += 1
        tick = requests.value // _A_DAY
        try:
            ledger = ledger or kind(location, daily_epsilon=_DAILY, budgets=_BUDGETS)
            if rng.random() < 0.5:
                statistic = _statistic(rng.randrange(_STATISTICS))
                ledger.register(statistic)
                panes = {(tick + n) * _HOUR: drawing(2) for n in range(2)}
                for release in ledger.release_many(statistic, panes):
                    _die_sometimes(rng)  # between the store and the publication
                    record(statistic.name, release.start, release.noisy_counts.tolist())
            else:
                query = _query(tick, rng.randrange(_QUERIES))
                answer = ledger.answer_once(query, drawing(1))
                assert answer.values is not None
                record(query.name, query.first_day, answer.values.tolist())
        except BudgetError:
            record("refused")
        except LedgerError as error:
            if "locked" not in str(error):
                raise
            record("busy")


def _die_sometimes(rng: random.Random) -> None:
    if rng.random() < 0.005:
        os.kill(os.getpid(), signal.SIGKILL)


def _statistic(number: int) -> Statistic:
    purpose = ("reports", "research")[number % 2]
    return Statistic(f"statistic-{number}", ("a", "b"), _HOUR, 5, _EACH, purpose=purpose)


def _query(tick: int, number: int) -> Query:
    purpose = ("reports", "research")[number % 2]
    last = tick + number // 2 % 2  # some are about two days
    return Query(f"query-{tick}-{number}", tick, last, _EACH, purpose=purpose)


def _judged(location: str, folder: Path, writers: int, killed: int, failed: int) -> Outcome:
    shown: dict[tuple[str, int], set[tuple[int, ...]]] = defaultdict(set)
    count = refused = busy = 0
    for path in folder.glob("*.shown"):
        for line in path.read_bytes().split(b"\n")[:-1]:
            name, *rest = json.loads(line)
            if name in ("refused", "busy"):
                refused += name == "refused"
                busy += name == "busy"
                continue
            count += 1
            shown[name, rest[0]].add(tuple(rest[1]))
    ledger = Ledger(location)
    wrong = 0
    for (name, start), values in shown.items():
        if name.startswith("query"):
            found = [a.values for a in ledger.answers(start, start) if a.query.name == name]
        else:
            page = ledger.read(name, start=start, end=start + 1)
            found = [release.noisy_counts for release in page.releases]
        stored = {tuple(each.tolist()) for each in found if each is not None}
        wrong += values != stored
    overspent = _overspent(ledger)
    ledger.close()
    return Outcome(writers, killed, count, refused, busy, wrong, overspent, failed)


def _overspent(ledger: Ledger) -> int:
    """Add up what was granted, by another way than the ledger does."""
    found = 0
    for purpose, limit in (("reports", _BUDGETS[0]), ("research", _BUDGETS[1]), ("", None)):
        registered = [
            statistic
            for statistic in ledger.statistics().values()
            if statistic.purpose.startswith(purpose)
        ]
        asked = [
            answer.query
            for answer in ledger.answers(0, 10**6)
            if answer.query.purpose.startswith(purpose)
        ]
        for day in range(1 + max((query.last_day for query in asked), default=0)):
            about = [query for query in asked if query.first_day <= day <= query.last_day]
            granted = _EACH * (len(registered) + len(about))
            found += granted > (limit.epsilon if limit else _DAILY)
    return found


if __name__ == "__main__":
    _location, *_numbers, _mistake = sys.argv[1:]
    _writers, _kills, _seed = map(int, _numbers)
    print(json.dumps(asdict(run(_location, _writers, _kills, _seed, _mistake))))
