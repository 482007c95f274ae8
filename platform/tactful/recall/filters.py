"""Filters of a request, as one array of flags over the rows of the catalogue."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext


@dataclass(frozen=True)
class Filter:
    """Conditions on the items of a recommendation; by default all available ones pass.

    Attributes:
        categories: only items of these; empty for all.
        min_price: lowest price; an unknown price does not pass.
        max_price: highest price; an unknown price does not pass.
        exclude: item ids not to show.
        seen: whether to leave out items the user looked at or took lately, or in this visit.
        taken: whether to leave out all items the user ever put into a cart or bought.
    """

    categories: Collection[str] = ()
    min_price: float | None = None
    max_price: float | None = None
    exclude: Collection[str] = ()
    seen: bool = False
    taken: bool = False

    def rows(self, catalogue: Catalogue, context: RequestContext) -> NDArray[np.bool_]:
        """Return whether each row passes, shape (len(catalogue),), read-only.

        Args:
            catalogue: the items.
            context: user and visit.
        """
        hidden = self._hidden(catalogue, context)
        priced = self.min_price is not None or self.max_price is not None
        if not (hidden or self.categories or priced):
            return catalogue.available
        passing = catalogue.available.copy()
        if self.categories:
            numbers = catalogue.category_numbers
            wanted = [numbers[name] for name in self.categories if name in numbers]
            passing &= _any_of(catalogue.category, wanted)
        if self.min_price is not None:
            passing &= catalogue.price >= self.min_price
        if self.max_price is not None:
            passing &= catalogue.price <= self.max_price
        if hidden:
            passing[hidden] = False
        passing.flags.writeable = False
        return passing

    def _hidden(self, catalogue: Catalogue, context: RequestContext) -> list[int]:
        """Return the rows that are left out one by one."""
        rows = _rows(catalogue, self.exclude)
        if self.seen:
            rows += context.session
            rows += context.history
        if self.seen or self.taken:
            for name in ("taken_last", "taken_364d"):
                rows += _rows(catalogue, context.grouped(name))
        return rows


def _rows(catalogue: Catalogue, items: Iterable[str]) -> list[int]:
    rows = catalogue.rows
    return [row for item in items if (row := rows.get(item)) is not None]


def _any_of(category: NDArray[np.int32], wanted: list[int]) -> NDArray[np.bool_]:
    if len(wanted) == 1:
        return np.asarray(category == wanted[0])
    return np.isin(category, wanted)
