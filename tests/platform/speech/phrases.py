"""Phrases as files, for tests."""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from tactful.speech.audio import RATE

# A tone that swells and fades four times, as syllables do.
TIME = np.arange(RATE) / RATE
PHRASE = (0.4 * np.sin(2 * np.pi * 300 * TIME) * np.sin(2 * np.pi * 2 * TIME) ** 2).astype("f4")


def wav(
    data: bytes, *, tag: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16,
    size: int | None = None, extra: bytes = b"",
) -> bytes:  # fmt: skip
    width = channels * bits // 8
    kind = struct.pack("<HHIIHH", tag, channels, rate, (rate * width) % 2**32, width, bits) + extra
    return (
        struct.pack("<4sI4s4sI", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", len(kind))
        + kind
        + struct.pack("<4sI", b"data", len(data) if size is None else size)
        + data
    )


def pcm16(samples: NDArray[np.float32]) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()
