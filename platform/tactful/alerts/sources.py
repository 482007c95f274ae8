"""Sources of values: the exact samples of this server, and published statistics.

A statistic is read at most once in `_READ_MS`. Several keys are added up with the root of their
number times the noise of one, and a ratio takes the worst ends of both intervals: with intervals of
95 % it lies beyond a level that is exactly right in at most 2.5 % of the releases, or 5 % for a
ratio; `releases: 2` takes the square of that, since noise is drawn anew for each release.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from tactful.alerts.samples import Reading, Scrape, make_scrape, signal_key
from tactful.metrics.registry import SampleRow
from tactful.recall.trending import Published
from tactful.schemas.alerts import AlertRule, Signal
from tactful.schemas.statistics import StatisticCell

_READ_MS = 60_000
_PANES = 3  # panes that may be open or late
_MONTH_MS = 31 * 86_400_000
_PAGES = 20


class Sources:
    """Reads everything that rules look at."""

    def __init__(
        self, rows: Callable[[], Iterable[SampleRow]], published: Published | None = None
    ) -> None:
        """Read samples by `rows`, and released numbers from `published`."""
        self._rows = rows
        self._published = published
        self._read: dict[bytes, tuple[int, Reading | None]] = {}

    def scrape(self, rules: Iterable[AlertRule], now: int) -> Scrape:
        """Return the values at `now`, epoch milliseconds; may read the ledger."""
        released: dict[bytes, Reading] = {}
        if self._published is not None:
            for signal in [rule.value for rule in rules if rule.enabled and rule.value.statistic]:
                key = signal_key(signal)
                at, reading = self._read.get(key, (0, None))
                if now - at >= _READ_MS:
                    reading = read_released(self._published, signal)
                    self._read[key] = (now, reading)
                if reading is not None:
                    released[key] = reading
        return make_scrape(self._rows(), released)


def read_released(published: Published, signal: Signal) -> Reading | None:
    """Return the latest releases of a statistic as one interval; None if there are too few."""
    parts = _latest(published, signal.statistic, signal.keys, signal.releases)
    if signal.over:
        wholes = _latest(published, signal.over, signal.over_keys, signal.releases)
        common = sorted(parts.keys() & wholes.keys())[-signal.releases :]
        readings = [_ratio(parts[start], wholes[start]) for start in common]
    else:
        readings = [parts[start] for start in sorted(parts)[-signal.releases :]]
    known = [reading for reading in readings if reading is not None]
    if len(known) < signal.releases:
        return None
    # Beyond a level lies this interval only if those of all releases do.
    last = known[-1]
    low, high = min(it.low for it in known), max(it.high for it in known)
    text = f"{last.value:.4g} released, between {last.low:.4g} and {last.high:.4g}"
    return Reading(last.value, low, high, text)


def _latest(
    published: Published, name: str, keys: Sequence[str], releases: int
) -> dict[int, Reading]:
    """Return the sums of the latest panes, by their start."""
    panes: dict[int, list[StatisticCell]] = {}
    try:
        length = published.page(name, None, 1, published.now, None).pane_ms or _MONTH_MS
        since, cursor = published.now - (releases + _PANES) * length, None
        for _ in range(_PAGES):
            page = published.page(name, cursor, 1000, since, None)
            for cell in page.cells:
                if not keys or cell.key in keys:
                    panes.setdefault(cell.pane_start, []).append(cell)
            if (cursor := page.next_cursor) is None:
                break
    except KeyError:
        return {}
    return {start: _sum(cells) for start, cells in panes.items()}


def _sum(cells: Sequence[StatisticCell]) -> Reading:
    value = sum(cell.value for cell in cells)
    half = max((cell.high - cell.low) / 2 for cell in cells) * math.sqrt(len(cells))
    return Reading(value, value - half, value + half, "")


def _ratio(part: Reading, whole: Reading) -> Reading | None:
    """Return a quotient with the worst ends; None if the whole may be nothing."""
    if whole.low <= 0:
        return None
    low, high = max(part.low, 0.0) / whole.high, max(part.high, 0.0) / whole.low
    return Reading(min(max(part.value, 0.0) / whole.value, high), low, high, "")
