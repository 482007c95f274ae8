"""Linked panes against a dictionary: values, time, memory and order."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.definitions.model import CumulativeWindow, Window
from tactful_streaming.windows.pane_columns import oldest_open, window_at
from tactful_streaming.windows.panes import FOLDS, PaneTable


class Plain:
    """A number for each (cell, pane), in a dictionary."""

    def __init__(self, kind: str) -> None:
        self.fold = FOLDS[kind]
        self.panes: dict[tuple[int, int], float] = {}

    def add(self, cell: int, pane: int, amount: float) -> None:
        before = self.panes.get((cell, pane), self.fold.identity)
        self.panes[cell, pane] = float(self.fold.combine(before, amount))

    def read(self, cell: int, oldest: int, newest: int, decay: float) -> float:
        total, any_ = self.fold.identity, False
        for (other, pane), value in sorted(self.panes.items()):
            if other == cell and oldest <= pane <= newest:
                weighed = decay ** (newest - pane) * value if decay != 1 else value
                total, any_ = float(self.fold.combine(total, weighed)), True
        return total if any_ else np.nan


def same(left: float, right: float) -> bool:
    return left == right or (np.isnan(left) and np.isnan(right))


@given(st.integers(0, 2**32), st.sampled_from(["count", "sum", "min", "max"]))
@settings(max_examples=80, deadline=None)
def test_every_way_to_read_gives_the_same_float(seed: int, kind: str) -> None:
    rng = random.Random(seed)
    cells_, span = rng.choice([1, 5, 40]), rng.choice([1, 4, 60])
    table, plain = PaneTable(FOLDS[kind]), Plain(kind)
    table.resize(cells_)
    now = rng.choice([0, 10**6, 1_700_000_000_000])
    decay = rng.choice([1.0, 0.9]) if kind in ("count", "sum") else 1.0
    weights = np.array([decay**age for age in range(span)]) if decay != 1 else None
    for _ in range(rng.randrange(1, 12)):
        count = rng.randrange(1, 60)
        cells = np.array([rng.randrange(cells_) for _ in range(count)], np.int64)
        numbers = np.array([max(now - rng.randrange(span + 3), 0) for _ in range(count)], np.int64)
        amounts = np.array([rng.uniform(-5, 5) for _ in range(count)])
        table.add(cells, numbers, None if kind == "count" else amounts)
        for cell, pane, amount in zip(
            cells.tolist(), numbers.tolist(), amounts.tolist(), strict=True
        ):
            plain.add(cell, pane, 1.0 if kind == "count" else amount)
        action = rng.random()
        if action < 0.2:
            gone = rng.randrange(cells_)
            table.clear(np.array([gone], np.int64))
            plain.panes = {k: v for k, v in plain.panes.items() if k[0] != gone}
        elif action < 0.4:
            oldest = now - span
            table._compact(oldest)
            plain.panes = {k: v for k, v in plain.panes.items() if k[1] >= oldest}
        elif action < 0.6:
            copy = PaneTable(FOLDS[kind])
            copy.resize(cells_)
            every = np.arange(cells_)
            counts, pairs = table.pack(every, 0)
            copy.absorb(np.repeat(every, counts), pairs)
            table = copy
        now += rng.randrange(3)
        newest = now - rng.randrange(2)
        oldest = newest - span + 1
        every = np.arange(cells_)
        expected = [plain.read(cell, oldest, newest, decay) for cell in range(cells_)]
        many = table.read(every, oldest, newest, weights).tolist()
        one = [table.read_one(cell, oldest, newest, weights) for cell in range(cells_)]
        found, values = table.read_all(oldest, newest, weights)
        whole = dict(zip(found.tolist(), values.tolist(), strict=True))
        for cell in range(cells_):
            assert same(expected[cell], many[cell])
            assert same(expected[cell], one[cell])
            assert same(expected[cell], whole.get(cell, np.nan))


def test_a_source_read_far_ahead_of_another_aliases_nothing() -> None:
    table = PaneTable(FOLDS["count"])
    table.resize(2)
    panes = np.arange(100_000, 100_500)
    table.add(np.zeros(500, np.int64), panes, None)
    table.add(np.ones(500, np.int64), panes, None)
    for newest in range(100_000, 100_500, 7):
        expected = min(newest - 100_000 + 1, 5)
        assert table.read(np.arange(2), newest - 4, newest, None).tolist() == [expected] * 2


def test_memory_follows_events_not_the_width_of_windows() -> None:
    """A day in minutes for many cells, each with few of them."""
    rng = np.random.default_rng(1)
    table = PaneTable(FOLDS["count"])
    table.resize(50_000)
    for minute in range(3 * 1440):
        table.add(rng.integers(0, 50_000, 100), np.full(100, minute), None)
        table.expire(minute - 1439)
        assert len(table) <= 2 * 1440 * 100 + 5000


@pytest.mark.parametrize(
    ("window", "at", "panes"),
    [
        (Window(300, 100), 0, (-2, 0)),
        (Window(300, 100), 1099, (8, 10)),
        (Window(300, 100), 1100, (9, 11)),
        (Window(300, 300), 899, (2, 2)),
        (Window(120_000, 60_000, tail="approximate"), 599_999, (7, 9)),
        (CumulativeWindow(300, 100), 899, (6, 8)),
        (CumulativeWindow(300, 100), 900, (9, 9)),
    ],
)
def test_panes_of_a_window(
    window: Window | CumulativeWindow, at: int, panes: tuple[int, int]
) -> None:
    assert panes == window_at(window, at)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 10_000), st.booleans())
def test_the_oldest_open_pane_is_in_a_window_not_ended(
    slide: int, count: int, horizon: int, cumulative: bool
) -> None:
    size = slide * count
    window = CumulativeWindow(size, slide) if cumulative else Window(size, slide)
    oldest = int(oldest_open(window, np.array(horizon)))
    later = [at for at in range(horizon, horizon + size + slide)]
    assert oldest == min(window_at(window, at)[0] for at in later)
