"""How columns of features are laid out, written to become machine code.

What is said of a thousand items in some dozen columns is little work but many calls of numpy, each
of which costs more than what it does.

Numba keeps machine code until this file changes, so that all of its source has to be in here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_DAY_MS = 86_400_000.0
_LEAST_PRICE = 0.01


def of_person(
    rows: NDArray[np.int64],
    done: NDArray[np.int64],
    amounts: NDArray[np.float64],
    ends: tuple[int, ...],
    visits: float,
    total: float,
    at: int,
    numbers: tuple[float, ...],
    columns: NDArray[np.int64],
    features: NDArray[np.float32],
) -> None:
    """Columns of what a person did with items, and of numbers that are the same for all items.

    Args:
        rows: ascending.
        done: rows of the items of four lists, -1 for what is no row, one list after the other and
            each in any order: in this visit, taken within a month, within a year, and ever.
        amounts: of `done`: 1 in the first list, how often in the next two, and when at last in the
            fourth, epoch milliseconds.
        ends: where each of the four ends.
        visits: what the amounts of the year are divided by.
        total: likewise.
        at: the moment, epoch milliseconds.
        numbers: the same for all items.
        columns: which of `features` becomes whether an item is in the visit, its amount of the
            month, of the year, that by `visits` and by `total`, the days since it was taken, NaN
            where it never was, and each of `numbers`.
        features: shape (columns, len(rows)).
    """
    for place in range(5):
        features[columns[place]] = np.float32(0.0)
    features[columns[5]] = np.float32(np.nan)
    for place in range(len(numbers)):
        features[columns[6 + place]] = np.float32(numbers[place])
    for place in range(len(done)):
        number = np.searchsorted(rows, done[place])
        if number == len(rows) or rows[number] != done[place]:
            continue
        amount = np.float32(amounts[place])
        if place < ends[0]:
            features[columns[0], number] = amount
        elif place < ends[1]:
            features[columns[1], number] = amount
        elif place < ends[2]:
            features[columns[2], number] = amount
            features[columns[3], number] = amount / np.float32(visits)
            features[columns[4], number] = amount / np.float32(total)
        else:
            features[columns[5], number] = np.float32((at - amounts[place]) / _DAY_MS)


def of_visit(
    visited: NDArray[np.int64],
    counted: int,
    prices: NDArray[np.float32],
    categories: NDArray[np.int32],
    visits: NDArray[np.float32],
) -> tuple[int, Any]:
    """The category of the latest item, and the median of the prices that are known.

    Args:
        visited: rows of items, the latest first.
        counted: so many of them are counted by category.
        prices: of every row, NaN where unknown.
        categories: of every row, -1 where unknown.
        visits: zeros by category; takes the counts.

    Returns:
        The category is -1 where it is unknown and -2 where there is no item. The price is at least
        0.01, and NaN where none is known.
    """
    known = np.empty(len(visited), np.float64)
    count = 0
    for place in range(len(visited)):
        category, price = categories[visited[place]], prices[visited[place]]
        if place < counted and category >= 0:
            visits[category] += np.float32(1.0)
        if price == price:
            known[count] = price
            count += 1
    latest = int(categories[visited[0]]) if len(visited) else -2
    if count == 0:
        return latest, np.float32(np.nan)
    ordered = np.sort(known[:count])
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return latest, np.float32(_LEAST_PRICE if middle < _LEAST_PRICE else middle)


def of_everybody(
    sold: NDArray[np.float64],
    of_categories: NDArray[np.float64],
    categories: NDArray[np.int64],
    columns: NDArray[np.int64],
    features: NDArray[np.float32],
) -> None:
    """Columns of what everybody takes, of each item and of its category.

    Args:
        sold: of each item within a week, within four and within twelve, shape (3, items).
        of_categories: of the categories of the items that have one, in the order of the items.
        categories: of each item, -1 where unknown.
        columns: which of `features` becomes each of `sold`, the week by the four, and what is sold
            of the category, NaN where it is unknown.
        features: shape (columns, items).
    """
    known = 0
    for number in range(len(categories)):
        week, month = np.float32(sold[0, number]), np.float32(sold[1, number])
        features[columns[0], number] = week
        features[columns[1], number] = month
        features[columns[2], number] = np.float32(sold[2, number])
        features[columns[3], number] = week / (month + np.float32(1.0))
        if categories[number] >= 0:
            features[columns[4], number] = np.float32(of_categories[known])
            known += 1
        else:
            features[columns[4], number] = np.float32(np.nan)
