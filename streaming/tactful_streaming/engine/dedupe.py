"""Deduplication: the store remembers event ids for some days."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_streaming.state.key_layout import EVENT_ID, ID_CHUNK
from tactful_streaming.state.store import Change, StateStore

MEASURED = "\x1e"  # suffix of the key of an event that independent consumers have got
_DAY_MS = 86_400_000
_CHUNKS_PER_COMMIT = 4
_FIRST_CAPACITY = 1 << 18
_FILL = 100_000

_BITS_PER_ID = 16
_PLACES = np.arange(4, dtype=np.uint64)[:, None]

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[str]] = msgspec.msgpack.Decoder(list[str])


class IdFilter:
    """Bloom filter of up to `capacity` ids, with about one false alarm in 400.

    Bits by Kirsch and Mitzenmacher, "Less hashing, same performance" (ESA 2006): the places of an
    id are ``a, a + b, a + 2b…`` of two halves of one hash. Hashes are those of this process, so a
    filter cannot be stored.
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


class Deduplicator:
    """Remembers event ids by generation, the day at which they were received.

    An id is kept for at least `days` days. Its time is that of the receipt in the log, which other
    events do not change; without one it is the watermark. So a replay of the log drops ids at the
    same events. In memory are only ids that are not yet in the store, and a filter that saves most
    look-ups in the store. After an opening it is filled in steps; until it holds every id, the
    store is read.
    """

    def __init__(self, store: StateStore, days: int, most: int | None = None) -> None:
        """Remember ids in `store` for at least `days`; 0 remembers none.

        With `most` only so many of the latest uncommitted ids are remembered.
        """
        self._store = store
        self._most = most
        self._days = days
        self._recent: dict[str, int] = {}
        self._purged_until = 0
        self._filter = IdFilter(_FIRST_CAPACITY)
        self._held = self._stored = 0  # ids in the filter, and about how many in the store
        self._fill_from: bytes | None = ID_CHUNK
        if self.enabled:
            self._fill()

    @property
    def enabled(self) -> bool:
        """Whether ids are remembered at all."""
        return self._days > 0

    def seen_many(self, event_ids: Sequence[str]) -> dict[str, int]:
        """Return the generations of those of `event_ids` that are still stored."""
        recent = self._recent
        # Before the filter: a commit adds ids there first, and then removes them here.
        held = {}
        if not recent.keys().isdisjoint(event_ids):
            held = {id_: recent[id_] for id_ in event_ids if id_ in recent}
        candidates = event_ids if self._fill_from is not None else self._filter.maybe(event_ids)
        stored = self._store.get_many([_key(event_id) for event_id in candidates])
        generations = {
            event_id: int.from_bytes(value, "big")
            for event_id, value in zip(candidates, stored, strict=True)
            if value is not None
        }
        generations.update(held)
        return generations

    def is_new(self, event_id: str, known: Mapping[str, int], time: int) -> bool:
        """Whether `event_id` is not remembered at `time`, that of its event."""
        seen = self._recent.get(event_id, known.get(event_id))
        return seen is None or seen < time // _DAY_MS - self._days

    def remember(self, event_id: str, time: int) -> None:
        """Remember `event_id` as of `time`."""
        self._recent[event_id] = time // _DAY_MS

    def remember_many(self, event_ids: Iterable[str], times: NDArray[np.int64]) -> None:
        """Remember ids, each as of a time."""
        self._recent.update(zip(event_ids, (times // _DAY_MS).tolist(), strict=True))
        if self._most is not None and len(self._recent) > 2 * self._most:
            self._recent = dict(islice(self._recent.items(), self._most, None))

    def seen(self, event_id: str, time: int) -> bool:
        """Whether `event_id` was applied and is still remembered at `time`."""
        return not self.is_new(event_id, self.seen_many([event_id]), time)

    def changes(self, offset: int, reached: int) -> Iterator[Change]:
        """Yield the writes of a commit at log offset `offset`; drops a few old ids.

        No later event is of a time before `reached`.
        """
        for generation in sorted(set(self._recent.values())):
            ids = [event_id for event_id, of in self._recent.items() if of == generation]
            value = generation.to_bytes(4, "big")
            yield from [(EVENT_ID + event_id.encode(), value) for event_id in ids]
            yield _chunk_key(generation, offset), _encoder.encode(ids)
        yield from self._purge(reached // _DAY_MS - self._days)

    def mark_committed(self) -> None:
        """Note that the last :meth:`changes` are in the store."""
        if self.enabled:
            self._hold(list(self._recent))
            self._fill()
        self._recent.clear()

    def _hold(self, ids: Sequence[str]) -> None:
        if ids:
            self._filter.add(ids)
            self._held += len(ids)
            self._stored += len(ids)

    def _fill(self) -> None:
        """Add some more stored ids to the filter; begin a larger one if it is full."""
        if self._fill_from is None:
            if self._held <= self._filter.capacity:
                return
            self._filter = IdFilter(max(2 * self._stored, _FIRST_CAPACITY))
            self._held = self._stored = 0
            self._fill_from = ID_CHUNK
        taken = 0
        for key, value in self._store.scan(ID_CHUNK, self._fill_from):
            if taken >= _FILL:
                self._fill_from = key
                return
            ids = _decoder.decode(value)
            self._hold(ids)
            taken += len(ids)
        self._fill_from = None

    def _purge(self, oldest_kept: int) -> Iterator[Change]:
        if self._purged_until >= oldest_kept:
            return
        start = _chunk_key(self._purged_until, 0)
        for purged, (key, value) in enumerate(self._store.scan(ID_CHUNK, start)):
            generation = int.from_bytes(key[1:5], "big")
            if generation >= oldest_kept:
                break
            if purged >= _CHUNKS_PER_COMMIT:
                self._purged_until = generation
                return
            ids = _decoder.decode(value)
            stored = self._store.get_many([_key(event_id) for event_id in ids])
            for event_id, seen in zip(ids, stored, strict=True):
                current = event_id in self._recent
                if not current and seen == generation.to_bytes(4, "big"):
                    yield _key(event_id), None
            yield key, None
            self._stored -= len(ids)
        self._purged_until = oldest_kept


def _key(event_id: str) -> bytes:
    return EVENT_ID + event_id.encode()


def _chunk_key(generation: int, offset: int) -> bytes:
    return ID_CHUNK + generation.to_bytes(4, "big") + offset.to_bytes(8, "big")
