"""Questions by voice: is the wanted item among the first five, and what does a phrase cost.

Fifty titles of a real catalogue (2,367 titles of the retail demo store) are spoken by espeak-ng:
four voices, three speeds, three pitches, drawn with a fixed seed; once clean, once with white noise
20 dB below the speech. Whole titles are said, so a phrase is as long as a title. Chinese titles are
made up and spoken by the pinyin voice, since espeak-ng reads characters as letters.

Run alone: ``python -m benchmarks.search.voice [--quick]``.
"""

from __future__ import annotations

import io
import os
import random
import subprocess
import time
import wave
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from benchmarks.figures import Figure, Part, main, measure, share_figure
from benchmarks.shared import product_texts
from tactful.speech.audio import AudioLimits
from tactful.speech.messages import Heard, Phrase, Titles
from tactful.speech.transcriber import POCKETSPHINX, open_transcriber
from tactful.speech.worker import SpeechWorker

_SEED = 31
_PHRASES = 50
_FIRST = 5
_NOISE_DB = 20.0
_NOTE = "wanted title among the first five by sound; 95 % interval over phrases"
_VOICES = ("en-us", "en-gb", "en-us+m3", "en-us+f3")
_SPEEDS = (130, 150, 170)
_PITCHES = (35, 50, 65)
CHINESE = (
    *(
        "红色皮鞋",
        "蓝色牛仔裤",
        "女士羊毛大衣",
        "儿童书包",
        "男士运动鞋",
        "纯棉毛巾",
        "不锈钢保温杯",
        "无线蓝牙耳机",
    ),
    *(
        "陶瓷茶具套装",
        "实木餐桌",
        "折叠雨伞",
        "真丝围巾",
        "电动牙刷",
        "智能手表",
        "机械键盘",
        "防晒霜",
    ),
    *("洗发水", "羽绒服", "登山背包", "瑜伽垫", "玻璃花瓶", "台灯", "床上四件套", "空气净化器"),
    *("咖啡机", "平底锅", "儿童积木", "毛绒玩具", "钢笔", "笔记本", "行李箱", "太阳镜"),
    *("棒球帽", "皮带", "钱包", "连衣裙", "衬衫", "短裤", "拖鞋", "靴子"),
)


@dataclass(frozen=True)
class Spoken:
    """A title, and the sound of it."""

    title: str
    audio: bytes


def english_figures(model: str, name: str, quick: bool) -> list[Figure]:
    """Measure one transcriber on English titles, clean and with noise."""
    names = titles()
    worker = _worker(model, names)
    spoken = speak_english(names, quick=quick)
    figures = []
    for suffix, phrases in (("", spoken), ("_noisy", _noisy(spoken))):
        hits, seconds = _ask(worker, phrases, "en")
        figures.append(share_figure(f"voice_{name}_hit5{suffix}", hits, len(phrases), _NOTE))
        if not suffix:
            length = sum(map(_seconds, phrases)) / len(phrases)
            figures.append(
                Figure(
                    f"voice_{name}_cpu_s",
                    seconds / len(phrases),
                    "s",
                    runs=len(phrases),
                    note=f"processor time of a phrase of {length:.1f} s and its match by sound",
                )
            )
    return figures


def chinese_figures(model: str, quick: bool) -> list[Figure]:
    """Measure a Whisper model on Chinese titles, matched by sound."""
    worker, spoken = _worker(model, CHINESE), speak_chinese(quick=quick)
    hits, _ = _ask(worker, spoken, "zh")
    return [share_figure("voice_chinese_hit5", hits, len(spoken), _NOTE)]


def speak_chinese(*, quick: bool) -> list[Spoken]:
    """Return all Chinese titles as spoken; quick takes five."""
    from pypinyin import Style, lazy_pinyin

    return [
        Spoken(title, _speak(" ".join(lazy_pinyin(title, style=Style.TONE3)), "cmn-latn-pinyin"))
        for title in (CHINESE[:5] if quick else CHINESE)
    ]


def parts(quick: bool) -> list[Part]:
    """Return the parts of this benchmark, one for each transcriber."""
    whisper = os.environ.get("TACTFUL_TEST_WHISPER", "")
    return [
        Part(
            "voice",
            _names("pocketsphinx"),
            lambda: english_figures(POCKETSPHINX, "pocketsphinx", quick),
        ),
        Part(
            "voice-whisper", _names("whisper"), lambda: english_figures(whisper, "whisper", quick)
        ),
        Part(
            "voice-chinese",
            [("voice_chinese_hit5", "1")],
            lambda: chinese_figures(whisper, quick),
        ),
    ]


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure; quick takes ten English and five Chinese phrases."""
    return measure(parts(quick), only)


def _names(name: str) -> list[tuple[str, str]]:
    return [
        (f"voice_{name}_hit5", "1"),
        (f"voice_{name}_hit5_noisy", "1"),
        (f"voice_{name}_cpu_s", "s"),
    ]


def titles() -> list[str]:
    """Return the different titles of the retail demo store."""
    names = pq.read_table(product_texts(), columns=["name"])["name"]
    return sorted({*names.to_pylist()})


def _worker(model: str, titles: Sequence[str]) -> SpeechWorker:
    worker = SpeechWorker(open_transcriber(model), AudioLimits())
    worker.answer(Titles([*titles], [*titles]))
    return worker


def _ask(worker: SpeechWorker, phrases: Sequence[Spoken], language: str) -> tuple[int, float]:
    """Return how often the wanted item was among the first five, and the processor time."""
    hits = 0
    begun = time.process_time()
    for phrase in phrases:
        heard = worker.answer(Phrase(phrase.audio, language))
        if isinstance(heard, Heard):
            hits += phrase.title in [hit.item_id for hit in heard.by_sound[:_FIRST]]
    return hits, time.process_time() - begun


def speak_english(titles: Sequence[str], *, quick: bool) -> list[Spoken]:
    """Return fifty titles as spoken by different voices; quick takes ten."""
    count = 10 if quick else _PHRASES
    draw = random.Random(_SEED)
    return [
        Spoken(
            title,
            _speak(title, draw.choice(_VOICES), draw.choice(_SPEEDS), draw.choice(_PITCHES)),
        )
        for title in draw.sample(titles, count)
    ]


def _speak(text: str, voice: str, speed: int = 150, pitch: int = 50) -> bytes:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    return subprocess.run(command, capture_output=True, check=True).stdout


def _noisy(spoken: Sequence[Spoken]) -> list[Spoken]:
    draw = np.random.default_rng(_SEED)
    noisy = []
    for phrase in spoken:
        with wave.open(io.BytesIO(phrase.audio)) as file:
            rate, data = file.getframerate(), file.readframes(10**8)
        samples = np.frombuffer(data, "<i2").astype(float)
        level = np.sqrt(np.square(samples).mean()) * 10 ** (-_NOISE_DB / 20)
        mixed = np.clip(samples + draw.normal(0, level, len(samples)), -32_768, 32_767)
        target = io.BytesIO()
        with wave.open(target, "wb") as file:
            file.setparams((1, 2, rate, len(mixed), "NONE", ""))
            file.writeframes(mixed.astype("<i2").tobytes())
        noisy.append(Spoken(phrase.title, target.getvalue()))
    return noisy


def _seconds(phrase: Spoken) -> float:
    with wave.open(io.BytesIO(phrase.audio)) as file:
        return float(len(phrase.audio) / (2 * file.getframerate()))


if __name__ == "__main__":
    main(
        "search",
        run,
        parts=[part.name for part in parts(True)],
    )
