"""A Bloom filter of event ids, which recognises almost every new id.

Bits by Kirsch and Mitzenmacher, "Less hashing, same performance" (ESA 2006): the places of an id
are ``a, a + b, a + 2b…`` of two halves of one hash.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BITS_PER_ID = 16
_PLACES = np.arange(4, dtype=np.uint64)[:, None]


class IdFilter:
    """Holds up to `capacity` ids with about one false alarm in 400.

    Hashes are those of this process, so a filter cannot be stored.
    """

    def __init__(self, capacity: int) -> None:
        """Begin empty; each id of `capacity` takes two to four bytes."""
        self.capacity = capacity
        bits = 1 << max(capacity * _BITS_PER_ID - 1, 1 << 6).bit_length()
        self._mask = np.uint64(bits - 1)
        self._words = np.zeros(bits >> 6, np.uint64)

    def add(self, ids: Sequence[str]) -> None:
        """Remember `ids`."""
        words, bits = self._places(ids)
        np.bitwise_or.at(self._words, words, bits)

    def maybe(self, ids: Sequence[str]) -> list[str]:
        """Return those of `ids` that may be remembered; the others certainly are not."""
        words, bits = self._places(ids)
        known = ((self._words[words] & bits) != 0).all(axis=0)
        return [ids[i] for i in np.flatnonzero(known).tolist()]

    def _places(self, ids: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids)).view(np.uint64)
        step = (hashes >> np.uint64(32)) | np.uint64(1)
        places = (hashes + _PLACES * step) & self._mask
        return places >> np.uint64(6), np.uint64(1) << (places & np.uint64(63))
