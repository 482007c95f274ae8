"""Run a function in a process without other threads, whose allocations would be measured, too."""

import multiprocessing
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_FORK = multiprocessing.get_context("fork")


def alone(function: Callable[[], Result]) -> Result:
    """Return what the function returns in a forked process; EOFError if it fails there."""
    receiver, sender = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=lambda: sender.send(function()))
    process.start()
    sender.close()
    try:
        result: Result = receiver.recv()
    finally:
        process.join()
    return result
