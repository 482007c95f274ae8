"""Questions by voice through the whole server: `POST /v1/search` with audio and nothing else.

Phrases, titles and transcribers are those of `benchmarks.search.voice`. Words of the transcript and
sounds are combined; an encoder is set, as it would be in a shop, and its meaning is not used for
phrases. A question is answered if one of the first five items has the spoken title. The time is
from request to answer, with the process that transcribes already started.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import httpx
import msgspec

from benchmarks.figures import Figure, Part, percentile_figure, share_figure
from benchmarks.search import voice
from benchmarks.search.encoding import encoder_settings
from benchmarks.serving.importing import server
from tactful.speech.transcriber import open_transcriber
from tactful.understanding.text_encoders import open_text_encoder

_FIRST = 5
_PATIENCE_S = 900.0


def parts(quick: bool) -> list[Part]:
    """Return the parts of this benchmark, one for each language."""
    whisper = os.environ.get("TACTFUL_TEST_WHISPER", "")
    return [
        Part("voice-served", _names("english"), lambda: english_figures(quick)),
        Part("voice-served-zh", _names("chinese"), lambda: chinese_figures(whisper, quick)),
    ]


def english_figures(quick: bool) -> list[Figure]:
    """Measure fifty English phrases with pocketsphinx; quick takes ten.

    Raises:
        ConfigError: if the encoder is missing: a server would serve on without it.
    """
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        open_text_encoder(encoder_settings(Path(folder), text="minilm"))
    titles = voice.titles()
    settings = {"speech__model": "pocketsphinx", "understanding__text_model": "minilm"}
    return _figures("english", titles, voice.speak_english(titles, quick=quick), "en", settings)


def chinese_figures(model: str, quick: bool) -> list[Figure]:
    """Measure forty Chinese titles with a Whisper model; quick takes five.

    Raises:
        ConfigError: if there is no such model: a server would answer that it has no voice.
        ImportError: if the package that runs it is missing.
    """
    open_transcriber(model)
    spoken = voice.speak_chinese(quick=quick)
    return _figures("chinese", voice.CHINESE, spoken, "zh", {"speech__model": model})


def _names(language: str) -> list[tuple[str, str]]:
    return [
        (f"voice_served_{language}_hit5", "1"),
        (f"voice_served_{language}_p50_ms", "ms"),
        (f"voice_served_{language}_p99_ms", "ms"),
    ]


def _figures(
    language: str,
    titles: Sequence[str],
    spoken: Sequence[voice.Spoken],
    code: str,
    settings: dict[str, str],
) -> list[Figure]:
    environment = {f"TACTFUL_{name}".upper(): value for name, value in settings.items()}
    environment |= {"TACTFUL_UNDERSTANDING__EVERY_S": "1", "TACTFUL_SPEECH__PHRASE_S": "60"}
    seconds, hits = [], 0
    with (
        tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder,
        mock.patch.dict(os.environ, environment),
        server(Path(folder)) as (_, url),
        httpx.Client(base_url=url, timeout=180) as client,
    ):
        _fill(client, titles, meaning="UNDERSTANDING__TEXT_MODEL" in "".join(environment))
        _ask(client, spoken[0].audio, code)  # starts the process, and sends the titles
        for phrase in spoken:
            began = time.perf_counter()
            shown = _ask(client, phrase.audio, code)
            seconds.append(time.perf_counter() - began)
            hits += phrase.title in shown
    names = [name for name, _ in _names(language)]
    told = f"POST /v1/search with audio, {len(titles):,} titles, the machine as it is"
    return [
        share_figure(names[0], hits, len(spoken), f"spoken title among the first five; {told}"),
        percentile_figure(names[1], seconds, 50, told),
        percentile_figure(names[2], seconds, 99, told),
    ]


def _fill(client: httpx.Client, titles: Sequence[str], *, meaning: bool) -> None:
    items = [{"item_id": f"t{number}", "title": title} for number, title in enumerate(titles)]
    position = None
    for start in range(0, len(items), 500):
        sent = client.put("/v1/items", content=msgspec.json.encode(items[start : start + 500]))
        position = sent.raise_for_status().json()["position"]
    body = {"query": titles[0], "after": position}
    client.post("/v1/search", json=body).raise_for_status()
    deadline = time.monotonic() + _PATIENCE_S
    while meaning:  # until the items are encoded
        found = client.post("/v1/search", json={"query": titles[0], "record": False}).json()
        if found["items"][0]["vector_match"] is not None:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(items):,} titles are not encoded in {_PATIENCE_S:.0f} s")
        time.sleep(0.5)


def _ask(client: httpx.Client, audio: bytes, language: str) -> list[str]:
    """Return the titles of the first five items."""
    body = msgspec.json.encode({"audio": audio, "language": language, "limit": _FIRST})
    answer = client.post("/v1/search", content=body)
    if answer.status_code == 422:  # a refused phrase finds nothing
        return []
    return [item["title"] for item in answer.raise_for_status().json()["items"]]
