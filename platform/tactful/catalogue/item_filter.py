"""Find the items that pass the filter of a request."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.schemas.item_filter import ItemFilter


def passing_rows(condition: ItemFilter, catalogue: Catalogue) -> NDArray[np.bool_]:
    """Return whether each row of the catalogue passes, shape (len(catalogue),)."""
    passing = np.ones(len(catalogue), np.bool_)
    for part in condition.and_:
        passing &= passing_rows(part, catalogue)
    if condition.or_:
        passing &= np.logical_or.reduce([passing_rows(it, catalogue) for it in condition.or_])
    if condition.not_ is not None:
        passing &= ~passing_rows(condition.not_, catalogue)
    if condition.field is None:
        return passing
    if condition.in_ is not None:
        passing &= _among(condition.field, condition.in_, catalogue)
    if condition.min is not None or condition.max is not None:
        lowest = -math.inf if condition.min is None else condition.min
        highest = math.inf if condition.max is None else condition.max
        passing &= _between(condition.field, lowest, highest, catalogue)
    if condition.known is not None:
        passing &= _known(condition.field, catalogue) == condition.known
    return passing


def _among(
    field: str, values: tuple[str | int | float | bool, ...], catalogue: Catalogue
) -> NDArray[np.bool_]:
    if field == "category":
        numbers = [catalogue.category_numbers.get(str(value), -2) for value in values]
        return np.isin(catalogue.category, numbers)
    if field == "price":
        return np.isin(
            catalogue.price, np.array([it for it in values if _is_number(it)], np.float32)
        )
    if field == "item_id":
        passing = np.zeros(len(catalogue), np.bool_)
        rows = catalogue.rows_at([str(value) for value in values])
        passing[rows[rows >= 0]] = True
        return passing
    return catalogue.properties.among(field, values)


def _between(field: str, lowest: float, highest: float, catalogue: Catalogue) -> NDArray[np.bool_]:
    if field == "price":
        # The catalogue rounds prices: a limit is rounded alike, or a price equal to it would fail.
        within: NDArray[np.bool_] = catalogue.price >= np.float32(lowest)
        return within & (catalogue.price <= np.float32(highest))
    if field in ("category", "item_id"):
        return np.zeros(len(catalogue), np.bool_)
    return catalogue.properties.between(field, lowest, highest)


def _known(field: str, catalogue: Catalogue) -> NDArray[np.bool_]:
    if field == "category":
        return catalogue.category >= 0
    if field == "price":
        return ~np.isnan(catalogue.price)
    if field == "item_id":
        return np.ones(len(catalogue), np.bool_)
    return catalogue.properties.known(field)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
