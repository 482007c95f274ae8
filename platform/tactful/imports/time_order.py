"""Sorts more elements than fit into memory by time."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter
from typing import IO, NamedTuple

_HEAD = struct.Struct("<qqI")
_DAY_MS = 86_400_000
_DISORDERED = 0.01  # share of times
_RUN_BYTES = 64 * 1024 * 1024


class Timed(NamedTuple):
    """Element with its time and its row."""

    time: int  # epoch milliseconds
    number: int
    line: bytes


def by_time(elements: Iterable[Timed], run_bytes: int = _RUN_BYTES) -> Iterator[Timed]:
    """Yield elements in the order of their times; equal times keep their order.

    Sorted runs of `run_bytes` are kept in files without a name, which the system deletes when the
    process ends, however it ends.
    """
    runs: list[IO[bytes]] = []
    run: list[Timed] = []
    size = 0
    with ExitStack() as files:
        for element in elements:
            run.append(element)
            size += len(element.line) + 100
            if size >= run_bytes:
                runs.append(files.enter_context(tempfile.TemporaryFile()))
                _write(runs[-1], run)
                run, size = [], 0
        run.sort(key=itemgetter(0))
        yield from heapq.merge(*map(_read, runs), run, key=itemgetter(0))


def is_disordered(times: Sequence[int]) -> bool:
    """Whether more than one in a hundred times lies a day behind an earlier one."""
    latest, behind = times[0] if times else 0, 0
    for time in times:
        behind += time < latest - _DAY_MS
        latest = max(latest, time)
    return behind > _DISORDERED * len(times)


def _write(file: IO[bytes], run: list[Timed]) -> None:
    run.sort(key=itemgetter(0))
    for time, number, line in run:
        file.write(_HEAD.pack(time, number, len(line)))
        file.write(line)
    file.seek(0)


def _read(file: IO[bytes]) -> Iterator[Timed]:
    while head := file.read(_HEAD.size):
        time, number, size = _HEAD.unpack(head)
        yield Timed(time, number, file.read(size))
