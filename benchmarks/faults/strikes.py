"""Faults of an installation: of its processes, disk, memory, clock, and links.

A fault begins, lasts some seconds and ends. Then all processes must be at work again, which is
timed.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from tqdm import tqdm

from benchmarks.faults.network import TROUBLES, Link
from benchmarks.kills.chaos import Target
from benchmarks.kills.cluster import Broker
from benchmarks.kills.load import Load
from benchmarks.kills.processes import Failures, Process, Victim, restarted
from benchmarks.kills.topics import Stalled

STEPS_S: Final = (-600, 3600)
"""Steps of a clock, seconds."""

_HOLD_S, _LONG_S, _LONG, _TWO = 4.0, 16.0, 0.15, 0.2
_WORKING_S, _ENDING_S, _QUIET_S, _LOOK_S = 240.0, 120.0, 1.5, 0.05
_ROOM = 2 * 2**20
_MB = bytes(2**20)


@dataclass(frozen=True)
class Fault:
    """A fault that can begin and end.

    Attributes:
        kind: of fault, for counts: `kill server`.
        target: name of the process that it may end or stop; empty: of none.
        begin: begins it.
        end: ends it, and starts again what it ended.
    """

    kind: str
    target: str
    begin: Callable[[], None]
    end: Callable[[], None]


def process_faults(target: Target, failures: Failures) -> Iterator[Fault]:
    """Yield the faults of a process: SIGKILL, SIGTERM, and SIGSTOP."""
    kind = target.name.partition("-")[0]

    def bring_back() -> None:
        code = target.await_end(_ENDING_S)
        if code not in (0, -signal.SIGTERM) and not restarted(code):
            failures.ended.append(f"{target.name} ended with {code} on SIGTERM")
        target.start()

    yield Fault(f"kill {kind}", target.name, target.kill, target.start)
    yield Fault(f"stop {kind}", target.name, target.terminate, bring_back)
    yield Fault(f"pause {kind}", target.name, target.pause, target.resume)


def link_faults(name: str, link: Link) -> Iterator[Fault]:
    """Yield the troubles of a link."""
    for trouble in TROUBLES:
        yield Fault(f"{trouble} {name}", "", partial(link.disturb, trouble), link.restore)


def broker_disk_fault(broker: Broker) -> Fault:
    """Return the fault that a broker has no room on its disk."""

    def fill() -> None:
        if not broker.fill_disk():
            broker.kill()

    def free() -> None:
        broker.free_disk()
        broker.start()

    return Fault("full disk of a broker", broker.name, fill, free)


def full_disk_fault(folder: Path) -> Fault:
    """Return the fault that the disk of a folder is full."""
    filler = folder / "filler"

    def fill() -> None:
        with filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(_MB)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise

    return Fault("full disk", "", fill, lambda: filler.unlink(missing_ok=True))


def slow_disk_fault(folder: Path) -> Fault:
    """Return the fault that somebody else keeps the disk of a folder busy."""
    over = threading.Event()
    threads: list[threading.Thread] = []

    def keep_busy() -> None:
        with (folder / "busy").open("wb", buffering=0) as file:
            while not over.is_set():
                file.seek(0)
                for _ in range(16):
                    file.write(_MB)
                os.fsync(file.fileno())

    def begin() -> None:
        over.clear()
        threads.append(threading.Thread(target=keep_busy, daemon=True))
        threads[-1].start()

    def end() -> None:
        over.set()
        threads.pop().join()

    return Fault("slow disk", "", begin, end)


def memory_fault(process: Process) -> Fault:
    """Return the fault that a process gets next to no more memory."""
    before: list[tuple[int, int]] = []

    def begin() -> None:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + _ROOM
        limits = resource.prlimit(process.pid, resource.RLIMIT_AS)
        before.append(limits)
        resource.prlimit(process.pid, resource.RLIMIT_AS, (size, limits[1]))

    def end() -> None:
        # One that ended by it, and was started again, has the limit of a new process.
        with suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_AS, before.pop())

    return Fault(f"no memory for {process.name.partition('-')[0]}", process.name, begin, end)


def clock_faults(file: Path) -> Iterator[Fault]:
    """Yield steps of the clock that a process reads from a file, and back."""
    for step in STEPS_S:
        yield Fault(
            f"clock {step:+d} s",
            "",
            partial(set_clock, file, step),
            partial(set_clock, file, 0),
        )


def set_clock(file: Path, step_s: int) -> None:
    """Let the clock of the processes that read a file be off by so many seconds."""
    draft = file.with_suffix(".draft")
    draft.write_text(f"{step_s:+d}\n")
    draft.replace(file)


@dataclass
class Strikes:
    """Begins faults of an installation under load, one or two at a time.

    All kinds of faults come before one comes again.

    Attributes:
        faults: all that may happen.
        wanted: how many.
        rng: chooses which, and for how long.
        failures: of processes.
        write: takes a line for each begin and end.
        await_whole: waits for what is neither the platform's nor a victim, such as brokers.
        beside: further processes that are not part of the platform, such as Redis.
        counts: how often each kind happened.
        recovery_s: from the end of each fault until all processes were at work.
    """

    faults: Sequence[Fault]
    wanted: int
    rng: random.Random
    failures: Failures
    write: Callable[[str], None]
    await_whole: Callable[[], None] = lambda: None
    beside: Sequence[Process] = ()
    counts: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)

    def __call__(self, victims: Sequence[Victim], load: Load) -> int:
        """Strike until it was often enough; return how often."""
        self._await_work(victims)
        deck: list[Fault] = []
        with tqdm(total=self.wanted, unit="fault", dynamic_ncols=True) as bar:
            while self.counts.total() < self.wanted:
                load.check()
                chosen = [self._next(deck)]
                if self.rng.random() < _TWO:
                    other = self._next(deck)
                    if other is chosen[0] or (other.target and other.target == chosen[0].target):
                        deck.insert(0, other)  # its turn comes later
                    else:
                        chosen.append(other)
                self._strike(chosen, victims)
                bar.update(len(chosen))
        return self.counts.total()

    def _next(self, deck: list[Fault]) -> Fault:
        if not deck:
            deck += self.rng.sample(self.faults, len(self.faults))
        return deck.pop()

    def _strike(self, chosen: Sequence[Fault], victims: Sequence[Victim]) -> None:
        down = {fault.target for fault in chosen}
        begun: list[Fault] = []
        try:
            for fault in chosen:
                self._tell(fault.kind, fault.target)
                begun.append(fault)
                fault.begin()
                self.counts[fault.kind] += 1
            long = self.rng.random() < _LONG
            self._hold(_LONG_S if long else self.rng.uniform(0.0, _HOLD_S), victims, down)
        finally:
            for fault in begun:
                fault.end()
                self._tell("end of", fault.kind, fault.target)
        ended = time.monotonic()
        self._await_work(victims)
        took = time.monotonic() - ended
        self.recovery_s += [took] * len(chosen)
        self._tell(f"at work after {took:.1f} s")
        self._hold(_QUIET_S, victims, set())

    def _hold(self, seconds: float, victims: Sequence[Victim], down: set[str]) -> None:
        """Wait, and see that all run that may."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for victim in victims:
                if victim.process.name not in down:
                    victim.process.check()
            time.sleep(_LOOK_S)

    def _await_work(self, victims: Sequence[Victim]) -> None:
        self.await_whole()
        for process in self.beside:
            process.check()
        for victim in victims:
            try:
                victim.await_progress(_WORKING_S)
            except Stalled:
                self._tell(victim.process.name, "hangs")
                victim.process.give_up(f"neither works nor ends for {_WORKING_S:g} s")
                victim.process.start()

    def _tell(self, *words: str) -> None:
        self.write(f"{time.strftime('%H:%M:%S')} {' '.join(words)}")
