"""Order of batches that one client sends at once, over several connections.

The client names each batch, and the one before it while that is not acknowledged::

    Tactful-Batch: 7f3a.2      Tactful-After: 7f3a.1

A batch is appended to the log behind the batch it names, whichever arrives first. So the clock of
the log, which reads the times of events, does not pass events that are still on their way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

from tactful.schemas.problems import ProblemError

BATCH = b"tactful-batch"
AFTER = b"tactful-after"

_NAME = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_KEPT = 4_096
_WAIT_S = 5.0  # less than the patience of a client with its request
_WAITING = 64  # a request that waits holds its body in memory


class Place(NamedTuple):
    """Place of a batch among those of its client."""

    batch: str | None = None  # its name
    after: str | None = None  # name of the batch before it; None: it may be appended at once


def place_of(headers: Mapping[bytes, bytes]) -> Place:
    """Read the place of a batch from its headers; ProblemError if a name is no name."""
    names: list[str | None] = []
    for header in (BATCH, AFTER):
        name = headers.get(header)
        if name is not None and not _NAME.fullmatch(name):
            text = header.decode().title()
            raise ProblemError("invalid", f"{text} is not 1 to 64 letters, digits, `.`, `_`, `-`")
        names.append(None if name is None else name.decode())
    return Place(*names)


class BatchOrder:
    """Names of the batches appended last. Used from the event loop only."""

    def __init__(self, wait_s: float = _WAIT_S, waiting: int = _WAITING) -> None:
        """Begin without a batch; up to `waiting` wait at most `wait_s` for the ones before them."""
        self._wait_s = wait_s
        self._places = waiting  # for batches that wait
        self._appended: dict[str, None] = {}  # oldest first
        self._changed = asyncio.Event()

    async def reach(self, after: str | None) -> None:
        """Wait until a batch was appended; ProblemError if that takes too long, or many wait."""
        if after is None or after in self._appended:
            return
        if not self._places:
            raise ProblemError(
                "too_many_events", "too many batches wait for others; send it later", retry_after=1
            )
        self._places -= 1
        try:
            async with asyncio.timeout(self._wait_s):
                while after not in self._appended:
                    await self._changed.wait()
        except TimeoutError:
            raise ProblemError(
                "too_many_events", "the batch before it did not come; send it again", retry_after=1
            ) from None
        finally:
            self._places += 1

    def note(self, batch: str | None) -> None:
        """Note that a batch was appended, and wake the batches behind it."""
        if batch is None:
            return
        self._appended[batch] = None
        if len(self._appended) > _KEPT:
            del self._appended[next(iter(self._appended))]
        self._changed.set()
        self._changed = asyncio.Event()
