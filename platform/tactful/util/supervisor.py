"""Run a command in a child process and restart it after a crash.

A native library can crash a process: some versions of the Kafka client read freed memory when a
topic is deleted during use, in a thread that no Python handler reaches. The kernel kills a process
when memory runs out. Committed data stays, as after any ``kill -9``. The parent process reports the
end and starts the command again.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import click

from tactful.util.signals import on_stop_signals

RESTART = 75
"""Exit code that asks to be started again."""

_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals by which somebody ends a process on purpose."""
_DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_SOUND_S = 60.0
"""Time after which a child has started successfully."""


def supervise(
    command: Sequence[str],
    *,
    again: int | None,
    report: Callable[[str], None],
    pause_s: float = _FIRST_PAUSE_S,
) -> int:
    """Run `command` until it ends by itself or this process receives a stop signal.

    SIGTERM and SIGINT are passed on to the child, whose end is then final. Main thread only.
    After any other signal or the exit code `again` it starts anew, first after `pause_s` seconds;
    the pause doubles up to 30 s until a child has run for a minute. The result is the exit code, or
    128 plus the number of the last signal.
    """
    stopping = threading.Event()
    running: list[subprocess.Popen[bytes]] = []

    def stop() -> None:
        stopping.set()
        for process in running:
            process.terminate()

    pause = pause_s
    with on_stop_signals(stop):
        while True:
            process, began = (
                subprocess.Popen(command, preexec_fn=die_with_parent),
                time.monotonic(),
            )
            running[:] = [process]
            if stopping.is_set():
                process.terminate()  # the signal came before the child existed
            code = process.wait()
            crashed = code < 0 and -code not in _STOPS
            if stopping.is_set() or not (crashed or code == again):
                return code if code >= 0 else 128 - code
            if time.monotonic() >= began + _SOUND_S:
                pause = pause_s
            report(f"the process is started again in {pause:g} s: {_reason(code)}")
            stopping.wait(pause)
            if stopping.is_set():
                return code if code >= 0 else 128 - code
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def _reason(code: int) -> str:
    if code >= 0:
        return "it requested a restart"
    if -code == signal.SIGKILL:
        return "it was killed (SIGKILL), as when memory runs out. Committed data stays"
    return (
        f"it crashed ({signal.Signals(-code).name}), as a native library can, for example "
        "the Kafka client when a topic is deleted during use. Committed data stays"
    )


def supervise_this(again: int | None = None) -> NoReturn:
    """Supervise the present command without ``--supervise``, and exit with its code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--supervise"]
    sys.exit(
        supervise(
            [sys.executable, "-m", "tactful", *arguments],
            again=again,
            report=lambda line: click.echo(f"tactful: {line}", err=True),
        )
    )


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent is killed, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
