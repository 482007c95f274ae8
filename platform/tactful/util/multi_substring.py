"""Looks for many texts at once in bytes: whether any of them occurs.

Asking for one after the other reads everything as often as there are texts. Here the last six bytes
of each text are hashed into a table, and so are the six bytes at every place of what is searched;
only where the table says so is it compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHORTEST = 6
"""Texts of fewer bytes cannot be looked for."""

_BITS = 20
_MASK = np.uint64((1 << 48) - 1)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - _BITS)
_BLOCK = 1 << 22
_LITTLE = np.dtype("<u8")


class Texts:
    """Texts to look for."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        """Prepare to look for `texts`, each of at least `SHORTEST` bytes."""
        self._by_tail: dict[int, list[bytes]] = defaultdict(list)
        for text in set(texts):
            if len(text) < SHORTEST:
                raise ValueError(f"a text of {len(text)} bytes is too short to be looked for")
            self._by_tail[int.from_bytes(text[-SHORTEST:], "little")].append(text)
        self._longest = max((len(t) for texts in self._by_tail.values() for t in texts), default=0)
        self._table = np.zeros(1 << _BITS, np.bool_)
        self._table[_hashed(np.array([*self._by_tail], _LITTLE))] = True

    def occur_in(self, data: bytes) -> bool:
        """Whether any of the texts occurs in `data`."""
        if not self._by_tail or len(data) < SHORTEST:
            return False
        padded = data + bytes(15)
        for shift in range(8):
            windows = np.frombuffer(padded, _LITTLE, (len(data) - shift + 7) // 8, shift) & _MASK
            for place in np.flatnonzero(self._table[_hashed(windows)]).tolist():
                end = place * 8 + shift + SHORTEST
                for text in self._by_tail.get(int(windows[place]), ()):
                    if data.endswith(text, max(end - len(text), 0), end):
                        return True
        return False

    def occur_in_file(self, path: Path) -> bool:
        """Whether any of the texts occurs in a file."""
        before = b""
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                data = before + block
                if self.occur_in(data):
                    return True
                before = data[len(data) - min(self._longest, len(data)) :]
        return False

    def occur_in_pairs(self, pairs: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether any of the texts occurs in a key or a value."""
        parts: list[bytes] = []
        size = 0
        for key, value in pairs:
            parts += (key, value)
            size += len(key) + len(value)
            if size >= _BLOCK:
                if self.occur_in(b"\0".join(parts)):
                    return True
                parts, size = [], 0
        return self.occur_in(b"\0".join(parts))


def _hashed(windows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    found: NDArray[np.uint64] = (windows * _MULTIPLIER) >> _SHIFT
    return found
