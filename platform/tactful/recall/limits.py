"""Rows of the catalogue that a request allows: limits, filters and rejections."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.item_filter import passing_rows
from tactful.catalogue.request_context import RequestContext
from tactful.recall.rejections import hidden_rows
from tactful.schemas.item_filter import ItemFilter
from tactful.schemas.recommendations import RecommendRequest

_LARGEST = float(np.finfo(np.float32).max)  # prices of the catalogue have no greater one


def allowed_rows(
    request: RecommendRequest, catalogue: Catalogue, context: RequestContext
) -> NDArray[np.bool_]:
    """Return whether each row passes the request's filters, shape (len(catalogue),), read-only.

    An unknown price passes no limit of price. Candidates that the request names pass also while
    they are not available.
    """
    hidden = [row for row in map(catalogue.rows.get, request.exclude) if row is not None]
    if request.item_id is not None and (page := catalogue.rows.get(request.item_id)) is not None:
        hidden.append(page)
    if not request.candidates:
        hidden += hidden_rows(context, catalogue)
    if request.exclude_seen:
        hidden += [*context.session, *context.history]
    if request.exclude_seen or request.exclude_taken:
        taken = [*context.grouped("taken_last"), *context.grouped("taken_364d")]
        hidden += [row for row in catalogue.rows.of_many(taken) if row is not None]
    limited = _limits(request) != (None,) * 4
    if not hidden and not limited and not request.candidates:
        return catalogue.available
    passing = within_limits(request, catalogue)
    if not request.candidates:
        passing &= catalogue.available
    passing[hidden] = False
    passing.flags.writeable = False
    return passing


def within_limits(request: RecommendRequest, catalogue: Catalogue) -> NDArray[np.bool_]:
    """Return whether each row has the category and the price, and passes the filter, of a request.

    An unknown price passes no limit of price.
    """
    category, lowest, highest, condition = _limits(request)
    passing = np.ones(len(catalogue), np.bool_)
    if category is not None:
        passing &= catalogue.category == catalogue.category_numbers.get(category, -2)
    if lowest is not None:
        passing &= catalogue.price >= min(lowest, _LARGEST)
    if highest is not None:
        passing &= catalogue.price <= min(highest, _LARGEST)
    if condition is not None:
        passing &= passing_rows(condition, catalogue)
    return passing


def _limits(
    request: RecommendRequest,
) -> tuple[str | None, float | None, float | None, ItemFilter | None]:
    return request.category, request.min_price, request.max_price, request.filter
