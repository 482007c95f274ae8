"""Interpreter settings for short delays instead of throughput."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

_SWITCH_INTERVAL_S = 0.0005
_COLLECT_AFTER = (5_000, 20, 500)


@contextlib.contextmanager
def short_delays() -> Iterator[None]:
    """Shorten the switch interval and tune the collector while the context lasts.

    A short switch interval keeps a computing thread from delaying one that answers requests. The
    collector visits new objects often and old ones seldom: a full collection of a large engine
    state would stop the process for hundreds of milliseconds.
    """
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.set_threshold(*_COLLECT_AFTER)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def freeze_living_objects() -> None:
    """Collect once, then exclude all living objects from later collections."""
    gc.collect()
    gc.freeze()
