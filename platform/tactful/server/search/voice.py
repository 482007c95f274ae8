"""Questions by voice of a server: its speech process, with the titles of its items."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from tactful.catalogue.changes import EngineItems
from tactful.catalogue.request_context import FeatureSource
from tactful.config.speech import SpeechSettings
from tactful.schemas.problems import ProblemError
from tactful.schemas.search import HeardPhrase
from tactful.speech.audio import SpeechRefused
from tactful.speech.messages import Heard
from tactful.speech.process import SpeechProcess
from tactful.util.framed_process import ProcessUnavailable


class Voice:
    """Transcribes phrases; audio is neither stored nor logged."""

    def __init__(
        self,
        settings: SpeechSettings,
        source: FeatureSource,
        reading: AbstractContextManager[object],
        count: Callable[[str, float], None],
    ) -> None:
        """Start nothing; `reading` is held while the engine is read.

        `count` gets the result of each phrase, as of `Metrics.phrase`, and its seconds.
        """
        self._process = SpeechProcess(settings) if settings.model else None
        self._feed = EngineItems(source)
        self._reading = reading
        self._titles: dict[str, str] = {}
        self._lock = asyncio.Lock()
        self._count = count

    async def hear(self, audio: bytes, language: str | None) -> Heard:
        """Return the text of a phrase, and items whose titles sound like it.

        Raises:
            ProblemError: if the server has no transcriber, the phrase is refused, or the process
                has no time for it.
        """
        if self._process is None:
            raise ProblemError("not_found", "this server has no transcriber: set [speech] model")
        started, result = time.perf_counter(), "unavailable"
        async with self._lock:
            if await asyncio.to_thread(self._read_titles):
                self._process.learn(self._titles)
        try:
            heard = await self._process.hear(audio, language)
            result = "heard"
            return heard
        except SpeechRefused as refusal:
            result = refusal.reason
            raise ProblemError("invalid", f"{refusal.reason}: {refusal}") from None
        except ProcessUnavailable as error:
            pause = math.ceil(error.retry_after)
            raise ProblemError("overloaded", str(error), retry_after=pause) from None
        finally:
            self._count(result, time.perf_counter() - started)

    async def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            await self._process.close()

    def _read_titles(self) -> bool:
        changed = False
        for item in self._feed.changes(self._reading):
            title = item.title or ""
            if self._titles.get(item.item_id, "") != title:
                self._titles[item.item_id] = title
                changed = True
        return changed


def phrase_of(heard: Heard) -> HeardPhrase:
    """Return a phrase as an answer shows it."""
    transcript = heard.transcript
    return HeardPhrase(
        text=transcript.text,
        confidence=round(transcript.confidence, 4),
        language=transcript.language,
        alternatives=[other.text for other in transcript.alternatives],
    )
