"""Phrases that espeak-ng speaks, through the real process with the packaged model."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tactful.config.speech import SpeechSettings
from tactful.speech.audio import SpeechRefused
from tactful.speech.process import SpeechProcess

TITLES = {
    "bowl": "Berry Bliss Medley Bowl",
    "boots": "Rustic Hiking Boots",
    "pendant": "Crossbody Lamp 3",
    "mixed": "红色皮鞋",
}


@pytest.fixture(scope="module")
def say(espeak_path: str) -> Callable[..., bytes]:
    def speak(text: str, voice: str = "en-us") -> bytes:
        command = [espeak_path, "-v", voice, "-s", "140", "--stdout", text]
        return subprocess.run(command, capture_output=True, check=True).stdout

    return speak


@pytest.mark.slow
def test_pocketsphinx_hears_titles_of_the_catalogue(say: Callable[..., bytes]) -> None:
    pytest.importorskip("pocketsphinx", reason="needs the extra speech")

    async def work() -> None:
        process = SpeechProcess(SpeechSettings(model="pocketsphinx"))
        process.learn(TITLES)
        for item, phrase in {
            "bowl": "berry bliss medley bowl",
            "boots": "rustic hiking boots",
            "pendant": "crossbody lamp three",
        }.items():
            heard = await process.hear(say(phrase), "en")
            assert heard.by_sound[0].item_id == item
            assert 0 < heard.transcript.confidence <= 1
            assert all(
                other.text != heard.transcript.text for other in heard.transcript.alternatives
            )
        with pytest.raises(SpeechRefused) as refusal:
            await process.hear(say("hiking boots"), "zh")
        assert refusal.value.reason == "speech_language"
        process.learn({"hat": "Green Velvet Hat"})  # the words follow the catalogue
        assert (await process.hear(say("green velvet hat"))).transcript.text == "green velvet hat"
        process.learn({"mixed": "红色皮鞋"})  # no word that it can pronounce
        with pytest.raises(SpeechRefused) as refusal:
            await process.hear(say("green velvet hat"))
        assert refusal.value.reason == "no_speech"
        await process.close()

    asyncio.run(work())


@pytest.mark.slow  # loads 145 MB of weights, two seconds of processor time for a phrase
def test_whisper_hears_english_and_chinese(say: Callable[..., bytes]) -> None:
    pytest.importorskip("faster_whisper", reason="needs the extra speech-whisper")
    model = os.environ.get("TACTFUL_TEST_WHISPER")
    if model is None:
        pytest.skip("TACTFUL_TEST_WHISPER names no directory of a Whisper model")

    async def work() -> None:
        process = SpeechProcess(SpeechSettings(model=str(Path(model)), phrase_s=60))
        process.learn(TITLES)
        heard = await process.hear(say("rustic hiking boots"), "en")
        assert heard.by_sound[0].item_id == "boots"
        chinese = await process.hear(say("hong2 se4 pi2 xie2", "cmn-latn-pinyin"), "zh")
        assert chinese.transcript.language == "zh"
        await process.close()

    asyncio.run(work())
