"""Decoding of phrases: formats compared exactly, and refusals with a reason."""

from __future__ import annotations

import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.speech.phrases import PHRASE, TIME, pcm16, wav

from tactful.speech.audio import RATE, AudioLimits, SpeechRefused, decode_speech

RNG = np.random.default_rng(5)
WIDE = (PHRASE.astype("f8") * (2**31 - 1)).astype("<i4")


def reason(data: bytes, limits: AudioLimits | None = None) -> str:
    with pytest.raises(SpeechRefused) as refusal:
        decode_speech(data, limits)
    assert str(refusal.value)
    return refusal.value.reason


@pytest.mark.parametrize(
    ("data", "tag", "bits", "error"),
    [
        (((PHRASE * 127) + 128).astype("u1").tobytes(), 1, 8, 1 / 100),
        (pcm16(PHRASE), 1, 16, 1e-4),
        (WIDE.view("u1").reshape(-1, 4)[:, 1:].tobytes(), 1, 24, 1e-6),
        (WIDE.tobytes(), 1, 32, 1e-6),
        (PHRASE.astype("<f4").tobytes(), 3, 32, 1e-6),
        (PHRASE.astype("<f8").tobytes(), 3, 64, 1e-6),
    ],
)  # fmt: skip
def test_codings_of_wav(data: bytes, tag: int, bits: int, error: float) -> None:
    speech = decode_speech(wav(data, tag=tag, bits=bits))
    assert speech.seconds == 1
    expected = PHRASE - PHRASE.mean()
    assert np.abs(speech.samples - expected).max() < error


def test_channels_are_averaged_and_the_rate_changed() -> None:
    stereo = np.column_stack([PHRASE, np.zeros_like(PHRASE)])
    speech = decode_speech(wav(pcm16(stereo), channels=2))
    assert np.abs(speech.samples * 2 - (PHRASE - PHRASE.mean())).max() < 1e-3
    inverted = np.column_stack([PHRASE, -PHRASE])
    assert decode_speech(wav(pcm16(inverted), channels=2)).samples.std() > 0.9 * PHRASE.std()
    slow = decode_speech(wav(pcm16(PHRASE[::2]), rate=8_000))
    assert len(slow.samples) == RATE
    # The ends are left out: a filter has no samples beyond them.
    assert np.abs(slow.samples - PHRASE)[400:-400].max() < 0.02


def test_extensible_format_and_other_chunks() -> None:
    extra = struct.pack("<HHIH14x", 22, 16, 4, 1)
    data = wav(pcm16(PHRASE), tag=0xFFFE, extra=extra)
    listed = data[:12] + struct.pack("<4sI3sx", b"LIST", 3, b"abc") + data[12:]
    assert decode_speech(listed).seconds == 1


def test_unknown_length_of_a_stream_is_what_arrived() -> None:
    for size in (0x7FFF_F000, 0xFFFF_FFFF):
        assert decode_speech(wav(pcm16(PHRASE), size=size)).seconds == 1


def test_a_format_that_is_not_read_is_named_beside_those_that_are() -> None:
    for start, name in ((b"\x1aE\xdf\xa3", "WebM"), (b"\0\0\0\x20ftypM4A ", "MP4")):
        with pytest.raises(SpeechRefused, match=f"{name}, and WAV, FLAC, OGG"):
            decode_speech(start + bytes(100))


