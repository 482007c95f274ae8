"""Check of the transcriber of spoken questions."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Literal

from tactful.config.settings import Settings
from tactful.config.speech import SpeechSettings
from tactful.errors import ConfigError, ModelError
from tactful.speech.audio import SpeechRefused
from tactful.speech.process import SpeechProcess
from tactful.speech.transcriber import open_transcriber
from tactful.util.extras import EXTRAS, absent_modules, missing_module
from tactful.util.framed_process import ProcessUnavailable


def check_speech(settings: Settings) -> tuple[Literal["ok", "warning"], str]:
    """Load the transcriber, start its process with its limit of memory, and return the finding."""
    chosen = settings.speech
    try:
        transcriber = open_transcriber(chosen.model, threads=chosen.threads)
    except (ConfigError, ModelError) as error:
        return "warning", f"{error}; spoken questions get no answer"
    except ImportError as error:
        return "warning", missing_module(error) or str(error)
    message = f"{transcriber.name} understands {', '.join(transcriber.languages)}"
    try:
        asyncio.run(_start(chosen))
    except ProcessUnavailable as error:
        memory = f"speech.memory_mb is {chosen.memory_mb}"
        return "warning", f"{message}, but its process fails: {error}; {memory}: try more"
    if absent := absent_modules(EXTRAS["speech"]):
        return "warning", f"{message}, without {', '.join(absent)}: pip install 'tactful[speech]'"
    return "ok", message


async def _start(settings: SpeechSettings) -> None:
    """Start the process as a server does, and send a phrase that it refuses."""
    process = SpeechProcess(settings)
    try:
        with suppress(SpeechRefused):
            await process.hear(b"")
    finally:
        await process.close()
