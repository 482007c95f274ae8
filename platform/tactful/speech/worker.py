"""Main program of the speech process: ``python -m tactful.speech.worker SETTINGS``.

Audio of strangers is read by native code here, not in the server: with a limit of memory, and
without anything of the server but the titles of its items. It ends with the server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from tactful.config.speech import SpeechSettings
from tactful.speech.audio import AudioLimits, SpeechRefused, decode_speech
from tactful.speech.messages import (
    Answer,
    Heard,
    Phrase,
    Refused,
    Request,
    SoundHit,
    Titles,
)
from tactful.speech.sounds import SoundIndex
from tactful.speech.transcriber import Learned, Transcriber, open_transcriber
from tactful.util.framed_worker import begin_worker, serve_frames

_BY_SOUND = 20


class SpeechWorker:
    """Answers requests one by one."""

    def __init__(self, transcriber: Transcriber, limits: AudioLimits) -> None:
        """Begin without a catalogue."""
        self._transcriber = transcriber
        self._limits = limits
        self._ids: Sequence[str] = ()
        self._sounds = SoundIndex((), transcriber.dictionary)

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        if isinstance(request, Titles):
            return self._learn(request)
        return self._hear(request)

    def _learn(self, request: Titles) -> Learned:
        self._sounds = SoundIndex(request.titles, self._transcriber.dictionary)
        self._ids = request.ids
        return self._transcriber.learn(request.titles)

    def _hear(self, request: Phrase) -> Heard | Refused:
        try:
            speech = decode_speech(request.audio, self._limits)
            transcript = self._transcriber.transcribe(speech, request.language)
        except SpeechRefused as refusal:
            return Refused(refusal.reason, str(refusal))
        matches = self._sounds.nearest(transcript.text, _BY_SOUND)
        return Heard(
            transcript,
            [SoundHit(self._ids[match.place], round(match.score, 4)) for match in matches],
        )


def main(arguments: Sequence[str]) -> None:
    """Serve the pipes of this process; the argument is the settings as JSON."""
    settings = msgspec.json.decode(arguments[0], type=SpeechSettings)
    target = begin_worker(settings.memory_mb)
    worker = SpeechWorker(
        open_transcriber(settings.model, threads=settings.threads),
        AudioLimits(megabytes=settings.megabytes, seconds=settings.seconds),
    )
    serve_frames(worker.answer, Request, Learned(0, 0), target)


if __name__ == "__main__":
    main(sys.argv[1:])
