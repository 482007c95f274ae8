"""Vectors of the queries of a server, from a process of its own."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.config.settings import Settings
from tactful.errors import PictureError
from tactful.understanding.query_messages import (
    Answer,
    Kind,
    Picture,
    Ready,
    Refused,
    Request,
    Text,
    Vector,
    WorkerSettings,
)
from tactful.util.framed_process import FramedProcess, ProcessUnavailable, Terms

_COMMAND = (sys.executable, "-m", "tactful.understanding.query_worker")
_TERMS = Terms(process="encoding", request="query", shorter="send a smaller one")
_LONGEST_S = 10.0
_MOST_WAITING = 64
_MOST_KEPT = 2_000


class QueryEncoder:
    """Encodes queries of one kind, one at a time; the latest vectors are kept, by a hash.

    Attributes:
        ready: the encoder of the process; None before its first start.
    """

    def __init__(
        self,
        settings: Settings,
        kind: Kind,
        *,
        command: Sequence[str] = _COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            settings: of the installation; they name an encoder of this kind.
            kind: what the process encodes. Slow pictures hold up no text, as there are two.
            command: program that speaks `tactful.understanding.query_messages`.
            clock: monotonic time in seconds.
        """
        given = WorkerSettings(str(settings.storage.data), settings.understanding, kind)
        command = [*command, msgspec.json.encode(given).decode()]
        self._process: FramedProcess[Answer] = FramedProcess(command, Answer, _TERMS, clock=clock)
        self._kept: OrderedDict[bytes, NDArray[np.float32]] = OrderedDict()
        self.ready: Ready | None = None

    async def text(self, text: str, *, seconds: float = _LONGEST_S) -> NDArray[np.float32]:
        """Return the vector of a text; zeros if the encoder knows none of its words.

        It is encoded, and kept, also if nobody waits for it any more.

        Args:
            text: the query.
            seconds: longest time to wait.

        Raises:
            ProcessUnavailable: if there is no vector in time, or too many queries wait.
        """
        return await self._vector(Text(text), seconds)

    async def picture(self, data: bytes) -> NDArray[np.float32]:
        """Return the vector of the file of a picture.

        Raises:
            PictureError: if it is refused; the message is for its sender.
            ProcessUnavailable: as `text`.
        """
        return await self._vector(Picture(data), _LONGEST_S)

    async def close(self) -> None:
        """Kill the process and refuse the queries that wait."""
        await self._process.close()

    async def _vector(self, request: Request, seconds: float) -> NDArray[np.float32]:
        key = blake2b(msgspec.msgpack.encode(request), digest_size=16).digest()
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            return kept
        if self._process.waiting >= _MOST_WAITING:
            raise ProcessUnavailable("too many queries wait to be encoded", retry_after=1)
        try:
            async with asyncio.timeout(seconds):
                return await self._process.run(lambda: self._encoded(key, request))
        except TimeoutError:
            message = f"the encoder did not answer within {seconds:g} s"
            raise ProcessUnavailable(message, retry_after=1) from None

    async def _encoded(self, key: bytes, request: Request) -> NDArray[np.float32]:
        if (kept := self._kept.get(key)) is not None:  # asked for twice meanwhile
            return kept
        if not self._process.is_running:
            started = await self._process.start()
            assert isinstance(started, Ready)
            if started != self.ready:  # the model was replaced where it lies
                self._kept.clear()
            self.ready = started
        answer = await self._process.ask(request, _LONGEST_S)
        if isinstance(answer, Refused):
            raise PictureError(answer.message)
        assert isinstance(answer, Vector)
        self._kept[key] = answer.row
        if len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]
