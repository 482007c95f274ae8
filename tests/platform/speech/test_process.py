"""The speech process: what it answers, and what happens when it hangs, crashes or grows."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
import sys
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tests.platform.speech.phrases import PHRASE, pcm16, wav

from tactful.config.speech import SpeechSettings
from tactful.errors import ConfigError
from tactful.speech import process as process_module
from tactful.speech.audio import RATE, SpeechRefused
from tactful.speech.process import SpeechProcess
from tactful.speech.transcriber import open_transcriber
from tactful.util import framed_process
from tactful.util.framed_process import ProcessUnavailable

T = TypeVar("T")

# A transcriber that does what the phrase says; the protocol is the real one.
PROGRAM = """
import sys, time
from tactful.speech import worker, messages
from tactful.speech.transcriber import Alternative, Learned, Transcript

class Actor:
    name, languages, dictionary, titles = "actor", ("en",), {}, ()
    def learn(self, titles):
        if "hang" in titles:
            time.sleep(600)
        self.titles = titles
        return Learned(len(titles), 0)
    def transcribe(self, speech, language=None):
        if language == "hang":
            time.sleep(600)
        if language == "crash":
            import os, signal
            os.kill(os.getpid(), signal.SIGSEGV)
        if language == "grow":
            return bytearray(2**40)
        if language == "noise":
            print("a library prints")
        return Transcript(" ".join(self.titles), 0.5, "en", speech.seconds)

