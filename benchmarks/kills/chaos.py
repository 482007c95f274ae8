"""Strikes at brokers, servers, workers and sinks, at any moment.

They are killed, stopped and suspended, at random, while they start, while partitions are assigned,
and while a transaction is open; brokers get full disks, and for a minute there is none.
"""

from __future__ import annotations

import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from tqdm import tqdm

from benchmarks.kills.cluster import Broker, Cluster
from benchmarks.kills.load import Load
from benchmarks.kills.processes import Failures, Process, Victim, restarted
from benchmarks.kills.topics import Arrivals, Stalled
from benchmarks.kills.truth import Outcome
from tactful.util.signals import on_stop_signals

KINDS = ("broker", "server", "worker", "sink")
ACTIONS = ("kill", "stop", "pause")
MOMENTS = ("any time", "start", "assignment", "commit")

_BUDGET_S = 4500.0
_AWAY_S = 60.0
_SHORT_S = 3.0
_HOLD_S = 7.0
_LONG_S = 16.0  # longer than a member of a group may be silent
_WORKING_S = 180.0
_ENDING_S = 120.0
_MOMENT_S = 20.0
_LOOK_S = 0.05
_TWO, _LONG, _PILED = 0.2, 0.3, 0.25
_MANY = 60
"""Strikes from which on a run has several outages."""


Target = Process | Broker


@dataclass(frozen=True)
class Strike:
    """What is done to a process of a kind, and when."""

    kind: str
    action: str
    moment: str


