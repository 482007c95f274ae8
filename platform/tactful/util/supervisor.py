"""Running a command in a process of its own, which is started again when it crashes.

A library in machine code can end a process without a word: the Kafka client, in some of its
versions, reads memory that it has given back when a topic is deleted under it, in a thread that no
handler of ours can reach. What was committed stays, as after any ``kill -9``; who watches from
another process can say what happened, and begin again.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NoReturn

import click

from tactful.util.signals import on_stop_signals

_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})
_DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


def supervise(
    command: Sequence[str],
    *,
    again: int | None,
    tell: Callable[[str], None],
    pause_s: float = _FIRST_PAUSE_S,
) -> int:
    """Run `command` until it ends by itself or this process is told to stop.

    SIGTERM and SIGINT are passed on to it; then its end is final. For the main thread only.

    Args:
        command: program and arguments.
        again: exit code that asks to be started again; None: none does.
        tell: given a line for each time that it is started again, and why.
        pause_s: wait before the first start again, seconds; it doubles each time, up to 30 s.

    Returns:
        Its exit code; 128 and the number of the signal where one ended it.
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
            process = subprocess.Popen(command, preexec_fn=_die_with_parent)
            running[:] = [process]
            if stopping.is_set():
                process.terminate()  # the signal came before there was anybody to pass it on to
            code = process.wait()
            crashed = code < 0 and -code in _CRASHES
            if stopping.is_set() or not (crashed or code == again):
                return code if code >= 0 else 128 - code
            reason = (
                f"it crashed ({signal.Signals(-code).name}), which a library in machine code can "
                "do, the Kafka client when a topic is deleted under it. What was committed stays"
                if crashed
                else "it asked for that"
            )
            tell(f"the process is started again in {pause:g} s: {reason}")
            stopping.wait(pause)
            if stopping.is_set():
                return code if code >= 0 else 128 - code
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def supervise_this(again: int | None = None) -> NoReturn:
    """Run the present command without ``--supervise`` as :func:`supervise` does, and end with it.

    Args:
        again: exit code that asks to be started again; None: none does.
    """
    arguments = [it for it in sys.argv[1:] if it != "--supervise"]
    sys.exit(
        supervise(
            [sys.executable, "-m", "tactful", *arguments],
            again=again,
            tell=lambda said: click.echo(f"tactful: {said}", err=True),
        )
    )


def _die_with_parent() -> None:
    """Let the kernel kill this process when its parent is killed, where it can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
