"""Child process that answers requests over its pipes: started on demand, bounded, replaced.

A frame is a length in four bytes, little-endian, and one message in MessagePack. Each request has
one answer, in order. The child's side is `tactful.util.framed_worker`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec

from tactful.errors import TactfulError
from tactful.util.framed_worker import HEAD, encode_frame

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Result = TypeVar("Result")

_START_S = 60.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_STOP_S = 2.0


class ProcessUnavailable(TactfulError):
    """A child process has no answer now.

    Attributes:
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, message: str, *, retry_after: float) -> None:
        """Carry the message and the pause."""
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class Terms:
    """Words of messages: what the process is called, and what it is sent."""

    process: str
    request: str
    shorter: str  # remedy for a request that takes too long


class FramedProcess(Generic[Answer]):
    """One child process, for one request at a time: `run` runs what uses it in turn.

    A request that takes too long, or that crashes the process, costs this process only: it is
    killed, and `start` starts another one. A process that fails at its start is tried again after a
    pause that doubles up to a minute.
    """

    def __init__(
        self,
        command: Sequence[str],
        answers: Any,
        terms: Terms,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            command: program that serves frames; its first one reports that it is ready.
            answers: type of the answers, for msgspec.
            terms: words of messages.
            clock: monotonic time in seconds.
        """
        self._command = [*command]
        self._answers: Any = msgspec.msgpack.Decoder(answers)
        self._terms = terms
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pause = _FIRST_PAUSE_S
        self._next_start = 0.0

    @property
    def is_running(self) -> bool:
        """Whether the process has started and not ended."""
        return self._process is not None and self._process.returncode is None

    @property
    def waiting(self) -> int:
        """Number of calls of `run` that have not ended."""
        return len(self._tasks)

    async def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run what uses the process, after all that came before, and return its result.

        It is finished also if its caller is gone.
        """
        task = asyncio.create_task(self._in_turn(work))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Cancel what runs and waits, and kill the process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.end()

    async def _in_turn(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        async with self._lock:
            return await work()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it may be that nobody waits for it any more

    async def start(self) -> Answer:
        """Start the process, and return the frame that reports it ready.

        Raises:
            ProcessUnavailable: if it does not start, or failed a moment ago.
        """
        left = self._next_start - self._clock()
        if left > 0:
            raise ProcessUnavailable(
                f"the {self._terms.process} process does not start; the log of the server has "
                "the reason",
                retry_after=left,
            )
        try:
            self._process = await self._spawned()
            ready = await self.ask(None, _START_S)
        except ProcessUnavailable:
            self._next_start = self._clock() + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
            raise
        self._pause = _FIRST_PAUSE_S
        return ready

    def put_off(self, seconds: float) -> None:
        """Let `start` refuse for some seconds: the process is of no use as it is."""
        self._next_start = self._clock() + seconds

    async def _spawned(self) -> asyncio.subprocess.Process:
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=2**20,
            )
        except OSError as error:  # no memory, or no further process
            logger.error("the %s process was not started: %s", self._terms.process, error)
            message = f"the {self._terms.process} process cannot be started now"
            raise ProcessUnavailable(message, retry_after=self._pause) from None

    async def ask(self, request: object | None, seconds: float) -> Answer:
        """Send a request, if any, and return the next answer; without one kill the process.

        Raises:
            ProcessUnavailable: if there is no answer in time, or the process ends.
        """
        terms = self._terms
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(request)
        except TimeoutError:
            await self.end()
            message = f"the {terms.request} was given up after {seconds:g} s: {terms.shorter}"
            if request is None:
                message = f"the {terms.process} process was not ready within {seconds:g} s"
            raise ProcessUnavailable(message, retry_after=1) from None
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            await self.end()
            logger.error("the %s process ended: %s", terms.process, type(error).__name__)
            message = f"the {terms.process} process ended during the {terms.request}: send it again"
            raise ProcessUnavailable(message, retry_after=1) from None
        except asyncio.CancelledError:
            await self.end()
            raise

    async def end(self) -> None:
        """Kill the process, if it runs."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)

    async def _exchange(self, request: object | None) -> Answer:
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        if request is not None:
            process.stdin.write(encode_frame(request))
            await process.stdin.drain()
        (length,) = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
        answer: Answer = self._answers.decode(await process.stdout.readexactly(length))
        return answer
