"""Batch sizes that adapt to a time limit for each batch."""

from __future__ import annotations

_REST = 4
_LONGEST_REST_S = 0.25


class AdaptiveBatch:
    """A batch size that grows and shrinks with the measured time of batches.

    Attributes:
        size: records of the next batch.
        rest_s: pause before the next batch, seconds; above 0 where even a small batch takes
            longer than allowed, since its fixed cost is then not worth paying often.
    """

    def __init__(self, smallest: int, largest: int, allowed_s: float) -> None:
        """Begin with the smallest size; a batch may exceed `allowed_s` a little."""
        self.size = smallest
        self.rest_s = 0.0
        self._smallest = smallest
        self._largest = max(largest, smallest)
        self._allowed_s = allowed_s

    def note(self, count: int, seconds: float) -> None:
        """Adapt to a batch of `count` records that took `seconds`."""
        if seconds > self._allowed_s:
            self.size = max(self._smallest, self.size // 2)
        elif count >= self.size and seconds < self._allowed_s / 2:
            self.size = min(self._largest, self.size * 2)
        # The time of a large batch says little about the fixed cost of a batch.
        if count <= 2 * self._smallest:
            self.rest_s = min(_REST * max(seconds - self._allowed_s, 0.0), _LONGEST_REST_S)
