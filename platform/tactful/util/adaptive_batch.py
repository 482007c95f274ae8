"""How much to do at once, so that nobody waits longer than allowed for it to be done."""

from __future__ import annotations

_REST = 4
_LONGEST_REST_S = 0.25


class Pace:
    """A number of records that grows and shrinks with the time that so many took.

    Attributes:
        size: how many to do next.
        rest_s: how long to do something else before, seconds: where even a small number takes
            longer than allowed, what each time costs is not worth paying often.
    """

    def __init__(self, smallest: int, largest: int, allowed_s: float) -> None:
        """Begin with the smallest number.

        Args:
            smallest: never fewer.
            largest: never more.
            allowed_s: about how long it may take, seconds.
        """
        self.size = smallest
        self.rest_s = 0.0
        self._smallest = smallest
        self._largest = max(largest, smallest)
        self._allowed_s = allowed_s

    def note(self, count: int, seconds: float) -> None:
        """Learn that `count` records took `seconds`."""
        if seconds > self._allowed_s:
            self.size = max(self._smallest, self.size // 2)
        elif count >= self.size and seconds < self._allowed_s / 2:
            self.size = min(self._largest, self.size * 2)
        # Of a large number the time says little about what is not for each record.
        if count <= 2 * self._smallest:
            self.rest_s = min(_REST * max(seconds - self._allowed_s, 0.0), _LONGEST_REST_S)
