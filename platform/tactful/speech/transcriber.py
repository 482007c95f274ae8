"""Interface of transcribers: a phrase in, a text with alternatives out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from tactful.errors import ConfigError
from tactful.speech.audio import Speech
from tactful.speech.pronunciation import Phones

POCKETSPHINX = "pocketsphinx"
"""Name of the small English transcriber, in the setting `speech.model`."""


class Alternative(msgspec.Struct, frozen=True):
    """Another text of the same phrase."""

    text: str
    confidence: float  # in [0, 1]; of one transcriber only comparable with itself


class Transcript(msgspec.Struct, frozen=True):
    """Text of a phrase."""

    text: str
    confidence: float
    language: str  # such as "en"
    seconds: float  # length of the phrase
    alternatives: tuple[Alternative, ...] = ()  # less likely texts, the best first


class Learned(msgspec.Struct, frozen=True, tag=True):
    """Words that a transcriber took from a catalogue."""

    words: int
    skipped: int  # words without a pronunciation, or beyond the largest number of words


class Transcriber(Protocol):
    """Turns a phrase to text."""

    @property
    def name(self) -> str:
        """Name of the model, for logs and answers."""

    @property
    def languages(self) -> Sequence[str]:
        """Languages that it understands, the usual one first."""

    @property
    def dictionary(self) -> Mapping[str, list[Phones]]:
        """Known pronunciations of English words."""

    def learn(self, titles: Sequence[str]) -> Learned:
        """Take the words of a catalogue; replaces those of an earlier call."""

    def transcribe(self, speech: Speech, language: str | None = None) -> Transcript:
        """Return the text of `speech`.

        Args:
            speech: the phrase.
            language: its language; None to detect it, where more than one is understood.

        Raises:
            SpeechRefused: if no speech is found in it, or the language is another one.
        """


def open_transcriber(model: str, *, threads: int = 1) -> Transcriber:
    """Load the transcriber that the setting `speech.model` names.

    Raises:
        ConfigError: if there is no such model.
        ImportError: if the extra `speech` or `speech-whisper` is not installed.
    """
    if model == POCKETSPHINX:
        from tactful.speech.pocketsphinx_transcriber import PocketsphinxTranscriber

        return PocketsphinxTranscriber()
    directory = Path(model)
    if not model or not (directory / "model.bin").is_file():
        raise ConfigError(
            f"[speech] model: {model!r} is neither '{POCKETSPHINX}' nor a directory with model.bin;"
            " `tactful speech prepare DIRECTORY` makes one"
        )
    from tactful.speech.whisper_transcriber import WhisperTranscriber

    return WhisperTranscriber(directory, threads=threads)