worker.open_transcriber = lambda model, threads: Actor()
worker.main(sys.argv[1:])
"""
ACTOR = (sys.executable, "-c", PROGRAM)
SAID = wav(pcm16(PHRASE))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_phrases_refusals_and_failures() -> None:
    async def work() -> None:
        process = SpeechProcess(SpeechSettings(model="x", phrase_s=60), command=ACTOR)
        process.learn({"a": "Red shoe", "b": "Blue bag"})
        heard = await process.hear(SAID, "noise")
        assert heard.transcript.text == "Red shoe Blue bag"
        assert heard.transcript.seconds == 1
        assert {hit.item_id for hit in heard.by_sound} == {"a", "b"}
        with pytest.raises(SpeechRefused) as refusal:
            await process.hear(b"GIF89a")
        assert refusal.value.reason == "audio_unknown_format"
        for failure in ("crash", "grow"):
            with pytest.raises(ProcessUnavailable):
                await process.hear(SAID, failure)
        # Another process has the titles again.
        process.learn({"c": "Green hat"})
        assert (await process.hear(SAID)).transcript.text == "Green hat"
        await process.close()
        await process.close()

    run(work())


def test_a_phrase_that_hangs_is_given_up() -> None:
    async def work() -> None:
        process = SpeechProcess(SpeechSettings(model="x", phrase_s=0.2), command=ACTOR)
        with pytest.raises(ProcessUnavailable, match=r"given up after 0\.2 s: send a shorter one"):
            await process.hear(SAID, "hang")
        await process.close()

    run(work())


def test_a_slow_start_is_not_blamed_on_the_phrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framed_process, "_START_S", 0.1)

    async def work() -> None:
        program = (sys.executable, "-c", "import time; time.sleep(600)")
        process = SpeechProcess(SpeechSettings(model="x"), command=program)
        with pytest.raises(ProcessUnavailable, match="speech process was not ready within"):
            await process.hear(SAID)
        await process.close()

    run(work())


@pytest.mark.slow
def test_titles_that_cannot_be_learnt_are_tried_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_module, "_LEARN_S", 0.2)
    now = [100.0]

    async def work() -> None:
        settings = SpeechSettings(model="x", phrase_s=60)
        process = SpeechProcess(settings, command=ACTOR, clock=lambda: now[0])
        process.learn({"a": "hang"})
        with pytest.raises(ProcessUnavailable, match=r"raise speech\.memory_mb") as refusal:
            await process.hear(SAID)
        with pytest.raises(ProcessUnavailable, match="does not start"):
            await process.hear(SAID)
        now[0] += refusal.value.retry_after
        monkeypatch.setattr(process_module, "_LEARN_S", 60.0)
        process.learn({"a": "Red shoe"})
        assert (await process.hear(SAID)).transcript.text == "Red shoe"
        await process.close()

    run(work())


def test_a_full_queue_refuses_and_an_abandoned_phrase_does_not_mix_answers() -> None:
    async def work() -> None:
        process = SpeechProcess(SpeechSettings(model="x", queue=1, phrase_s=60), command=ACTOR)
        process.learn({"a": "Red shoe"})
        first = asyncio.create_task(process.hear(SAID))
        second = asyncio.create_task(process.hear(b"junk"))
        third = asyncio.create_task(process.hear(SAID))
        answers = await asyncio.gather(first, second, third, return_exceptions=True)
        assert answers[0].transcript.text == "Red shoe"  # type: ignore[union-attr]
        assert isinstance(answers[1], SpeechRefused)
        assert isinstance(answers[2], ProcessUnavailable) and answers[2].retry_after == 60
        gone = asyncio.create_task(process.hear(b"junk"))
        await asyncio.sleep(0)
        gone.cancel()
        assert (await process.hear(SAID)).transcript.text == "Red shoe"
        await process.close()

    run(work())


def test_a_process_that_does_not_start_is_tried_again_after_a_pause() -> None:
    now = [100.0]

    async def work() -> None:
        settings = SpeechSettings(model="x")
        program = (sys.executable, "-c", "raise SystemExit(3)")
        process = SpeechProcess(settings, command=program, clock=lambda: now[0])
        pauses = []
        for _ in range(3):
            with pytest.raises(ProcessUnavailable):
                await process.hear(SAID)
            with pytest.raises(ProcessUnavailable, match="does not start") as refusal:
                await process.hear(SAID)
            pauses.append(refusal.value.retry_after)
            now[0] += pauses[-1]
        assert pauses == [1, 2, 4]

    run(work())


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    for model in ("", "vosk", str(tmp_path)):
        with pytest.raises(ConfigError, match="speech prepare"):
            open_transcriber(model)


def test_pocketsphinx_is_the_one_that_was_measured() -> None:
    library = pytest.importorskip("pocketsphinx", reason="needs the extra speech")
    pinned = {
        "en-us/cmudict-en-us.dict": {"20b5c293e1f311fb", "cb01cf8b6a47f5a9"},  # 5.1 and 5.0.4
        "en-us/en-us/means": {"832019e32cac12eb"},
        "en-us/en-us/mdef": {"2360f9a86889c1cf"},
        "en-us/en-us/sendump": {"8c9564c0d5bef69c"},
    }
    for name, digests in pinned.items():
        data = Path(library.get_model_path(name)).read_bytes()
        assert hashlib.sha256(data).hexdigest()[:16] in digests, name


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return a file with bytes changed, lost, repeated or cut, half of them near the start."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        at = rng.randrange(min(len(changed), rng.choice([32, 256, len(changed)])))
        kind = rng.randrange(5)
        if kind == 0:
            changed[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif kind == 1:
            changed[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
        elif kind == 2:
            del changed[at : at + rng.randrange(1, 200)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randrange(1, 200)]
        else:
            del changed[rng.randrange(1, len(changed) + 1) :]
        changed = changed or bytearray(b"R")
    return bytes(changed)


@pytest.mark.slow  # a thousand files
def test_mutated_files_never_end_the_process() -> None:
    """Every mutated file is heard or refused in time, by one process with its limit of memory."""
    soundfile = pytest.importorskip("soundfile", reason="needs the extra speech")
    files = [SAID]
    for kind, coding in (
        *(("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")),
        ("MP3", "MPEG_LAYER_III"),
    ):
        file = io.BytesIO()
        soundfile.write(file, PHRASE, RATE, format=kind, subtype=coding)
        files.append(file.getvalue())
    rng, results = random.Random(31), Counter[str]()

    async def work() -> None:
        settings = SpeechSettings(model="x", phrase_s=60, memory_mb=300)
        process = SpeechProcess(settings, command=ACTOR)
        process.learn({"a": "Red shoe"})
        for _ in range(1_000):
            try:
                await process.hear(mutate(rng.choice(files), rng))
                results["heard"] += 1
            except SpeechRefused as refusal:
                results[refusal.reason] += 1
        assert (await process.hear(SAID)).transcript.text == "Red shoe"
        await process.close()

    run(work())
    assert results["heard"] > 50 and results["audio_damaged"] > 50, results
