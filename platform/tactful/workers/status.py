"""How the workers of one server are: what `tactful.workers.pool` sees of them, and what they tell.

A worker tells four times a second which model it serves and how many items it knows. What it tells
is compared with the process that keeps the state, so that a worker that runs and answers, but with
yesterday's model, shows as well as one that died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tactful.schemas.health import WorkerHealth

_PATIENCE_S = 5.0


class Serving(NamedTuple):
    """What lists are made from in one process.

    Attributes:
        model: version that ranks; empty where none does.
        items: how many the catalogue has.
    """

    model: str
    items: int


_NOTHING = Serving("", 0)


@dataclass
class _Place:
    """One worker and those before it whose place it took."""

    runs: bool = False
    ready: bool = False
    starts: int = 0
    told: Serving = _NOTHING
    told_at: float = 0.0
    current_at: float = 0.0


class Roster:
    """The places of a server's workers. Used from one thread."""

    def __init__(
        self,
        count: int,
        current: Callable[[], Serving],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nobody has started yet.

        Args:
            count: how many places there are.
            current: what the process that keeps the state makes lists from.
            clock: monotonic seconds.
        """
        self._places = [_Place() for _ in range(count)]
        self._current = current
        self._clock = clock

    @property
    def serving(self) -> int:
        """How many have come to serve and did not end."""
        return sum(place.ready for place in self._places)

    @property
    def restarted(self) -> int:
        """How many took the place of one that ended."""
        return sum(max(place.starts - 1, 0) for place in self._places)

    def started(self, number: int) -> None:
        """A worker was started in a place."""
        place = self._places[number]
        place.runs, place.ready, place.starts = True, False, place.starts + 1

    def is_ready(self, number: int) -> None:
        """The worker of a place serves."""
        place = self._places[number]
        place.ready = True
        place.told_at = place.current_at = self._clock()

    def tells(self, number: int, serving: Serving) -> None:
        """The worker of a place said what it serves."""
        place, current = self._places[number], self._current()
        place.told, place.told_at = serving, self._clock()
        if serving.model == current.model and serving.items >= current.items:
            place.current_at = place.told_at

    def ended(self, number: int) -> None:
        """The worker of a place is gone."""
        place = self._places[number]
        place.runs = place.ready = False

    def health(self) -> list[WorkerHealth]:
        """How each is now, in the order of their places."""
        now, current = self._clock(), self._current()
        return [
            WorkerHealth(
                number=number,
                state=_state(place, now),
                restarts=max(place.starts - 1, 0),
                model_version=place.told.model or None if place.ready else None,
                items_behind=max(current.items - place.told.items, 0) if place.ready else None,
            )
            for number, place in enumerate(self._places)
        ]


def _state(place: _Place, now: float) -> str:
    if not place.runs:
        return "down"
    if not place.ready:
        return "starting"
    if now - place.told_at > _PATIENCE_S:
        return "silent"
    return "behind" if now - place.current_at > _PATIENCE_S else "ready"


def serving(described: Mapping[str, Any]) -> Serving:
    """What a recommender that describes itself so makes lists from."""
    champion = described.get("champion") or {}
    return Serving(champion.get("version") or "", described.get("items") or 0)
