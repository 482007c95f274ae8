"""Choose which share of a list is kept for items that are new to the user."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tactful.ranking.features import RANKING_FEATURES
from tactful.training.evaluation import CUTOFF
from tactful.util.mapped_arrays import portions

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Shares that are tried."""

_FEWEST_LISTS = 100
_LOSS = 0.005
_KNOWN = ("days_since_taken", "days_since_seen")


class Discovery(NamedTuple):
    """The chosen share, and its effect on the held-back lists."""

    share: float = 0.0
    new_mrr20: float = 0.0  # reciprocal place of the answer where it is new to the user
    new_mrr20_without: float = 0.0  # the same without kept places


def choose_discovery(
    margins: NDArray[np.float32],  # of all rows, list after list, shape (n,)
    labels: NDArray[np.bool_],  # whether each row is right, shape (n,)
    sizes: NDArray[np.int64],  # rows of each list, shape (lists,)
    features: NDArray[np.float32],  # shape (n, len(RANKING_FEATURES))
) -> Discovery:
    """Choose the largest share that costs at most half a percent of NDCG@20 and of HR@20.

    With fewer than a hundred lists no place is kept.
    """
    if len(sizes) < _FEWEST_LISTS:
        return Discovery()
    new = np.concatenate([new_to_user(part) for part in portions(features)])
    lists = [*_sorted_lists(margins, labels, sizes, new)]
    outcomes = {share: _outcome(lists, share) for share in SHARES}
    hits, gain, without = outcomes[0.0]
    fitting = [
        share
        for share, (other_hits, other_gain, _) in outcomes.items()
        if other_hits >= hits * (1.0 - _LOSS) and other_gain >= gain * (1.0 - _LOSS)
    ]
    share = max(fitting)
    return Discovery(share, outcomes[share][2], without)


def new_to_user(features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether the item of each row is one that the user did not deal with before."""
    column = {name: features[:, RANKING_FEATURES.index(name)] for name in (*_KNOWN, "in_session")}
    new: NDArray[np.bool_] = np.isnan(column[_KNOWN[0]]) & np.isnan(column[_KNOWN[1]])
    return new & ~(column["in_session"] > 0)


class _List(NamedTuple):
    right: NDArray[np.bool_]  # of the rows, best first
    new: NDArray[np.bool_]


def _sorted_lists(
    margins: NDArray[np.float32],
    labels: NDArray[np.bool_],
    sizes: NDArray[np.int64],
    new: NDArray[np.bool_],
) -> Iterator[_List]:
    start = 0
    for size in sizes.tolist():
        rows = slice(start, start + size)
        order = np.argsort(-margins[rows], kind="stable")
        yield _List(labels[rows][order], new[rows][order])
        start += size


def _outcome(lists: list[_List], share: float) -> tuple[float, float, float]:
    """Return HR@20, NDCG@20 but for a constant, and MRR@20 of answers that are new."""
    hits, gains, reciprocals = [], [], []
    for each in lists:
        rows = shown(each.new, round(share * CUTOFF), CUTOFF)
        right = each.right[rows]
        places = np.flatnonzero(right)
        hits.append(len(places) > 0)
        gains.append(float((1.0 / np.log2(places + 2.0)).sum()))
        if (each.right & each.new).any():
            fresh = np.flatnonzero(right & each.new[rows])
            reciprocals.append(1.0 / (fresh[0] + 1) if len(fresh) else 0.0)
    return float(np.mean(hits)), float(np.mean(gains)), float(np.mean(reciprocals or [0.0]))


def shown(new: NDArray[np.bool_], least: int, count: int) -> NDArray[np.int64]:
    """Return the rows of a list of `count`, `least` of them new if there are so many.

    Rows come best first. New ones that would not have been shown take the last places.
    """
    first = np.arange(min(count, len(new)))
    lacking = min(least, int(new.sum())) - int(new[first].sum())
    if lacking <= 0:
        return first
    later = np.flatnonzero(new[count:])[:lacking] + count
    kept = np.sort(np.concatenate([first[new[first]], first[~new[first]][: -len(later) or None]]))
    return np.concatenate([kept, later])
