"""Rates of browser keys, of devices and of all together, for all processes of one server together.

Everybody can read a browser key, so everybody can send with it. Each request and each event counts
for its key and its device (GCRA, the leaky bucket of ATM Forum TM 4.0 as a time): a cell holds the
time by which all that was counted would have come at the allowed rate, and refuses while that is
more than ten seconds ahead. Ids select cells by a keyed hash, so memory is constant and a sender
cannot choose whom to share a cell with::

    secret 16 bytes | cells of keys: float64 [1,024] | cells of devices: float64 [65,536] | all

The processes share this memory without a lock: two that count in the same microsecond may count
one. A flood of ids from one key is stopped by the limit of the key, which is charged first: the
devices that it can exhaust are 33 of 65,536.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import blake2b

from tactful.config.server import LimitSettings
from tactful.schemas.problems import ProblemError

_BURST_S = 10.0
_KEYS = 1_024
_DEVICES = 65_536
_ALL = 2  # requests, events
_SECRET = 16


class RateLimits:
    """Counts requests and events; refuses those of a key or device that sends too fast.

    Attributes:
        memory: file descriptor of the shared memory, for the other processes.
    """

    def __init__(
        self,
        settings: LimitSettings,
        *,
        memory: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count in `memory` of another process, else in new memory; `clock` is the system's."""
        self.memory = _new_memory() if memory is None else memory
        weakref.finalize(self, os.close, self.memory)
        mapped = memoryview(mmap.mmap(self.memory, 0))
        self._secret = bytes(mapped[:_SECRET])
        cells = mapped[_SECRET:].cast("d")
        self._keys = cells[:_KEYS], settings.browser_key_rate
        self._devices = cells[_KEYS : _KEYS + _DEVICES], settings.device_rate
        self._requests = cells[-2:-1], settings.request_rate
        self._events = cells[-1:], settings.event_rate
        self._clock = clock

    def count(self, key: str, number: int = 1, devices: Iterable[str | None] = ()) -> None:
        """Count `number` requests or events of a browser key, and one for each of `devices`.

        One batch is accepted whatever its size; the next one then waits the longer.

        Raises:
            ProblemError: if the key, or a device, sends too fast.
        """
        self._charge(*self._keys, key, number, "this browser key")
        for device, times in Counter(devices).items():
            if device is not None:
                self._charge(*self._devices, device, times, "a device")

    def count_request(self) -> None:
        """Count a request with a key; raise `ProblemError` if all keys together send too many."""
        self._charge(*self._requests, "", 1, "this shop", "requests")

    def count_events(self, number: int) -> None:
        """Count events of any sender; see `count_request`."""
        self._charge(*self._events, "", number, "this shop", "events")

    def _charge(
        self,
        cells: memoryview[float],
        rate: float,
        sender: str,
        number: int,
        name: str,
        counted: str = "requests and events",
    ) -> None:
        if not rate:
            return
        hashed = blake2b(sender.encode(), digest_size=8, key=self._secret).digest()
        cell = int.from_bytes(hashed) % len(cells)
        now = self._clock()
        wait = cells[cell] - now - _BURST_S
        if wait > 0:
            raise ProblemError(
                "too_many_requests",
                f"{name} sends more than {rate:g} {counted} a second",
                retry_after=math.ceil(wait),
            )
        cells[cell] = max(cells[cell], now) + number / rate


def _new_memory() -> int:
    memory = shared_memory("tactful-rates", _SECRET + 8 * (_KEYS + _DEVICES + _ALL))
    os.pwrite(memory, os.urandom(_SECRET), 0)
    return memory


def shared_memory(name: str, size: int) -> int:
    """Make memory of zeros that child processes can map; return its file descriptor."""
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create(name)
    else:
        with tempfile.TemporaryFile() as file:
            memory = os.dup(file.fileno())
    os.ftruncate(memory, size)
    return memory
