"""Decode a spoken phrase within limits of bytes, seconds, sample rates and channels.

WAV is read here, with the length of its data checked against what arrived. FLAC, OGG and MP3 are
read by `soundfile` (libsndfile), block by block, so that a small file that expands to hours of
sound is refused after the longest phrase. Every refusal has a reason of `REASONS`.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.errors import TactfulError
from tactful.util.extras import absent_modules
from tactful.util.framed_worker import silent_libraries

RATE = 16_000
"""Sample rate of a decoded phrase, in Hz; the rate of the models."""

Reason = Literal[
    "audio_empty",
    "audio_too_large",
    "audio_too_long",
    "audio_too_short",
    "audio_unknown_format",
    "audio_damaged",
    "audio_no_decoder",
    "no_speech",
    "speech_language",
]
"""Reasons why a phrase is refused."""

_SHORTEST_S = 0.1
_RATES = range(8_000, 96_001)
_CHANNELS = 8
_BLOCK = 65_536
_QUIETEST_DB = -50.0
"""Level of the loudest 25 ms below which a phrase holds no speech, relative to full scale."""
_LEAST_RANGE_DB = 6.0
"""Difference between loud and quiet moments below which a sound is a hum or noise, not speech."""
_CANCELLED = 0.05
"""Level of the average of all channels, relative to the loudest one, below which it is not used."""
_UNKNOWN_LENGTH = 0x7FFF_F000
"""Lengths from here on mean "unknown" in a header that was written before the end was known."""
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


class SpeechRefused(TactfulError, ValueError):
    """A phrase cannot be heard.

    Attributes:
        reason: stable name of the reason.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        """Carry the reason and a message for the sender."""
        super().__init__(message)
        self.reason: Reason = reason


@dataclass(frozen=True)
class AudioLimits:
    """Largest phrase that is decoded."""

    megabytes: float = 3.0
    seconds: float = 15.0

    @property
    def largest_bytes(self) -> int:
        """Largest size of an encoded phrase."""
        return int(self.megabytes * 1_000_000)


class Speech(NamedTuple):
    """A decoded phrase: one channel at `RATE`."""

    samples: NDArray[np.float32]  # in [-1, 1]

    @property
    def seconds(self) -> float:
        """Length of the phrase in seconds."""
        return len(self.samples) / RATE


def decode_speech(data: bytes, limits: AudioLimits | None = None) -> Speech:
    """Decode `data`, a WAV, FLAC, OGG or MP3 file, to one channel at 16 kHz.

    Args:
        data: the whole file.
        limits: largest phrase; the default is 3 MB and 15 s.

    Returns:
        The phrase; at least a tenth of a second long, with a level that changes like speech.

    Raises:
        SpeechRefused: if the file is empty, too large, too long, damaged, of another format, or
            holds no speech.
    """
    limits = limits or AudioLimits()
    if not data:
        raise SpeechRefused("audio_empty", "the audio is empty: send a recorded phrase")
    if len(data) > limits.largest_bytes:
        raise SpeechRefused(
            "audio_too_large",
            f"the audio has {len(data):,} bytes and at most {limits.largest_bytes:,} are read: "
            "send a shorter phrase, or a compressed one (FLAC, OGG)",
        )
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        samples, rate = _read_wav(memoryview(data), limits)
    elif _is_compressed(data):
        samples, rate = _read_compressed(data, limits)
    else:
        raise SpeechRefused(
            "audio_unknown_format",
            f"the audio is {_kind_of(data)}, and WAV, FLAC, OGG (Vorbis, Opus) and MP3 are read: "
            "convert it first, or record one of these",
        )
    speech = Speech(_resample(_mono(samples), rate))
    _check_level(speech)
    return speech


class _WavFormat(NamedTuple):
    tag: int
    channels: int
    rate: int
    bits: int


def _read_wav(data: memoryview, limits: AudioLimits) -> tuple[NDArray[np.float32], int]:
    """Read a RIFF file: `fmt ` before `data`, other chunks are skipped."""
    kind: _WavFormat | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        at += 8
        if name == b"fmt ":
            kind = _wav_format(bytes(data[at : at + min(size, 40)]))
        elif name == b"data":
            if kind is None:
                raise _damaged("its data stands before its format")
            here = len(data) - at
            if size > here and size < _UNKNOWN_LENGTH:
                raise _damaged(f"its header promises {size:,} bytes and {here:,} arrived")
            return _wav_samples(data[at : at + size], kind, limits), kind.rate
        at += size + size % 2
    raise _damaged("it has no data")


def _wav_format(fields: bytes) -> _WavFormat:
    if len(fields) < 16:
        raise _damaged("its format is cut short")
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", fields)
    if tag == _EXTENSIBLE and len(fields) >= 26:
        (tag,) = struct.unpack_from("<H", fields, 24)
    _check_format(channels, rate)
    if (tag, bits) not in _WAV_TYPES:
        raise SpeechRefused(
            "audio_unknown_format",
            f"the WAV file has coding {tag} of {bits} bits: send PCM of 8, 16, 24 or 32 bits",
        )
    return _WavFormat(tag, channels, rate, bits)


