"""Feed of the newest events and refusals, for those who look at them now.

Each listener holds counts and the 50 newest events since its last message, so its memory is bounded
whatever comes and however slowly it reads. Without listeners nothing is kept.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tactful_streaming.contract.log_entries import Event

MOST_LISTENERS = 8
_NEWEST = 50


@dataclass(eq=False)
class Listener:
    """Events and refusals since the last `take`."""

    _accepted: Counter[str] = field(default_factory=Counter)
    _refused: Counter[str] = field(default_factory=Counter)
    _newest: deque[Event] = field(default_factory=lambda: deque(maxlen=_NEWEST))

    def add(self, events: Sequence[Event], codes: Iterable[str]) -> None:
        """Add accepted events, and the codes of refused ones."""
        self._accepted.update(event.type for event in events)
        self._refused.update(codes)
        self._newest.extend(events[-_NEWEST:])

    def take(self) -> tuple[dict[str, int], dict[str, int], list[Event]]:
        """Return accepted events by type, refused ones by code, and the newest; begin anew."""
        taken = dict(self._accepted), dict(self._refused), [*self._newest]
        self._accepted.clear()
        self._refused.clear()
        self._newest.clear()
        return taken


class LiveFeed:
    """Passes events on to listeners. Used from the event loop only."""

    def __init__(self) -> None:
        """Begin without listeners."""
        self._listeners: list[Listener] = []

    @property
    def is_full(self) -> bool:
        """Whether it takes no more listeners."""
        return len(self._listeners) >= MOST_LISTENERS

    @property
    def is_heard(self) -> bool:
        """Whether there is a listener."""
        return bool(self._listeners)

    @contextmanager
    def listening(self) -> Iterator[Listener]:
        """Listen while the context lasts."""
        listener = Listener()
        self._listeners.append(listener)
        try:
            yield listener
        finally:
            self._listeners.remove(listener)

    def publish(self, events: Sequence[Event], codes: Sequence[str]) -> None:
        """Pass on accepted events, and the codes of refused ones."""
        for listener in self._listeners:
            listener.add(events, codes)
