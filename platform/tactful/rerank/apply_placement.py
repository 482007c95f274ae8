"""Apply placement rules to the candidates of one request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.recall.candidates import Candidates, VectorSearch, extended
from tactful.recall.popularity import Popularity
from tactful.rerank.placement_rules import ANY, PlacementRule
from tactful.rerank.rerank import Bounds, Group

_CHOICE = 3
"""Candidates added for each item that a rule demands, for the ranking to choose from."""

_NEWEST = 2_000


def with_demanded(
    candidates: Candidates,
    rules: Sequence[PlacementRule],
    catalogue: Catalogue,
    *,
    allowed: NDArray[np.bool_],
    popular: Popularity,
    search: VectorSearch,
    learned: int,
) -> Candidates:
    """Add the items that rules demand to the candidates, with the channel `rule`.

    Args:
        candidates: from recall.
        rules: those that hold for the request.
        catalogue: the items.
        allowed: which rows may be shown, shape (len(catalogue),).
        popular: the most popular of a target come first.
        search: gives vectors; new items come by their nearness to the visit, or to the history.
        learned: rows from this one on came since the model was trained.
    """
    demanded = []
    for rule in rules:
        if rule.pin is not None:
            row = catalogue.rows.get(rule.pin)
            demanded.append(np.array([] if row is None else [row], np.int64))
        elif rule.at_least is not None:
            count = _CHOICE * rule.at_least
            if rule.new:
                fresh = learned + np.flatnonzero(allowed[learned:])[-_NEWEST:]
                demanded.append(_nearest(fresh, candidates, search, count))
            else:
                rows = catalogue.in_campaign if rule.campaign else np.flatnonzero(allowed)
                rows = rows[allowed[rows] & _of_target(rule, catalogue, learned, rows)]
                demanded.append(popular.best(rows, count))
    if not demanded:
        return candidates
    rows = np.unique(np.concatenate(demanded))
    return extended(candidates, "rule", rows[allowed[rows]])


def bounds_of(
    rules: Sequence[PlacementRule],
    candidates: Candidates,
    catalogue: Catalogue,
    *,
    count: int,
    learned: int,
) -> Bounds:
    """Translate rules into bounds on the candidates.

    A recommendation shorter than the positions of a rule owes it proportionally less, rounded down.

    Args:
        rules: those that hold for the request.
        candidates: with what the rules demand.
        catalogue: the items.
        count: places of the recommendation.
        learned: rows from this one on came since the model was trained.
    """
    rows = candidates.rows
    groups: list[Group] = []
    pins: dict[int, tuple[str, int]] = {}
    missing: list[str] = []
    for rule in rules:
        if rule.pin is not None and rule.position is not None:
            row = catalogue.rows.get(rule.pin)
            place = int(np.searchsorted(rows, -1 if row is None else row))
            if row is None or place == len(rows) or rows[place] != row:
                missing.append(rule.name)
            else:
                pins[rule.position - 1] = (rule.name, place)
        elif rule.per_day is None:
            members = _of_target(rule, catalogue, learned, rows)
            within, least = rule.within or 0, rule.at_least or 0
            if rule.new and not members.any():
                continue  # a shop without new items lacks nothing
            if count < within:
                within, least = count, least * count // within
            first = 0 if rule.from_position is None else rule.from_position - 1
            groups.append(Group(rule.name, members, within, least, rule.at_most, first))
    return Bounds(groups, pins, tuple(missing))


def _of_target(
    rule: PlacementRule, catalogue: Catalogue, learned: int, rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return whether each row belongs to a rule's target, shape of `rows`."""
    if rule.new:
        return rows >= learned
    if rule.campaign == ANY:
        return catalogue.campaign[rows] >= 0
    if rule.campaign is not None:
        number = catalogue.campaign_numbers.get(rule.campaign, -2)
        return np.equal(catalogue.campaign[rows], number)
    number = catalogue.category_numbers.get(rule.category or "", -2)
    return np.equal(catalogue.category[rows], number)


def _nearest(
    rows: NDArray[np.int64], candidates: Candidates, search: VectorSearch, count: int
) -> NDArray[np.int64]:
    """Return the rows nearest to the visit, or to the history; newer ones first among equals."""
    anchor = candidates.session_vector
    if not anchor.any():
        anchor = candidates.history_vector
    if not len(rows):
        return rows
    near = search.stored.of(rows) @ anchor
    return rows[np.lexsort((-rows, -near))[:count]]
