"""Transcriber of English and Chinese: a Whisper model run by faster-whisper."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tactful.errors import ModelError
from tactful.speech.audio import Speech, SpeechRefused
from tactful.speech.pronunciation import Phones
from tactful.speech.transcriber import Learned, Transcript

_LANGUAGES = ("en", "zh")
_SILENT = 0.6
_DOUBTFUL = -1.0
"""Share of silence and mean log probability at which the text of a phrase is made up; the
thresholds of Whisper itself."""
_LONGEST_TEXT = 96  # tokens; a spoken question is short, and a loop of the decoder is not


class WhisperTranscriber:
    """Runs on the processor, in 8-bit integers, with files of a directory alone."""

    languages = _LANGUAGES
    dictionary: Mapping[str, list[Phones]] = {}

    def __init__(self, directory: Path, *, threads: int = 1) -> None:
        """Load the model in `directory`; nothing is downloaded.

        Raises:
            ModelError: if a file is missing or damaged.
            ImportError: if the extra `speech-whisper` is not installed.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from faster_whisper import WhisperModel

        try:
            self._model: Any = WhisperModel(
                str(directory),
                device="cpu",
                compute_type="int8",
                cpu_threads=threads,
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise ModelError(f"{directory}: no Whisper model: {error}") from None
        self.name = f"whisper:{directory.name}"

    def learn(self, titles: Sequence[str]) -> Learned:
        """Take nothing: the model has its own vocabulary."""
        return Learned(0, 0)

    def transcribe(self, speech: Speech, language: str | None = None) -> Transcript:
        """Return the text of `speech`; see `Transcriber.transcribe`."""
        if language not in (None, *_LANGUAGES):
            raise SpeechRefused(
                "speech_language", f"languages of phrases are {', '.join(_LANGUAGES)}"
            )
        found, about = self._model.transcribe(
            speech.samples,
            language=language,
            beam_size=5,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            max_new_tokens=_LONGEST_TEXT,
        )
        parts = [
            part
            for part in found
            if part.text.strip()
            and not (part.no_speech_prob > _SILENT and part.avg_logprob < _DOUBTFUL)
        ]
        if not parts:
            raise SpeechRefused("no_speech", "no word was heard in the audio: say it again")
        mean = sum(part.avg_logprob for part in parts) / len(parts)
        return Transcript(
            text=" ".join(part.text.strip() for part in parts),
            confidence=min(1.0, math.exp(mean)),
            language=about.language,
            seconds=speech.seconds,
        )
