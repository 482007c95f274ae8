"""Stop signals of commands that run until SIGTERM or SIGINT, and the end of such a command."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def leave() -> None:
    """End a command that has nothing to finish."""
    raise SystemExit(0)


@contextmanager
def on_stop_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` on SIGTERM and SIGINT while the context lasts; main thread only."""
    before = {
        number: signal.signal(number, lambda *_: stop())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_process(process: subprocess.Popen[Any], patience_s: float) -> None:
    """End a process by SIGTERM, or by SIGKILL if it has not ended in time."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
