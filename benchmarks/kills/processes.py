"""The product's processes, killed with ``kill -9`` at random moments and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.kills.topics import Stalled
from tactful.util.supervisor import RESTART

TACTFUL = (sys.executable, "-m", "tactful")
"""What starts the command line; a test puts a broken one in its place."""

NUDGE_S = 30.0
"""How long nothing may happen before the broker of the tests is asked to show what it hides."""

_STARTING_S = 180.0
_PAUSE_S = 1.0
_DUMP_S = 5.0
_POLL_S = 0.02
_WHILE_STARTING = 0.2
_ALL_AT_ONCE = 0.1


def restarted(code: int) -> bool:
    """Whether `--supervise` starts a process again that ended with `code`."""
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return code == RESTART or (code < 0 and -code not in asked)


@dataclass
class Failures:
    """What processes did that nobody had asked for, a sentence each.

    Attributes:
        hung: they neither worked nor ended.
        ended: they ended by themselves, and no supervisor starts them again.
        restarts: how often each ended by itself with which code, and a supervisor starts it again.
    """

    hung: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    restarts: Counter[str] = field(default_factory=Counter)


class Process:
    """A command that goes on with the same files and addresses however often it is started."""

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        name: str,
        *,
        environment: Mapping[str, str],
        launcher: Sequence[str] = TACTFUL,
        failures: Failures | None = None,
    ) -> None:
        """Name a command; :meth:`start` starts it.

        Args:
            arguments: of the command line.
            folder: where the process runs, and where what it says is kept.
            name: of its files there.
            environment: variables beside those of this process.
            launcher: program that the arguments are for.
            failures: where an end that nobody asked for is recorded, and the process is started
                again; None: such an end is an error.
        """
        self.name = name
        self._command = [*launcher, *arguments]
        self._folder = folder
        self._environment = {**os.environ, **environment}
        self._failures = failures
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Number of the process, which was started."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and do not wait."""
        with self._path("out").open("wb") as out, self._path("log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdout=out,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,  # Ctrl-C is for this process alone
            )

    def said(self) -> str:
        """What it has printed since it was started."""
        return self._path("out").read_text("utf-8")

    def logged(self) -> str:
        """All that it has logged, however often it was started."""
        return self._path("log").read_text("utf-8", "replace")

    def await_word(self) -> None:
        """Wait until it has printed something.

        Raises:
            RuntimeError: if it ends or says nothing for three minutes.
        """
        until = time.monotonic() + _STARTING_S
        while not self.said():
            self.check()
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} says nothing: {self._last_words()}")
            time.sleep(_POLL_S)

    def check(self) -> None:
        """See that it runs; one that ended and asked to be started again is.

        Raises:
            RuntimeError: if it has ended by itself.
        """
        assert self._process is not None
        if (code := self._process.poll()) is None:
            return
        if self._failures is None:
            if code != RESTART:
                raise RuntimeError(f"{self.name} ended with {code}: {self._last_words()}")
        elif restarted(code):
            self._failures.restarts[f"{self.name} with {code}"] += 1
        else:
            self._failures.ended.append(f"{self.name} ended with {code}\n{self._last_words()}")
        if self._failures is not None:
            time.sleep(_PAUSE_S)
        self.start()

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = 180.0) -> int:
        """SIGTERM; the exit code.

        Raises:
            TimeoutExpired: if it goes on, and that is not recorded.
        """
        self.terminate()
        return self.await_end(timeout_s)

    def terminate(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    def await_end(self, timeout_s: float = 180.0) -> int:
        """Wait until it has ended after :meth:`terminate`; the exit code.

        Raises:
            TimeoutExpired: if it goes on, and that is not recorded.
        """
        assert self._process is not None
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            if self._failures is None:
                raise
            self.give_up(f"did not end within {timeout_s:g} s of SIGTERM")
            return self._process.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def give_up(self, reason: str) -> None:
        """Record that it hangs, and end it; its log then has the stacks of its threads."""
        assert self._process is not None
        if self._failures is not None:
            self._failures.hung.append(f"{self.name} {reason}\n{self._last_words()}")
        self._signal(signal.SIGABRT)  # faulthandler writes the stacks
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_DUMP_S)
        self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self.name}.{kind}"

    def _last_words(self) -> str:
        return self.logged()[-2000:]


@dataclass
class Victim:
    """A process to kill, and how to see that it is at work.

    Attributes:
        process: what is killed.
        progress: a value that changes while the process does what it is there for.
        kills: how often it was killed.
        nudge: called now and then while it does nothing.
    """

    process: Process
    progress: Callable[[], object]
    kills: int = field(default=0)
    nudge: Callable[[], None] = lambda: None

    def await_progress(self, timeout_s: float = _STARTING_S) -> None:
        """Wait until it does something.

        Raises:
            RuntimeError: if it has ended.
            Stalled: if it does nothing for so long.
        """
        before, until = self.progress(), time.monotonic() + timeout_s
        nudged = time.monotonic()
        while self.progress() == before:
            self.process.check()
            if time.monotonic() > nudged + NUDGE_S:
                self.nudge()
                nudged = time.monotonic()
            if time.monotonic() > until:
                raise Stalled(f"{self.process.name} does nothing for {timeout_s:g} s")
            time.sleep(_POLL_S)

    def kill_and_start(self) -> None:
        """``kill -9``, and up again."""
        self.process.kill()
        self.kills += 1
        self.process.start()


def kill_at_random(
    victims: Sequence[Victim],
    times: int,
    rng: random.Random,
    *,
    spread_s: float = 2.0,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Kill running victims, each after it has been seen at work since its start.

    One in five is killed while it starts, too, and now and then all die in the same moment.

    Args:
        victims: running processes.
        times: how often to kill, all victims together, at least.
        rng: chooses whom and when.
        spread_s: within how long after it has been seen at work.
        check: called between kills; raises to give up.

    Returns:
        How often any was killed.

    Raises:
        RuntimeError: if one ends.
        Stalled: if one does not come back to work.
    """
    while (done := sum(victim.kills for victim in victims)) < times:
        check()
        dying = list(victims) if rng.random() < _ALL_AT_ONCE else [rng.choice(victims)]
        for victim in dying:
            victim.await_progress()
        time.sleep(rng.uniform(0.0, spread_s))
        for victim in dying:
            victim.process.check()
            victim.kill_and_start()
        if rng.random() < _WHILE_STARTING and done + len(dying) < times:
            time.sleep(rng.uniform(0.0, 2.0))
            dying[0].kill_and_start()
    for victim in victims:
        victim.await_progress()
    return done
