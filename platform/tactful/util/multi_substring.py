"""Search bytes for many texts at once.

The last six bytes of each text are hashed into a table, and so are the six bytes at every position
of the data; texts are compared only at positions whose hash is in the table. So the data are read
once, not once for each text.
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHORTEST = 6
"""Texts of fewer bytes cannot be searched for."""

_BITS = 20
_MASK = np.uint64((1 << 48) - 1)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(64 - _BITS)
_BLOCK = 1 << 22
_LITTLE = np.dtype("<u8")
_CONTEXT = 3  # bytes before a text that `_is_whole` reads
_WORD = frozenset(bytes((code,)) for code in (string.ascii_letters + string.digits + "_-").encode())


class MultiSubstring:
    r"""A set of texts, prepared for searches.

    With ``whole``, a text that is only a part of a longer word does not count::

        text      whole                          part of a longer word
        shop-85   {"user_id":"shop-85"}          {"user_id":"shop-850"}
                  \xa7shop-85 (MessagePack)      \xa8shop-850
                  ushop-85 (key in a store)      workshop-85
    """

    def __init__(self, texts: Iterable[bytes]) -> None:
        """Prepare the search for `texts`, each of at least `SHORTEST` bytes."""
        self._by_tail: dict[int, list[bytes]] = defaultdict(list)
        for text in set(texts):
            if len(text) < SHORTEST:
                raise ValueError(f"a text of {len(text)} bytes is too short to be searched for")
            self._by_tail[int.from_bytes(text[-SHORTEST:], "little")].append(text)
        self._longest = max((len(t) for texts in self._by_tail.values() for t in texts), default=0)
        self._table = np.zeros(1 << _BITS, np.bool_)
        self._table[_hashed(np.array([*self._by_tail], _LITTLE))] = True

    def occur_in(self, data: bytes, *, whole: bool = False) -> bool:
        """Return whether any text occurs in `data`."""
        return any(
            not whole or _is_whole(data, start, end) for start, end in self._occurrences(data)
        )

    def find_in(self, data: bytes) -> Iterator[bytes]:
        """Yield the text of each occurrence in `data`."""
        return (data[start:end] for start, end in self._occurrences(data))

    def occur_in_file(self, path: Path, *, whole: bool = False) -> bool:
        """Return whether any text occurs in a file."""
        return any(True for _ in self.find_in_file(path, whole=whole))

    def find_in_file(self, path: Path, *, whole: bool = False) -> Iterator[bytes]:
        """Yield the text of each occurrence in a file, which is read in overlapping blocks."""
        before = b""
        with path.open("rb") as file:
            block = file.read(_BLOCK)
            while block:
                following = file.read(_BLOCK)
                data = before + block
                for start, end in self._occurrences(data):
                    # Judged with the last block, or to be judged when the next byte is known.
                    elsewhere = end < len(before) or (end == len(data) and following)
                    if not elsewhere and (not whole or _is_whole(data, start, end)):
                        yield data[start:end]
                before, block = data[max(len(data) - self._longest - _CONTEXT, 0) :], following

    def occur_in_pairs(self, pairs: Iterable[tuple[bytes, bytes]], *, whole: bool = False) -> bool:
        """Return whether any text occurs in a key or a value."""
        parts: list[bytes] = []
        size = 0
        for key, value in pairs:
            parts += (key, value)
            size += len(key) + len(value)
            if size >= _BLOCK:
                if self.occur_in(b"\0".join(parts), whole=whole):
                    return True
                parts, size = [], 0
        return self.occur_in(b"\0".join(parts), whole=whole)

    def _occurrences(self, data: bytes) -> Iterator[tuple[int, int]]:
        if not self._by_tail or len(data) < SHORTEST:
            return
        padded = data + bytes(15)
        for shift in range(8):
            windows = np.frombuffer(padded, _LITTLE, (len(data) - shift + 7) // 8, shift) & _MASK
            for place in np.flatnonzero(self._table[_hashed(windows)]).tolist():
                end = place * 8 + shift + SHORTEST
                for text in self._by_tail.get(int(windows[place]), ()):
                    if data.endswith(text, max(end - len(text), 0), end):
                        yield end - len(text), end


def _is_whole(data: bytes, start: int, end: int) -> bool:
    """Return whether the text at `start` is not a part of a longer word.

    The header of a string or of bytes in MessagePack holds the length, so what follows is no part
    of the text. Keys of state stores have one letter before an id.
    """
    before, after = data[max(start - _CONTEXT, 0) : start], data[end : end + 1]
    if before.endswith(_headers(end - start)):
        return True
    return after not in _WORD and (before[-1:] not in _WORD or before[-2:-1] not in _WORD)


def _headers(size: int) -> tuple[bytes, ...]:
    """Return the headers of strings and bytes of a length in MessagePack."""
    if size < 32:
        return bytes((0xA0 | size,)), bytes((0xC4, size))
    if size < 256:
        return bytes((0xD9, size)), bytes((0xC4, size))
    return b"\xda" + size.to_bytes(2, "big"), b"\xc5" + size.to_bytes(2, "big")


def _hashed(windows: NDArray[np.uint64]) -> NDArray[np.uint64]:
    hashes: NDArray[np.uint64] = (windows * _MULTIPLIER) >> _SHIFT
    return hashes
