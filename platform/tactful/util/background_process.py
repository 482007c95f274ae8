"""A process of low priority beside a server, for long work."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager

_NICE = 10


@contextmanager
def low_priority() -> Iterator[Executor]:
    """Yield an executor of one low-priority process, which ends with the context."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_lower_priority) as pool:
        yield pool


def _lower_priority() -> None:
    os.nice(_NICE)
