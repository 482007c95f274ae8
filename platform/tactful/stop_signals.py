"""Commands that run until they are told to stop, and then finish what is at hand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def leave() -> None:
    """Ends a command that has nothing to finish."""
    raise SystemExit(0)


@contextmanager
def on_stop_signals(stop: Callable[[], object]) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop` while the context lasts; for the main thread only."""
    before = {
        number: signal.signal(number, lambda *_: stop())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
