"""Messages between a server and its speech process; each request has one answer, in order."""

from __future__ import annotations

import msgspec

from tactful.speech.audio import Reason
from tactful.speech.transcriber import Learned, Transcript


class Titles(msgspec.Struct, frozen=True, tag=True):
    """Replace the catalogue; the answer is `Learned`."""

    ids: list[str]
    titles: list[str]


class Phrase(msgspec.Struct, frozen=True, tag=True):
    """Transcribe a phrase; the answer is `Heard` or `Refused`."""

    audio: bytes
    language: str | None = None


class SoundHit(msgspec.Struct, frozen=True, array_like=True):
    """An item whose title sounds like the phrase."""

    item_id: str
    score: float  # share of the sounds that agree, in [0, 1]


class Heard(msgspec.Struct, frozen=True, tag=True):
    """A phrase as text, and items whose titles sound like it, the best first."""

    transcript: Transcript
    by_sound: list[SoundHit] = []


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A phrase that is refused; see `SpeechRefused`."""

    reason: Reason
    message: str


Request = Titles | Phrase
Answer = Learned | Heard | Refused
