"""Main program of a process that encodes queries: ``python -m … SETTINGS``.

Encoders take hundreds of megabytes and milliseconds of a core for each query, and native code reads
texts and pictures of strangers: this happens here, not in the server. It ends with the server.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import PictureError
from tactful.understanding.encoder import Encoder
from tactful.understanding.picture_encoder import PictureEncoder, open_picture_encoder
from tactful.understanding.query_messages import (
    Answer,
    Picture,
    Ready,
    Refused,
    Request,
    Text,
    Vector,
    WorkerSettings,
)
from tactful.understanding.text_encoders import open_text_encoder
from tactful.util.framed_worker import begin_worker, serve_frames


class QueryWorker:
    """Answers requests one by one."""

    def __init__(
        self, texts: Encoder | None = None, pictures: PictureEncoder | None = None
    ) -> None:
        """Encode by one of these."""
        self._texts = texts
        self._pictures = pictures

    def answer(self, request: Request) -> Answer:
        """Answer one request."""
        match request:
            case Text(text):
                assert self._texts is not None
                return Vector.of(self._texts.encode([text])[0])
            case Picture(data):
                assert self._pictures is not None
                try:
                    return Vector.of(self._pictures.encode([data])[0])
                except PictureError as error:
                    return Refused(str(error))


def main(arguments: Sequence[str]) -> None:
    """Serve the pipes of this process; the argument is a `WorkerSettings` as JSON."""
    given = msgspec.json.decode(arguments[0], type=WorkerSettings)
    target = begin_worker(given.understanding.memory_mb)
    settings = Settings(
        storage=StorageSettings(data=Path(given.data)), understanding=given.understanding
    )
    encoder: Encoder | PictureEncoder | None
    if given.kind == "text":
        encoder = texts = open_text_encoder(settings)
        worker = QueryWorker(texts=texts)
    else:
        encoder = pictures = open_picture_encoder(settings)
        worker = QueryWorker(pictures=pictures)
    assert encoder is not None
    serve_frames(worker.answer, Request, Ready(encoder.name, encoder.dimensions), target)


if __name__ == "__main__":
    main(sys.argv[1:])
