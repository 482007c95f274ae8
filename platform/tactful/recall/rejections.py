"""Items that a user rejected: they are not shown again, and similar ones come later."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.vectors.ivf_index import Snapshot

_LATEST = 20


def hidden_rows(context: RequestContext, catalogue: Catalogue) -> list[int]:
    """Return the rows that the user disliked or hid, unless the user took them later."""
    taken = context.grouped("taken_last")
    rejected = [
        item
        for item, at in context.grouped("rejected_last").items()
        if taken.get(item, -np.inf) <= at
    ]
    return [row for row in catalogue.rows.of_many(rejected) if row is not None]


def rejected_rows(context: RequestContext, catalogue: Catalogue) -> NDArray[np.int64]:
    """Return the latest twenty rows that the user disliked, hid or returned."""
    times = {**context.grouped("returned_last"), **context.grouped("rejected_last")}
    latest = sorted(times, key=lambda item: (-times[item], item))[:_LATEST]
    rows = [row for row in catalogue.rows.of_many(latest) if row is not None]
    return np.array(rows, np.int64)


def similarity_to(
    rejected: NDArray[np.int64], rows: NDArray[np.int64], search: Snapshot
) -> NDArray[np.float32]:
    """Return the largest cosine of each row to a rejected one, at least 0, shape (len(rows),)."""
    if not len(rejected):
        return np.zeros(len(rows), np.float32)
    cosines = search.vectors_of(rows) @ search.vectors_of(rejected).T
    nearest: NDArray[np.float32] = np.maximum(cosines.max(axis=1), np.float32(0.0))
    return nearest
