"""A process beside a server, for what takes long and may wait."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

_NICE = 10


@contextmanager
def low_priority() -> Iterator[Executor]:
    """A process of low priority, as long as the context lasts; it ends with this one."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_give_way) as pool:
        yield pool


def _give_way() -> None:
    os.nice(_NICE)