@dataclass
class Report:
    """What came of a run.

    Attributes:
        seed: of load and strikes.
        wanted: how often processes were to be struck.
        outcome: what was compared.
        failures: processes that hung, or ended by themselves.
        strikes: how often each kind of process was struck by what, and how often at which moment.
        faults: answers that say that the server failed.
        answer_s: longest wait for an answer to one request.
        acknowledged_s: longest wait for an acknowledgement.
        minutes: of the strikes.
        problem: why less was compared than should have been; empty: nothing was left out.
        notes: what else a reader must know.
    """

    seed: int
    wanted: int
    outcome: Outcome = field(default_factory=lambda: Outcome("three brokers of Apache Kafka"))
    failures: Failures = field(default_factory=Failures)
    strikes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    answer_s: float = 0.0
    acknowledged_s: float = 0.0
    minutes: float = 0.0
    problem: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, doubled or wrong, hung, or ended."""
        outcome, failures = self.outcome, self.failures
        bad = (outcome.lost, outcome.doubled, outcome.comparison.wrong, failures.hung)
        return not any((*bad, failures.ended, self.faults, self.problem))


def deck(rng: random.Random, kinds: Sequence[str]) -> Iterator[Strike]:
    """All combinations in an order of their own, again and again."""
    every = [Strike(*combination) for combination in product(kinds, ACTIONS, MOMENTS)]
    while True:
        yield from rng.sample(every, len(every))


class Chaos:
    """Strikes at running processes, one round after the other.

    A round waits for its moment, strikes one process or two, holds, and brings them back. After
    three of four rounds it waits until all processes are at work again: what neither works nor ends
    in three minutes hangs.
    """

    def __init__(
        self,
        report: Report,
        cluster: Cluster,
        sink: Victim,
        arrivals: Arrivals,
        write: Callable[[str], None],
    ) -> None:
        """Strike at the brokers of a cluster, at `sink`, and at the processes of a call.

        Args:
            report: is filled.
            cluster: the brokers.
            sink: runs beside the processes of the call.
            arrivals: of rows that workers write in transactions.
            write: takes a line for each strike.
        """
        self._report = report
        self._cluster = cluster
        self._sink = sink
        self._arrivals = arrivals
        self._write = write
        self._rng = random.Random(report.seed)
        self._kinds: Sequence[str] = KINDS
        self._outages: list[tuple[float, Callable[[], None]]] = []
        self._victims: list[Victim] = []
        self._down: set[str] = set()
        self._whole = True
        self._over = threading.Event()
        self._bar: tqdm[Any] | None = None

    def plan(self, kinds: Sequence[str], outages: bool) -> None:
        """Choose the kinds of processes to strike, and whether whole outages come between."""
        self._kinds = kinds
        brokers = self._cluster.brokers
        if not outages:
            return
        self._outages = [(0.1, self._without_brokers)]
        if self._cluster.no_disks is not None:
            self._report.notes.append(f"no disk was filled: {self._cluster.no_disks}")
        else:
            self._outages.append((0.2, partial(self._without_disks, brokers[:1])))
        if self._report.wanted >= _MANY:
            self._outages.append((0.4, self._without_brokers))
            if self._cluster.no_disks is None:
                self._outages.append((0.6, partial(self._without_disks, brokers)))

    def __call__(self, victims: Sequence[Victim], load: Load) -> int:
        """Strike until it was done often enough, the time is over, or a signal asks to stop."""
        self._victims = [*victims, self._sink]
        report, began = self._report, time.monotonic()
        strikes, outages = deck(self._rng, self._kinds), list(self._outages)
        try:
            with tqdm(total=report.wanted, unit="kill") as self._bar, on_stop_signals(self._stop):
                self._await_work()
                while self._goes_on(began):
                    load.check()
                    if outages and report.outcome.kills >= outages[0][0] * report.wanted:
                        outages.pop(0)[1]()
                    else:
                        self._round(next(strikes))
                    if self._rng.random() >= _PILED:
                        self._await_work()
                self._await_work()
        finally:
            report.minutes = (time.monotonic() - began) / 60
            report.faults = load.faults
            report.answer_s, report.acknowledged_s = load.answer_s, load.acknowledged_s
        if report.outcome.kills < report.wanted:
            report.notes.append(f"ended before {report.wanted} strikes")
        return report.outcome.kills

    def strike_last(self) -> None:
        """Kill the sink just after it committed some of the last rows.

        No later rows replace them, so those that it committed and did not write are lost.
        """
        if "sink" in self._kinds:
            struck: dict[str, tuple[Target, str]] = {}
            before, until = self._sink.progress(), time.monotonic() + _MOMENT_S
            while self._sink.progress() == before and time.monotonic() < until:
                time.sleep(_LOOK_S)
            self._strike(self._sink.process, "kill", "last rows", struck)
            self._bring_back(struck)

    def _stop(self) -> None:
        self._over.set()

    def _goes_on(self, began: float) -> bool:
        done = self._report.outcome.kills >= self._report.wanted
        return not (done or self._over.is_set() or time.monotonic() > began + _BUDGET_S)

    def _round(self, strike: Strike) -> None:
        target = self._rng.choice(self._of_kind(strike.kind))
        struck: dict[str, tuple[Target, str]] = {}
        self._await_moment(strike.moment, target, struck)
        self._strike(target, strike.action, strike.moment, struck)
        if self._rng.random() < _TWO:
            kind = self._rng.choice(self._kinds)
            if others := [it for it in self._of_kind(kind) if it.name not in struck]:
                other = self._rng.choice(others)
                self._strike(other, self._rng.choice(ACTIONS), "together", struck)
        self._hold(self._rng.uniform(0.0, _HOLD_S))
        if self._rng.random() < _LONG:
            self._hold(_LONG_S - _HOLD_S)
        self._bring_back(struck)

    def _await_moment(
        self, moment: str, target: Target, struck: dict[str, tuple[Target, str]]
    ) -> None:
        """Bring the moment about, and wait for it."""
        if moment == "start":
            self._strike(target, "kill", "before a start", struck)
            self._hold(self._rng.uniform(0.0, _SHORT_S))
            self._bring_back(struck)
            self._hold(self._rng.uniform(0.0, _SHORT_S))
        elif moment == "assignment":
            workers = [it for it in self._of_kind("worker") if it is not target]
            leaving = self._rng.choice(workers)
            staying = [it for it in self._of_kind("worker") if it is not leaving]
            before = sum(map(_rebalances, staying))
            self._strike(leaving, "stop", "before an assignment", struck)
            until = time.monotonic() + _MOMENT_S
            while sum(map(_rebalances, staying)) == before and time.monotonic() < until:
                time.sleep(_LOOK_S)
        elif moment == "commit":
            self._arrivals.wait(_MOMENT_S)
        else:
            self._hold(self._rng.uniform(0.0, _SHORT_S))

    def _strike(
        self,
        target: Target,
        action: str,
        moment: str,
        struck: dict[str, tuple[Target, str]],
    ) -> None:
        self._down.add(target.name)
        struck[target.name] = target, action
        if isinstance(target, Broker):
            self._whole = False
        else:
            target.check()  # it may have ended by itself before
        self._tell(f"{action} {target.name} ({moment})")
        {"kill": target.kill, "stop": target.terminate, "pause": target.pause}[action]()
        self._count(target.name.partition("-")[0], action, moment)

    def _bring_back(self, struck: dict[str, tuple[Target, str]]) -> None:
        """Undo strikes, those of brokers first."""
        targets = sorted(struck.values(), key=lambda it: not isinstance(it[0], Broker))
        struck.clear()
        for target, action in targets:
            if action == "pause":
                target.resume()
            else:
                if action == "stop":
                    self._check_code(target, target.await_end(_ENDING_S))
                target.start()
            self._tell(f"bring back {target.name}")
            self._down.discard(target.name)

    def _check_code(self, target: Target, code: int) -> None:
        """Record what ended with an error on SIGTERM although all brokers ran."""
        # Before it has a handler, a process ends by the signal.
        good = code in (0, -signal.SIGTERM) or restarted(code)
        if self._whole and not good:
            self._report.failures.ended.append(f"{target.name} ended with {code} on SIGTERM")

    def _without_brokers(self) -> None:
        """Leave no broker for a minute."""
        struck: dict[str, tuple[Target, str]] = {}
        for broker in self._cluster.brokers:
            self._strike(broker, "kill", "all together", struck)
        self._hold(_AWAY_S)
        self._bring_back(struck)
        self._await_work()

    def _without_disks(self, brokers: Sequence[Broker]) -> None:
        """Leave no room on the disks of brokers."""
        self._whole = False
        for broker in brokers:
            self._down.add(broker.name)
            self._tell(f"fill the disk of {broker.name}")
            if not broker.fill_disk():
                broker.kill()
            self._count("broker", "full disk", "any time")
        self._hold(_LONG_S)
        for broker in brokers:
            broker.free_disk()
            broker.start()
            self._tell(f"bring back {broker.name}")
            self._down.discard(broker.name)
        self._await_work()

    def _await_work(self) -> None:
        """Wait until all brokers answer, and all processes are at work."""
        self._cluster.await_whole()
        for victim in self._victims:
            try:
                victim.await_progress(_WORKING_S)
            except Stalled:
                self._tell(f"{victim.process.name} hangs")
                victim.process.give_up(f"neither works nor ends for {_WORKING_S:g} s")
                victim.process.start()
        self._whole = True
        if self._bar is not None:
            failures = self._report.failures
            self._bar.set_postfix(hung=len(failures.hung), ended=len(failures.ended))

    def _hold(self, seconds: float) -> None:
        """Wait, and see that all run that nobody struck."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._over.is_set():
            for victim in self._victims:
                if victim.process.name not in self._down:
                    victim.process.check()
            time.sleep(_LOOK_S)

    def _of_kind(self, kind: str) -> list[Any]:
        processes: list[Target] = [victim.process for victim in self._victims]
        processes += self._cluster.brokers
        return [it for it in processes if it.name.startswith(kind)]

    def _count(self, kind: str, action: str, moment: str) -> None:
        self._report.outcome.kills += 1
        self._report.strikes[f"{action} {kind}"] += 1
        self._report.strikes[f"at {moment}"] += 1
        if self._bar is not None:
            self._bar.update()

    def _tell(self, text: str) -> None:
        self._write(f"{time.strftime('%H:%M:%S')} {text}")


def _rebalances(worker: Process) -> int:
    """How often partitions were given to a worker or taken from it."""
    logged = worker.logged()
    return logged.count("are assigned") + logged.count("are revoked")