_WAV_TYPES = {(_PCM, bits) for bits in (8, 16, 24, 32)} | {(_FLOAT, 32), (_FLOAT, 64)}


def _wav_samples(
    data: memoryview, kind: _WavFormat, limits: AudioLimits
) -> NDArray[np.float32]:  # frames × channels
    width = kind.bits // 8
    frames = len(data) // (width * kind.channels)
    _check_length(frames, kind.rate, limits)
    raw = data[: frames * width * kind.channels]
    values: NDArray[np.float32]
    if kind.tag == _FLOAT:
        with np.errstate(over="ignore", invalid="ignore"):  # refused just below
            values = _finite(np.frombuffer(raw, f"<f{width}").astype(np.float32))
    elif kind.bits == 8:
        values = (np.frombuffer(raw, np.uint8).astype(np.float32) - 128) / np.float32(128)
    elif kind.bits == 24:
        # Three bytes become the upper bytes of a 32-bit integer.
        wide = np.zeros((frames * kind.channels, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    else:
        whole = np.frombuffer(raw, f"<i{width}").astype(np.float32)
        values = whole / np.float32(2 ** (kind.bits - 1))
    return values.reshape(frames, kind.channels)


_OTHER_KINDS = (
    (0, b"\x1aE\xdf\xa3", "WebM"),  # recorders of most browsers
    (4, b"ftyp", "MP4"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"FORM", "AIFF"),
    (0, b"#!AMR", "AMR"),
)


def _kind_of(data: bytes) -> str:
    """Return the name of a format that is not read."""
    for at, start, name in _OTHER_KINDS:
        if data[at : at + len(start)] == start:
            return name
    return "of an unknown format"


def _is_compressed(data: bytes) -> bool:
    is_mpeg = len(data) > 1 and data[0] == 0xFF and data[1] & 0xE6 == 0xE2  # layer III
    return data[:4] in (b"fLaC", b"OggS") or data[:3] == b"ID3" or is_mpeg


def _read_compressed(data: bytes, limits: AudioLimits) -> tuple[NDArray[np.float32], int]:
    if absent_modules(["soundfile"]):
        raise SpeechRefused(
            "audio_no_decoder",
            "this server reads WAV only: send WAV, or install pip install 'tactful[speech]' there",
        )
    import soundfile

    blocks: list[NDArray[np.float32]] = []
    frames = 0
    try:
        with silent_libraries(), soundfile.SoundFile(io.BytesIO(data)) as file:
            channels, rate = file.channels, file.samplerate
            _check_format(channels, rate)
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                frames += len(block)
                if frames > limits.seconds * rate:
                    break
                blocks.append(block)
    except (soundfile.SoundFileError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, SpeechRefused):
            raise
        raise _damaged("its frames cannot be decoded") from None
    _check_length(frames, rate, limits)
    return _finite(np.concatenate(blocks)), rate


def _check_format(channels: int, rate: int) -> None:
    if not 1 <= channels <= _CHANNELS:
        raise _damaged(f"it has {channels} channels, and 1 to {_CHANNELS} are read")
    if rate not in _RATES:
        raise _damaged(
            f"its sample rate is {rate} Hz, and {_RATES.start} to {_RATES.stop - 1} Hz are read"
        )


def _check_length(frames: int, rate: int, limits: AudioLimits) -> None:
    if frames > limits.seconds * rate:
        raise SpeechRefused(
            "audio_too_long",
            f"the phrase is longer than {limits.seconds:g} s: send one phrase",
        )
    if frames < _SHORTEST_S * rate:
        raise SpeechRefused(
            "audio_too_short", f"the phrase is shorter than {_SHORTEST_S:g} s: record it again"
        )


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise _damaged("a sample is no finite number")
    return np.clip(values, -1, 1)


def _damaged(detail: str) -> SpeechRefused:
    return SpeechRefused("audio_damaged", f"the audio is damaged: {detail}; record it again")


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the channels; where they cancel out, as with a balanced cable, take the loudest."""
    mono: NDArray[np.float32] = samples.mean(axis=1, dtype=np.float32)
    mono -= mono.mean()
    levels = samples.std(axis=0, dtype=np.float64)
    if mono.std(dtype=np.float64) < _CANCELLED * levels.max():
        mono = samples[:, levels.argmax()] - samples[:, levels.argmax()].mean()
    return mono


def _resample(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    if rate == RATE:
        return np.clip(samples, -1, 1)
    from scipy.signal import resample_poly

    common = math.gcd(rate, RATE)
    resampled: NDArray[np.float32] = resample_poly(samples, RATE // common, rate // common)
    return np.clip(resampled, -1, 1)


def _check_level(speech: Speech) -> None:
    """Refuse silence and sound of one level.

    Raises:
        SpeechRefused: if there is no speech.
    """
    width = RATE // 40
    count = len(speech.samples) // width
    frames = speech.samples[: count * width].reshape(count, width)
    levels = 10 * np.log10(np.square(frames, dtype=np.float64).mean(axis=1) + 1e-12)
    low, high = np.percentile(levels, [10, 95])
    if high < _QUIETEST_DB or high - low < _LEAST_RANGE_DB:
        raise SpeechRefused(
            "no_speech", "no speech was found in the audio: speak closer to the microphone"
        )
