"""Run a function in a new process, without what other tests left in this one."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a new process; its error is raised here.

    The process is not forked: a fork takes over locks and the threads' state of libraries, and may
    wait for them without end. If it dies, the error is a BrokenProcessPool.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()
