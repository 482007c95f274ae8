"""Status of the worker processes of a server: liveness, readiness, restarts.

A worker reports four times a second which model and how many items it uses. The report is compared
with the process that owns the state, so that a worker that answers from an old model is noticed
like one that ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tactful.schemas.health import WorkerHealth

_PATIENCE_S = 5.0


class Served(NamedTuple):
    """Model and catalogue that one process recommends from."""

    model: str  # version of the ranking model; empty for none
    items: int  # number of items in the catalogue


_NOTHING = Served("", 0)


@dataclass
class _Place:
    """One worker and its predecessors in the same place."""

    runs: bool = False
    ready: bool = False
    starts: int = 0
    reported: Served = _NOTHING
    reported_at: float = 0.0
    current_at: float = 0.0


class WorkerStatus:
    """Status of a server's workers by place; used from one thread."""

    def __init__(
        self, count: int, current: Callable[[], Served], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with no worker started; `current` returns what the owner of the state serves."""
        self._places = [_Place() for _ in range(count)]
        self._current = current
        self._clock = clock

    @property
    def serving(self) -> int:
        """Number of workers that accept requests."""
        return sum(place.ready for place in self._places)

    @property
    def restarted(self) -> int:
        """Number of workers that replaced another one."""
        return sum(max(place.starts - 1, 0) for place in self._places)

    def started(self, number: int) -> None:
        """Record the start of a worker."""
        place = self._places[number]
        place.runs, place.ready, place.starts = True, False, place.starts + 1

    def is_ready(self, number: int) -> None:
        """Record that a worker accepts requests."""
        place = self._places[number]
        place.ready = True
        place.reported_at = place.current_at = self._clock()

    def report(self, number: int, served: Served) -> None:
        """Record the model and catalogue that a worker uses."""
        place, current = self._places[number], self._current()
        place.reported, place.reported_at = served, self._clock()
        if served.model == current.model and served.items >= current.items:
            place.current_at = place.reported_at

    def ended(self, number: int) -> None:
        """Record the end of a worker."""
        place = self._places[number]
        place.runs = place.ready = False

    def health(self) -> list[WorkerHealth]:
        """Return the present health of each worker, in the order of their places."""
        now, current = self._clock(), self._current()
        return [
            WorkerHealth(
                number=number,
                state=_state(place, now),
                restarts=max(place.starts - 1, 0),
                model_version=place.reported.model or None if place.ready else None,
                items_behind=max(current.items - place.reported.items, 0) if place.ready else None,
            )
            for number, place in enumerate(self._places)
        ]


def _state(place: _Place, now: float) -> str:
    if not place.runs:
        return "down"
    if not place.ready:
        return "starting"
    if now - place.reported_at > _PATIENCE_S:
        return "silent"
    return "behind" if now - place.current_at > _PATIENCE_S else "ready"


def served(description: Mapping[str, Any]) -> Served:
    """Return the model and catalogue in a recommender's description of itself."""
    champion = description.get("champion") or {}
    return Served(champion.get("version") or "", description.get("items") or 0)
