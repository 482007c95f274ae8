"""Settings of questions by voice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from tactful.config.fields import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class SpeechSettings:
    """Settings of the transcriber and of its process."""

    # transcriber of phrases: ``pocketsphinx`` (English words of the catalogue), or the directory
    # of a Whisper model, which ``tactful speech prepare`` makes; empty for none
    model: str = ""
    threads: PositiveInt = 1  # threads of a Whisper model
    seconds: Annotated[float, Meta(gt=0.0, le=30.0)] = 15.0  # longest phrase
    megabytes: Annotated[float, Meta(gt=0.0, le=64.0)] = 3.0  # largest encoded phrase
    phrase_s: PositiveFloat = 10.0  # longest time for a phrase; then its process is replaced
    queue: PositiveInt = 8  # phrases that may wait before others get 503
    memory_mb: Annotated[int, Meta(ge=64)] = 1_500  # memory of the process
