"""The window of popularity that a history chooses."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tactful.recall.blend import Window
from tactful.recall.fit_popularity import _history, fit_popularity
from tactful.recall.tables import Interactions

HOUR = 3_600_000
ITEMS = 300


def history(life_h: float, *, days: float = 40, events: int = 6_000, seed: int = 0) -> Interactions:
    """Events of items that are popular for `life_h` hours; 60 begin in this time."""
    generator = np.random.default_rng(seed)
    at = np.sort(generator.integers(0, int(days * 24 * HOUR), events))
    born = at / HOUR - generator.exponential(life_h, events)
    item = np.floor(born / (life_h / 60)).astype(np.int64) % ITEMS
    return Interactions(np.arange(events), item, at)


@pytest.mark.parametrize(
    ("life_h", "days", "window"),
    [(100, 40, "now"), (700, 40, "week"), (4_000, 120, "month")],
    ids=str,
)
def test_the_window_fits_the_life_of_items(life_h: float, days: float, window: Window) -> None:
    histories = (history(life_h, days=days, seed=seed) for seed in range(5))
    found = [fit_popularity(seen, 4_800, ITEMS).window for seen in histories]
    assert found == [window] * 5


def test_items_without_fashion_get_no_short_window() -> None:
    """Of 20 histories by chance alone, where a week gains by noise only."""
    for seed in range(20):
        generator = np.random.default_rng(seed)
        item = generator.zipf(1.5, 5_000) % ITEMS
        at = np.sort(generator.integers(0, 60 * 24 * HOUR, 5_000))
        seen = Interactions(np.arange(5_000), item, at)
        assert fit_popularity(seen, 4_000, ITEMS).window in ("month", "ever")


def test_a_taste_that_stays_counts_the_whole_history() -> None:
    """Few events a week among many items: four weeks hold more noise than a year."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        item = np.floor(ITEMS * generator.random(4_000) ** 3).astype(np.int64)
        at = np.sort(generator.integers(0, 400 * 24 * HOUR, 4_000))
        seen = Interactions(np.arange(4_000), item, at)
        assert fit_popularity(seen, 2_000, ITEMS).window == "ever"


def test_few_events_keep_the_month() -> None:
    assert fit_popularity(history(4, events=300), 250, ITEMS).window == "month"


@pytest.mark.parametrize(("window", "hours"), [("week", 168), ("month", 672), ("ever", 100_000)])
def test_an_order_counts_what_came_before_in_its_window(window: Window, hours: int) -> None:
    seen = history(60, seed=3)
    found = _history(seen, np.array([3_000, 5_000]), window, ITEMS)
    for event in (3_000, 4_999, 5_000, 5_999):
        begin = 3_000 if event < 5_000 else 5_000
        oldest = seen.timestamp[begin] - hours * HOUR
        kept = [it for it, at in zip(seen.item, seen.timestamp, strict=True) if at > oldest]
        late = int((seen.timestamp > oldest)[begin:].sum())
        votes = Counter(int(it) for it in (kept[:-late] if late else kept))
        wanted = sorted(votes, key=lambda row: (-votes[row], row))
        assert found.before(event).tolist() == wanted
