"""Measure memory in a new process, where nothing but the function allocates."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


def alone(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a function of a module in a new process; its error is raised here.

    The process is not forked: a fork takes over locks and libraries' state from hundreds of tests.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()
