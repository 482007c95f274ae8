"""Memory of the machine and of this process."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self")
# files of version 2 and 1; the second is the group of a container that sees all groups
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def machine_memory(cgroups: Path = _CGROUPS, process: Path = _PROCESS) -> int:
    """Return the memory that this process may use, bytes: of the machine or its control groups."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = [cgroups]
    for line in _read(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)  # ``0::/system.slice/tactful.service``
        if controllers in ("", "memory"):
            group = cgroups / controllers / path.lstrip("/")
            groups += [group, *(parent for parent in group.parents if cgroups in parent.parents)]
    for group in groups:
        for name in (*_LIMITS, "memory.limit_in_bytes"):
            text = _read(group / name).strip()
            if text.isdecimal():  # ``max`` is no limit
                limits.append(int(text))
    return min(limits)


def own_memory(process: Path = _PROCESS) -> int:
    """Return the memory that this process alone holds in RAM, bytes; 0 where it is not known.

    Pages of mapped files do not count: the system takes them back when it needs memory.
    """
    numbers = _read(process / "statm").split()
    if len(numbers) < 3:
        return 0
    return (int(numbers[1]) - int(numbers[2])) * os.sysconf("SC_PAGE_SIZE")


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        return ""
