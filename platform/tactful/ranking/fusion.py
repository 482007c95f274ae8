"""Fuse the order of a caller with that of the ranking."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_K = 60.0


def fused(
    scores: NDArray[np.float32],  # of the ranking, shape (n,)
    asked: NDArray[np.float32],  # the caller's numbers, NaN for none, shape (columns, n)
    *,
    personal: bool,  # whether the ranking knows the user; else the caller's numbers decide
) -> NDArray[np.float32]:
    """Add up 1 / (60 + place) over the orders, shape (n,); larger is better.

    Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): it needs no common scale.
    A column without any number has no say, and candidates without a number come last in it. Equal
    numbers share a place.
    """
    orders = [column for column in asked if not np.isnan(column).all()]
    if personal or not orders:
        orders.append(scores)
    total = np.zeros(len(scores), np.float32)
    for order in orders:
        numbers = np.nan_to_num(order.astype(np.float64), nan=-np.inf)
        above = len(numbers) - np.searchsorted(np.sort(numbers), numbers, side="right")
        total += (1.0 / (_K + 1.0 + above)).astype(np.float32)
    return total


def caller_orders(asked: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the orders that a caller asks for: its scores, if every candidate has one, else all.

    Args:
        asked: `score`, `text_match` and `vector_match` of the candidates, shape (3, n).
    """
    return asked if np.isnan(asked[0]).any() else asked[:1]


def rare_last(
    scores: NDArray[np.float32],  # shape (n,)
    rare: NDArray[np.bool_],  # whether an item was taken by too few people to say so, shape (n,)
    asked: NDArray[np.float32] | None,  # the caller's numbers, see `fused`
    generator: np.random.Generator,
) -> NDArray[np.float32]:
    """Return scores in which rare items come last, by the caller's numbers and else by chance.

    The scores of a rare item follow from single visits.
    """
    count = int(rare.sum())
    if not count:
        return scores
    numbers = np.zeros(len(scores), np.float32)
    if asked is not None:
        numbers = fused(numbers, asked, personal=False)
    places = np.empty(count)
    places[np.lexsort((generator.random(count), numbers[rare]))] = np.arange(count) / count
    found = scores.copy()
    found[rare] = scores[~rare].min(initial=0.0) - 1.0 + places
    return found
