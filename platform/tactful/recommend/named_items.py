"""Check a request, and answer with candidates that only the request knows."""

from __future__ import annotations

from tactful.catalogue.catalogue import Catalogue
from tactful.schemas.item_filter import check_filter
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import RecommendedItem, RecommendRequest


def check_request(request: RecommendRequest) -> None:
    """Refuse fields that contradict each other.

    Raises:
        ProblemError: naming the field.
    """
    lowest, highest = request.min_price, request.max_price
    if lowest is not None and highest is not None and lowest > highest:
        raise ProblemError("invalid", "`min_price` is above `max_price`", field="$.min_price")
    if request.filter is not None:
        check_filter(request.filter)
    if request.explain and request.items:
        raise ProblemError(
            "invalid",
            "nothing is kept of a request with `items`, so it cannot be explained",
            field="$.explain",
        )


def unknown_candidates(
    request: RecommendRequest,
    catalogue: Catalogue,
    shown: int,  # number of known candidates of the answer
) -> list[RecommendedItem]:
    """Return the candidates that the catalogue does not know, as the request orders them.

    None where the request has filters: whether they pass is not known.
    """
    if request.category or request.filter or request.min_price or request.max_price:
        return []
    ids = dict.fromkeys(candidate.item_id for candidate in request.candidates)
    hidden = {*request.exclude, request.item_id}
    unknown = [
        item_id
        for item_id, row in zip(ids, catalogue.rows.of_many(ids), strict=True)
        if row is None and item_id not in hidden
    ]
    kept = unknown[: max(request.count - shown, 0)]
    return [RecommendedItem(item_id=item_id, score=0.0, channel="asked") for item_id in kept]
