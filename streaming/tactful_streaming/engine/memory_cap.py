"""Bound on memory: how much of it the entities of an engine may take."""

from __future__ import annotations

from collections.abc import Callable

_CHECK_RECORDS = 1_024
_STEPS = 64
_SMALLEST_SHARE = 16


class MemoryCap:
    """Bound on the memory of entities or, with `resident`, of the whole process.

    Entities that leave memory leave holes there, which later ones fill, so the memory of the
    process hardly falls. After each removal it may therefore grow by a step before the next one::

        limit 512 MB    resident 512 → 10 % of the entities leave → 520 → 12 % → …
    """

    def __init__(self, limit: int, resident: Callable[[], int] | None) -> None:
        """Bound memory to `limit` bytes; `resident` returns that of the process, 0 for unknown."""
        self._limit = limit
        self._resident = resident if resident is not None and resident() else None
        self._threshold = limit
        self._unchecked = _CHECK_RECORDS

    def is_due(self, records: int) -> bool:
        """Note that records were applied; return whether :meth:`allowance` is worth a call."""
        self._unchecked += records
        if self._resident is not None and self._unchecked < _CHECK_RECORDS:
            return False
        self._unchecked = 0
        return True

    def allowance(self, entities: int, others: int) -> int | None:
        """Return the bytes that entities may take; None: as they are.

        `entities` is what they take now, and `others` what entities take that stay in memory.
        """
        if self._resident is None:
            return max(self._limit - others, 0) if entities + others > self._limit else None
        resident = self._resident()
        if resident < self._limit:
            self._threshold = self._limit
        if resident < self._threshold or entities < self._limit // _SMALLEST_SHARE:
            return None
        self._threshold = resident + self._limit // _STEPS
        return entities * self._limit // (resident + 1)

    def is_full(self, entities: int) -> bool:
        """Return whether no more entities should be loaded at the opening."""
        taken = entities if self._resident is None else self._resident()
        return taken > self._limit * 3 // 4
