"""Events wait here until the watermark has passed them, and leave in the order of event time."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from operator import itemgetter

PartitionKey = str | tuple[str, str]
"""Key of the entity, or of the entity and what else its events have in common."""

Waiting = tuple[int, int, PartitionKey, int, str, str | None]
"""Timestamp, place in the log, partition, code of the type, event id, subject."""

_BUCKET_BITS = 6
_timestamp = itemgetter(0)


def key_of(partition: PartitionKey) -> str:
    """The entity of a partition."""
    return partition if isinstance(partition, str) else partition[0]


class ReorderBuffer:
    """A queue ordered by timestamp, then by place in the log.

    Events wait in buckets of a sixteenth of a second, so that only those about to leave are sorted,
    and few at a time.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._buckets: dict[int, list[Waiting]] = {}
        self._order: list[int] = []

    def __iter__(self) -> Iterator[Waiting]:
        """All that wait, in no order."""
        for bucket in self._buckets.values():
            yield from bucket

    def extend(self, events: Iterable[Waiting]) -> None:
        """Let `events` wait."""
        buckets = self._buckets
        for event in events:
            try:
                buckets[event[0] >> _BUCKET_BITS].append(event)
            except KeyError:
                number = event[0] >> _BUCKET_BITS
                buckets[number] = [event]
                heapq.heappush(self._order, number)

    def release(self, watermark: int) -> list[Waiting]:
        """Remove and return, in order, the events before `watermark`."""
        released: list[Waiting] = []
        last = watermark >> _BUCKET_BITS
        while self._order and self._order[0] <= last:
            number = self._order[0]
            bucket = self._buckets[number]
            bucket.sort()
            if number == last:
                cut = bisect_left(bucket, watermark, key=_timestamp)
                released += bucket[:cut]
                del bucket[:cut]
                if bucket:
                    break
            else:
                released += bucket
            heapq.heappop(self._order)
            del self._buckets[number]
        return released

    def earliest(self) -> int | None:
        """The lowest timestamp that waits."""
        if not self._order:
            return None
        return min(self._buckets[self._order[0]])[0]

    def remove(self, key: str) -> list[Waiting]:
        """Remove and return what waits for a key, in no order."""
        removed: list[Waiting] = []
        for number, bucket in list(self._buckets.items()):
            taken = [event for event in bucket if key_of(event[2]) == key]
            if taken:
                removed += taken
                bucket[:] = [event for event in bucket if key_of(event[2]) != key]
                if not bucket:
                    del self._buckets[number]
        self._order = sorted(self._buckets)
        return removed

    def rename(self, source_key: str, target_key: str) -> None:
        """Give what waits for one key to another."""
        for bucket in self._buckets.values():
            for place, event in enumerate(bucket):
                if key_of(event[2]) == source_key:
                    renamed = target_key if isinstance(event[2], str) else (target_key, event[2][1])
                    bucket[place] = (*event[:2], renamed, *event[3:])
