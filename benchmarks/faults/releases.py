"""Whether published numbers stay as they were shown, and no budget is overspent."""

from __future__ import annotations

import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Final

import yaml

from benchmarks.kills.load import CATEGORIES
from tactful.client import Client
from tactful.errors import Busy, ConnectionFailed, ServerFault
from tactful_privacy.ledger.ledger import Ledger

NAMES: Final = ("struck.views", "struck.sales")
_EPSILON, _DAILY = "1/2", "1"
_PAUSE_S = 1.0
_LAST_DAY = 100_000
_LATE_MS = 20_000  # the load is out of order by less


def write_definitions(file: Path) -> None:
    """Write definitions of panes of a minute that together need all of the daily budget."""
    statistics: list[dict[str, object]] = [
        {
            **{"name": name, "event": event, "by": "event.category", "keys": CATEGORIES},
            **{"pane": "1m", "cap": 50, "epsilon": _EPSILON},
        }
        for name, event in zip(NAMES, ("view", "purchase"), strict=True)
    ]
    text = yaml.safe_dump({"daily_epsilon": _DAILY, "statistics": statistics})
    file.write_text(text, "utf-8")


class Releases:
    """What readers of statistics saw, and whether it stayed.

    Attributes:
        seen: value by statistic, pane and key, as it was first shown.
        changed: cells that later had another value, or none, in words.
    """

    def __init__(self, seed: int) -> None:
        """Begin with nothing; `seed` is part of the ids of events that are the clock."""
        self.seen: dict[tuple[str, int, str], float] = {}
        self.changed: list[str] = []
        self._seed = seed
        self._ticks = 0
        self._next = 0.0

    def look(self, client: Client, newest: int) -> None:
        """Once a second, let the time of panes pass, and read all that is released.

        Args:
            client: of the server.
            newest: time of the newest event of the load, epoch milliseconds.
        """
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _PAUSE_S
        self._ticks += 1
        tick = {
            **{"event_id": f"clock:{self._seed}:{self._ticks}", "type": "x.clock"},
            **{"user_id": "clock", "timestamp": newest - _LATE_MS},
        }
        with suppress(ConnectionFailed, Busy, ServerFault):
            client.events([tick])
            self.read(client)

    def read(self, client: Client) -> None:
        """Read all that is released, and compare it with what was read before.

        Raises:
            ApiError: if the server does not answer.
        """
        for name in NAMES:
            cells = client.statistics(name).cells
            self.compare(name, {(cell.pane_start, cell.key): cell.value for cell in cells})

    def compare(self, name: str, found: dict[tuple[int, str], float]) -> None:
        """Note cells of a statistic that differ from those that were shown before."""
        for (start, key), value in found.items():
            before = self.seen.setdefault((name, start, key), value)
            if before != value:
                self.changed.append(f"{name} {start} {key}: {value}, not {before} as before")
        for of, start, key in list(self.seen):
            if of == name and (start, key) not in found:
                self.changed.append(f"{name} {start} {key}: gone")


def overspent_days(location: str) -> list[str]:
    """Return the days on which the releases of a ledger lost more privacy than it allows.

    Args:
        location: of the ledger, a path or an SQLAlchemy address.
    """
    lost: dict[int, Fraction] = {}
    ledger = Ledger(location)
    try:
        statistics, most = ledger.statistics(), ledger.daily_epsilon
        for name, days in ledger.released_days(0, _LAST_DAY).items():
            for day in days:
                lost[day] = lost.get(day, Fraction()) + statistics[name].epsilon
    finally:
        ledger.close()
    return [f"day {day}: {loss} of {most}" for day, loss in lost.items() if loss > most]
