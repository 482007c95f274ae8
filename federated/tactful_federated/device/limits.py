"""Resource limits of training on a device: memory, threads and priority."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from threadpoolctl import threadpool_limits

from tactful_federated.errors import require

MOST_TOKENS: Final = 20_000
"""Largest number of tokens of a user to train on, which bounds the time of an answer."""


@dataclass(frozen=True)
class Limits:
    """Limits of a process that answers a server.

    Attributes:
        memory_mb: Data memory in MiB, without code and files; an allocation beyond it fails, but
            the process continues. Importing torch needs about 450.
        threads: Number of computing threads.
        niceness: Unix niceness, 0 to 19; 19 runs only on an idle processor.
    """

    memory_mb: int = 1024
    threads: int = 1
    niceness: int = 10

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a limit outside its range."""
        require(self.memory_mb >= 1, f"memory_mb is {self.memory_mb}: give 1 or more")
        require(self.threads >= 1, f"threads is {self.threads}: give 1 or more")
        require(0 <= self.niceness <= 19, f"niceness is {self.niceness}: give 0 to 19")


def keep_within(limits: Limits) -> None:
    """Apply limits to this process for its lifetime; memory only on Unix."""
    threadpool_limits(limits.threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(limits.threads)
    if hasattr(os, "nice"):
        os.nice(max(0, limits.niceness - os.nice(0)))
    if sys.platform != "win32":
        import resource

        most = limits.memory_mb * 2**20
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def latest(visits: Sequence[Sequence[str]], most_tokens: int = MOST_TOKENS) -> list[list[str]]:
    """Return the latest visits with at most `most_tokens` tokens, in order."""
    selected: list[list[str]] = []
    left = most_tokens
    for visit in reversed(visits):
        left -= len(set(visit)) + 1
        if left < 0:
            break
        selected.append(list(visit))
    return selected[::-1]
