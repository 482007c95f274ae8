"""The interpreter set for short delays instead of throughput."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

_SWITCH_INTERVAL_S = 0.0005
_COLLECT_AFTER = (5_000, 20, 500)


@contextlib.contextmanager
def short_delays() -> Iterator[None]:
    """While it lasts no thread waits long for another, nor for the collector.

    The interpreter lock is handed over quickly, so that a thread which computes does not hold up
    one which answers. The collector looks often at the few objects that are new and seldom at what
    lives long, which is the engine's state: a full collection of a large state would stop
    everything for hundreds of milliseconds.
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


def keep_what_is() -> None:
    """Tell the collector that what is alive now lives on, so that it need not look at it again."""
    gc.collect()
    gc.freeze()
