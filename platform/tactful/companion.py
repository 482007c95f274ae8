"""A thread that takes over part of the work of a request while another core has nothing to do.

A list is made by one thread. When its server has nothing else to answer, the search for near
vectors can go on beside the other channels. A thread of Python could not do that: it would wait for
the interpreter's lock, and to wake it up takes half as long as its work. So this thread never
leaves machine code (`tactful.companion_code`). It is roused when a request comes, spins and does
what it is given until it is told to rest or nothing came for half a millisecond, and what it did
not begin in time is done by whoever offered it. A server that is busy has no core to spare for
that, and does not rouse it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

_LINE_BYTES = 64
_END_S = 5.0


@dataclass(frozen=True)
class Work:
    """A call of machine code that was begun.

    Attributes:
        code: address of what is called.
        words: what it is told, and where it leaves what it found.
        needs: whatever has to stay in memory until the work is done.
    """

    code: int
    words: array[int]
    needs: tuple[Any, ...]


class Companion:
    """The thread, for one other thread at a time."""

    def __init__(self, cache: Path | None = None) -> None:
        """Start it, asleep.

        Args:
            cache: directory that keeps the machine code, as of `tactful.machine_code.compiled`.

        Raises:
            OSError: if there are no semaphores here that machine code can wait for.
        """
        from numba import types  # it loads slowly, and what only opens no companion needs none

        from tactful import companion_code
        from tactful.machine_code import compiled

        word, nothing = types.int64, types.void
        kernels = {
            code: compiled(code, signature, cache, releases=code is companion_code.attend)
            for code, signature in (
                (companion_code.attend, nothing(word)),
                (companion_code.rouse, nothing(word)),
                (companion_code.rest, nothing(word)),
                (companion_code.offer, types.boolean(word, word, word)),
                (companion_code.collect, nothing(word)),
                (companion_code.do, nothing(word, word)),
                (companion_code.end, nothing(word)),
            )
        }
        self._rouse = kernels[companion_code.rouse]
        self._rest = kernels[companion_code.rest]
        self._offer = kernels[companion_code.offer]
        self._collect = kernels[companion_code.collect]
        self._do = kernels[companion_code.do]
        self._end = kernels[companion_code.end]
        self._offered: Work | None = None
        line = _LINE_BYTES // 8
        words = np.zeros(companion_code.WORDS + line, np.int64)
        words = words[-(words.ctypes.data // 8) % line :]
        for core in os.sched_getaffinity(0):
            if core < 64 * companion_code.CORE_WORDS:
                words.view(np.uint8)[8 * companion_code.CORES + core // 8] |= 1 << core % 8
        self._words, self._shared = words, words.ctypes.data
        semaphore = ctypes.c_void_p(self._shared + 8 * companion_code.SEMAPHORE)
        if ctypes.CDLL(None, use_errno=True).sem_init(semaphore, 0, 0):
            raise OSError(ctypes.get_errno(), "no semaphore for the companion of a request")
        self._thread = threading.Thread(
            target=kernels[companion_code.attend],
            args=(self._shared,),
            name="companion",
            daemon=True,
        )
        self._thread.start()

    def rouse(self) -> None:
        """Have it awake soon, until it may rest or had nothing to do for half a millisecond."""
        self._finish_left()
        self._rouse(self._shared)

    def rest(self) -> None:
        """Have it sleep: nothing more comes."""
        self._rest(self._shared)

    def begin(self, code: int, words: Sequence[int], *needs: object) -> Work:
        """Offer it work, which it begins at once if it is awake and has none.

        Args:
            code: address of a function of C that takes the address of `words`.
            words: what it is told; it may change them.
            needs: the objects whose memory it uses; nobody else may before `finish`.

        Returns:
            The work, for `finish`.
        """
        work = Work(code, array("q", words), needs)
        if self._offer(self._shared, code, _address(work)):
            self._offered = work
        return work

    def finish(self, work: Work) -> None:
        """See that work is done: by it if it began, else here and now."""
        if self._offered is work:
            self._collect(self._shared)
            self._offered = None
        else:
            self._do(work.code, _address(work))

    def close(self) -> None:
        """End the thread."""
        self._finish_left()
        self._end(self._shared)
        self._thread.join(_END_S)

    def _finish_left(self) -> None:
        """Finish what a request left that failed."""
        if self._offered is not None:
            self.finish(self._offered)

    def __enter__(self) -> Self:
        """Use as a context that closes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()


def _address(work: Work) -> int:
    return work.words.buffer_info()[0]


def open_companion(cache: Path | None = None) -> Companion | None:
    """A companion, where it can be of use: on Linux, with a second core.

    Args:
        cache: as of `Companion`.
    """
    if platform.system() != "Linux" or len(os.sched_getaffinity(0)) < 2:
        return None
    return Companion(cache)
