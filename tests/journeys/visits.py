"""Visits of a made-up shop of four categories: each visitor takes items of one, in their order."""

from __future__ import annotations

import csv
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

CATEGORIES = ("tea", "cups", "books", "lamps")
PER_CATEGORY = 10
VISITORS = 60
_DAYS = 28
_DAY_S = 86_400


class Row(NamedTuple):
    """One item of one visit."""

    visitor: int
    visit: int
    item: str
    at: datetime


def taste(visitor: int) -> str:
    """Return the category that a visitor takes items from."""
    return CATEGORIES[visitor % len(CATEGORIES)]


def category(item: str) -> str:
    """Return the category of an item such as ``tea-3``."""
    return item.partition("-")[0]


def items() -> list[str]:
    """Return all items."""
    return [f"{name}-{number}" for name in CATEGORIES for number in range(PER_CATEGORY)]


def visits(count: int = 240, *, seed: int = 5, visitors: int = VISITORS) -> list[Row]:
    """Return the rows of visits of the last four weeks, in the order of time."""
    chance = random.Random(seed)
    begin = time.time() - _DAYS * _DAY_S
    rows = []
    for visit in range(count):
        visitor = visit % visitors
        at = begin + (visit + chance.random()) * (_DAYS * _DAY_S - 7_200) / count
        first = chance.randrange(PER_CATEGORY)
        for item in range(first, first + 4):
            at += chance.uniform(20, 200)
            name = f"{taste(visitor)}-{item % PER_CATEGORY}"
            rows.append(Row(visitor, visit, name, datetime.fromtimestamp(int(at), UTC)))
    return sorted(rows, key=lambda row: row.at)


def write_csv(path: Path, header: str, rows: Iterator[tuple[object, ...]]) -> None:
    """Write a table with the names of its columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        writer.writerows(rows)
