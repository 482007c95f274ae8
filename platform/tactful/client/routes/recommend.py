"""Requests for recommendations: served, tried out, explained."""

from __future__ import annotations

from collections.abc import Sequence

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.recommendations import (
    Explanation,
    Recommendation,
    RecommendBatch,
    RecommendBatchRequest,
    RecommendRequest,
)
from tactful.schemas.trials import Trial, TrialRequest


def recommend(request: RecommendRequest) -> Request[Recommendation]:
    """Request a recommendation."""
    return Request("POST", "/v1/recommend", Recommendation, body=request, repeatable=True)


def batch(requests: Sequence[RecommendRequest]) -> Request[RecommendBatch]:
    """Request several recommendations at once."""
    body = RecommendBatchRequest(requests=[*requests])
    return Request("POST", "/v1/recommend/batch", RecommendBatch, body=body, repeatable=True)


def try_out(trial: TrialRequest) -> Request[Trial]:
    """Request a recommendation to try it out; nothing is logged as shown."""
    return Request("POST", "/v1/recommend/try", Trial, body=trial, repeatable=True)


def explain(recommendation_id: str) -> Request[Explanation]:
    """Request the explanation of a recent recommendation."""
    return Request("GET", f"/v1/explain/{segment(recommendation_id)}", Explanation)