def test_refusals() -> None:
    good = pcm16(PHRASE)
    nan = PHRASE.copy()
    nan[7] = np.nan
    assert reason(b"") == "audio_empty"
    assert reason(wav(good), AudioLimits(megabytes=0.03)) == "audio_too_large"
    assert reason(wav(good), AudioLimits(seconds=0.9)) == "audio_too_long"
    assert reason(wav(good[:200])) == "audio_too_short"
    assert reason(wav(b"")) == "audio_too_short"
    assert reason(b"<svg>" * 9) == "audio_unknown_format"
    assert reason(wav(good, tag=85)) == "audio_unknown_format"  # MP3 in a RIFF file
    assert reason(wav(good, bits=0)) == "audio_unknown_format"
    damaged = [
        wav(good)[:-1],
        wav(good, size=len(good) + 2),
        wav(good, rate=0),
        wav(good, rate=4_000_000),
        wav(good, channels=0),
        wav(good, channels=9),
        wav(nan.tobytes(), tag=3, bits=32),
        wav(np.full(RATE, 1e300).tobytes(), tag=3, bits=64),
        wav(good)[:30],
        wav(good)[:12] + wav(good)[36:],  # without its format
    ]
    assert [reason(data) for data in damaged] == ["audio_damaged"] * len(damaged)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(RATE, "f4"),
        np.full(RATE, 0.9, "f4"),
        PHRASE / 1000,
        0.5 * np.sin(2 * np.pi * 50 * TIME).astype("f4"),
        RNG.normal(0, 0.1, RATE).astype("f4").clip(-1, 1),
    ],
    ids=["silence", "constant", "whisper of a microphone", "hum", "noise"],
)
def test_no_speech(samples: NDArray[np.float32]) -> None:
    assert reason(wav(pcm16(samples))) == "no_speech"


@pytest.fixture(scope="module")
def compressed() -> dict[str, bytes]:
    soundfile = pytest.importorskip("soundfile", reason="needs the extra speech")
    files = {}
    codings = {"PCM_16": "FLAC", "VORBIS": "OGG", "OPUS": "OGG", "MPEG_LAYER_III": "MP3"}
    for coding, kind in codings.items():
        file = io.BytesIO()
        soundfile.write(file, PHRASE, RATE, format=kind, subtype=coding)
        files[coding] = file.getvalue()
    return files


def test_compressed_formats(compressed: dict[str, bytes]) -> None:
    for kind, data in compressed.items():
        speech = decode_speech(data)
        assert abs(speech.seconds - 1) < 0.1, kind
        assert 0.5 < speech.samples.std() / PHRASE.std() < 2, kind


def test_a_small_file_of_hours_is_refused(compressed: dict[str, bytes]) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs the extra speech")
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE * 600, "i2"), RATE, format="FLAC")
    assert len(file.getvalue()) < 100_000
    assert reason(file.getvalue()) == "audio_too_long"


def test_faults_of_a_file_do_not_fill_the_log(
    compressed: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(compressed["MPEG_LAYER_III"])
    for place in range(600, len(data), 5):
        data[place] ^= 0xFF
    with contextlib.suppress(SpeechRefused):
        decode_speech(bytes(data))
    assert capfd.readouterr().err == ""


REASONS = {
    "audio_empty", "audio_too_large", "audio_too_long", "audio_too_short",
    "audio_unknown_format", "audio_damaged", "audio_no_decoder", "no_speech",
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_are_decoded_or_refused(
    compressed: dict[str, bytes], data: st.DataObject
) -> None:
    files = [wav(pcm16(PHRASE)), *compressed.values()]
    file = bytearray(data.draw(st.sampled_from(files)))
    for _ in range(data.draw(st.integers(1, 6))):
        # Headers are short: half of the changes fall on the first bytes.
        last = data.draw(st.sampled_from([min(64, len(file)), len(file)])) - 1
        file[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    cut = bytes(file[: data.draw(st.integers(0, len(file)))])
    try:
        speech = decode_speech(cut)
    except SpeechRefused as refusal:
        assert refusal.reason in REASONS
    else:
        assert np.isfinite(speech.samples).all()
        assert 0.05 < speech.seconds <= 15


@settings(max_examples=60, deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"RIFF\0\0\0\0WAVE", b"fLaC", b"OggS", b"ID3"]),
)
def test_hostile_bytes_are_refused(data: bytes, start: bytes) -> None:
    assert reason(start + data) in REASONS
