"""Speech process of a server: started on demand, bounded in time, replaced when it fails."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tactful.config.speech import SpeechSettings
from tactful.speech.audio import SpeechRefused
from tactful.speech.messages import Answer, Heard, Phrase, Refused, Titles
from tactful.speech.transcriber import Learned
from tactful.util.framed_process import FramedProcess, ProcessUnavailable, Terms

logger = logging.getLogger(__name__)

_LEARN_S = 120.0
_PAUSE_S = 60.0  # after titles that could not be learnt
_TERMS = Terms(process="speech", request="phrase", shorter="send a shorter one")
_COMMAND = (sys.executable, "-m", "tactful.speech.worker")


class SpeechProcess:
    """Transcribes phrases, one at a time, in a process of its own.

    A phrase that takes too long, or that crashes the process, costs this process only: it is
    killed, and the next phrase starts another one with the titles learned last. A process that
    fails at its start is tried again after a pause that doubles up to a minute.
    """

    def __init__(
        self,
        settings: SpeechSettings,
        *,
        command: Sequence[str] = _COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start nothing yet.

        Args:
            settings: model and limits.
            command: program that speaks `tactful.speech.messages`.
            clock: monotonic time in seconds.
        """
        self._settings = settings
        command = [*command, msgspec.json.encode(settings).decode()]
        self._process: FramedProcess[Answer] = FramedProcess(command, Answer, _TERMS, clock=clock)
        self._titles = Titles([], [])
        self._has_titles = False  # whether the process has learnt these titles

    def learn(self, titles: Mapping[str, str]) -> None:
        """Set the titles by item id; they are sent before the next phrase if they changed."""
        changed = Titles([*titles], [*titles.values()])
        if changed != self._titles:
            self._titles, self._has_titles = changed, False

    async def hear(self, audio: bytes, language: str | None = None) -> Heard:
        """Transcribe an encoded phrase; a phrase whose caller is gone is still finished.

        Raises:
            SpeechRefused: if the phrase is refused; the reason is for its sender.
            ProcessUnavailable: if too many phrases wait, the phrase took too long, or the process
                ended.
        """
        if self._process.waiting > self._settings.queue:
            raise ProcessUnavailable(
                "too many phrases wait to be transcribed: send it again later",
                retry_after=self._settings.phrase_s,
            )
        return await self._process.run(lambda: self._hear(Phrase(audio, language)))

    async def close(self) -> None:
        """Kill the process and refuse the phrases that wait."""
        await self._process.close()

    async def _teach(self) -> None:
        """Send the titles; where they cannot be learnt, the next attempt comes after a pause."""
        try:
            await self._process.ask(self._titles, _LEARN_S)
        except ProcessUnavailable as error:
            logger.error("the titles of the items were not learnt: %s", error)
            self._process.put_off(_PAUSE_S)
            raise ProcessUnavailable(
                "the titles of the items cannot be learnt: raise speech.memory_mb",
                retry_after=_PAUSE_S,
            ) from None
        self._has_titles = True

    async def _hear(self, phrase: Phrase) -> Heard:
        if not self._process.is_running:
            self._has_titles = False
            await self._process.start()
        if not self._has_titles:
            await self._teach()
        answer = await self._process.ask(phrase, self._settings.phrase_s)
        match answer:
            case Heard():
                return answer
            case Refused(reason, message):
                raise SpeechRefused(reason, message)
            case Learned():
                raise AssertionError("a phrase has no such answer")
