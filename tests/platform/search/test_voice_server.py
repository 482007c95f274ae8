"""Questions by voice over HTTP, with a transcriber that mishears."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.speech.phrases import PHRASE, pcm16, wav
from tests.platform.support import Live, small_settings, wait_until
from tests.platform.support import build as tiny

from tactful.client.sync import Client
from tactful.config.speech import SpeechSettings
from tactful.errors import BadRequest
from tactful.maintenance.check_speech import check_speech
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful.server.search import voice
from tactful.speech.process import SpeechProcess

pytest.importorskip("tantivy")

PROGRAM = """
import os, signal, sys, time
from tactful.speech import worker
from tactful.speech.transcriber import Alternative, Learned, Transcript

class Mishearing:
    dictionary = {}
    def learn(self, titles):
        return Learned(len(titles), 0)
    def transcribe(self, speech, language=None):
        if language == "hang":
            time.sleep(600)
        if language == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if language == "grow":
            return bytearray(2**40)
        return Transcript("merry blizz bol", 0.4, "en", speech.seconds, (Alternative("mary", 0.1),))

worker.open_transcriber = lambda model, threads: Mishearing()
worker.main(sys.argv[1:])
"""
SAID = wav(pcm16(PHRASE))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    base = small_settings(tmp_path_factory.mktemp("voice"))
    heard = replace(base, speech=SpeechSettings(model="x", phrase_s=60))
    with pytest.MonkeyPatch.context() as patch:
        program = partial(SpeechProcess, command=(sys.executable, "-c", PROGRAM))
        patch.setattr(voice, "SpeechProcess", program)
        platform = Platform.open(heard, build)
    with Live(platform) as live:
        items = [
            {"item_id": "bowl", "title": "Berry Bliss Bowl"},
            {"item_id": "boots", "title": "Rustic Leather Boots"},
            {"item_id": "merry", "title": "Merry Christmas Candle"},
            {"item_id": "untitled"},
        ]
        sent = live.http.put("/v1/items", json=items).json()
        assert sent["accepted"] == len(items)
        live.http.post("/v1/search", json={"query": "bowl", "after": sent["position"]})
        yield live


def test_items_are_found_by_words_and_by_sound(shop: Live) -> None:
    with Client(str(shop.http.base_url)) as client:
        answer = client.search("", audio=SAID, language="en", user_id="u-1")
    assert answer.heard is not None
    assert (answer.heard.text, answer.heard.confidence) == ("merry blizz bol", 0.4)
    assert answer.heard.alternatives == ["mary"]
    assert "bowl" in [hit.item_id for hit in answer.items[:2]]
    assert answer.recommendation_id is not None


def test_a_new_title_is_heard_at_once(shop: Live) -> None:
    sent = shop.http.put("/v1/items", json=[{"item_id": "new", "title": "Merry Blizzard Ball"}])
    body = {"query": "blizzard", "after": sent.json()["position"]}
    assert shop.http.post("/v1/search", json=body).json()["total"] == 1
    with Client(str(shop.http.base_url)) as client:
        answer = client.search("", audio=SAID)
        assert "new" in [hit.item_id for hit in answer.items]


def test_refusals(shop: Live) -> None:
    with Client(str(shop.http.base_url)) as client:
        for audio, reason in {b"GIF89a": "audio_unknown_format", b"": "audio_empty"}.items():
            with pytest.raises(BadRequest, match=reason):
                client.search("", audio=audio)
        with pytest.raises(BadRequest, match="no query and no cursor"):
            client.search("tea", audio=SAID)
    assert shop.http.post("/v1/search", json={"audio": "no base64!"}).status_code == 422
    slow = shop.http.post("/v1/search", json={"audio": "UklGRg==", "language": "hang"})
    assert slow.status_code == 422  # refused before it is transcribed


@pytest.mark.slow  # the process starts anew after each phrase
def test_a_failed_phrase_is_refused_and_the_next_one_heard(
    shop: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = {"audio": base64.b64encode(SAID).decode()}
    process: Any = shop.platform.searches._voice._process
    for failure in ("hang", "crash", "grow"):
        with ThreadPoolExecutor(1) as pool, monkeypatch.context() as patch:
            if failure == "hang":
                patch.setattr(process, "_settings", SpeechSettings(model="x", phrase_s=1.0))
            failing = pool.submit(shop.http.post, "/v1/search", json=spoken | {"language": failure})
            others = shop.http.post("/v1/search", json={"query": "bowl"})
            assert others.status_code == 200 and others.json()["total"] == 1
            failed = failing.result()
        assert failed.status_code == 503 and failed.headers["retry-after"] == "1", failure
        heard = shop.http.post("/v1/search", json=spoken)
        assert heard.status_code == 200 and heard.json()["heard"]["text"] == "merry blizz bol"


def test_a_server_without_a_transcriber_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    platform = Platform.open(small_settings(tmp_path_factory.mktemp("deaf")), build)
    with Live(platform) as live:
        answer = live.http.post("/v1/search", json={"audio": "UklGRg=="})
        assert answer.status_code == 404
        assert "[speech] model" in answer.json()["detail"]


def test_results_are_counted_without_texts(shop: Live) -> None:
    with Client(str(shop.http.base_url)) as client:
        client.search("", audio=SAID)
        with pytest.raises(BadRequest):
            client.search("", audio=b"")
    rows = shop.platform.metrics.all_samples()
    counts = {labels["result"]: n for name, labels, n in rows if name == "tactful_phrases_total"}
    assert counts["heard"] > 0 and counts["audio_empty"] > 0
    shown = shop.http.get("/metrics").text
    assert 'tactful_phrases_share{result="audio_empty"}' in shown
    assert 'tactful_phrase_seconds{quantile="0.5"}' in shown
    assert "merry" not in shown


@pytest.mark.slow  # a process loads the dictionary
def test_with_worker_processes_one_transcriber_answers(tmp_path: Path) -> None:
    """Searches are answered by the process that owns the state, whichever worker reads them."""
    pytest.importorskip("pocketsphinx")
    heard = replace(
        small_settings(tmp_path), speech=SpeechSettings(model="pocketsphinx", phrase_s=77.5)
    )
    marker = b'"phrase_s":77.5'  # the settings are an argument of the process
    with Live(Platform.open(heard, tiny), workers=2) as live:
        sent = live.http.put("/v1/items", json=[{"item_id": "bowl", "title": "Berry Bowl"}])
        body = {"audio": "", "after": sent.json()["position"]}
        for _ in range(8):
            with httpx.Client(base_url=live.url, timeout=60) as client:
                refused = client.post("/v1/search", json=body)
            assert refused.status_code == 422 and "audio_empty" in refused.json()["detail"]
        wait_until(lambda: 'result="audio_empty"' in live.http.get("/metrics").text)
        commands = [it.read_bytes() for it in Path("/proc").glob("[0-9]*/cmdline") if it.exists()]
        ours = [it for it in commands if b"tactful.speech.worker" in it and marker in it]
        assert len(ours) == 1


@pytest.mark.slow  # the transcriber is loaded twice
def test_the_doctor_starts_the_transcriber(tmp_path: Path) -> None:
    chosen = small_settings(tmp_path)

    def finding(**settings: Any) -> tuple[str, str]:
        return check_speech(replace(chosen, speech=SpeechSettings(**settings)))

    state, message = finding(model=str(tmp_path))
    assert state == "warning" and "speech prepare" in message
    pytest.importorskip("pocketsphinx")
    state, message = finding(model="pocketsphinx", memory_mb=64)
    assert state == "warning" and "speech.memory_mb is 64" in message
