"""Response to a request that is arranged, and its impression for the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tactful.event_log.impressions import encode_impression
from tactful.recall.index import CHANNELS
from tactful.recommend.fallback import fallback_reason, quiet_since
from tactful.recommend.named_items import unknown_candidates
from tactful.recommend.request_state import HEURISTIC, RequestState
from tactful.schemas.recommendations import Recommendation, RecommendedItem

_TRENDING = "trending"


def build_response(state: RequestState, stopwatch: Callable[[], float]) -> Recommendation:
    """Build the response to a request whose items are arranged."""
    order, candidates, drawn = state.arrangement.order, state.candidates, state.drawn
    items = [
        RecommendedItem(item_id=item_id, score=score, channel=CHANNELS[channel])
        for item_id, score, channel in zip(
            state.serving.view.catalogue.item_ids.of_rows(candidates.rows[order]),
            state.values[order].tolist(),
            candidates.channel[order].tolist(),
            strict=True,
        )
    ]
    if state.request.candidates:
        catalogue = state.serving.view.catalogue
        items += unknown_candidates(state.request, catalogue, len(items))
    version = HEURISTIC
    if state.learned:
        version = (not state.trial_failed and drawn.model) or state.serving.version
    assignment = state.assignment
    variant = {} if assignment.arm is None else {assignment.experiment: assignment.arm}
    if drawn.assignments:
        variant |= drawn.variant()
    if state.decision is not None:
        variant |= {state.decision.key: state.decision.arm}
    return Recommendation(
        recommendation_id=state.recommendation_id,
        items=items,
        model_version=version,
        variant=variant,
        fallback=_fallback(state, len(items)),
        took_ms=(stopwatch() - state.started) * 1e3,
    )


def encode_response(state: RequestState, answer: Recommendation, layout: str) -> bytes:
    """Encode the impression: the response, its features and all that took part."""
    arrangement, candidates = state.arrangement, state.candidates
    order, trending = arrangement.order, state.serving.view.trending
    parts: dict[str, Any] = state.policy.to_log_fields()
    if state.rules:
        parts["placement"] = [rule.name for rule in state.rules]
    if arrangement.short:
        parts["placement_short"] = [*arrangement.short]
    if arrangement.propensities is not None:
        parts["propensities"] = arrangement.propensities.tolist()
    parts |= state.drawn.to_log_fields()
    if state.decision is not None:
        parts |= state.decision.to_log_fields()
    if state.intent is not None:
        parts["intent"] = state.intent.logged(order).write()
    if state.trial_failed:
        parts["failed"] = True
    rows = candidates.rows[order].tolist()
    if drawn := [place for place, row in enumerate(rows) if row in candidates.drawn]:
        parts["drawn_new"] = [answer.items[place].item_id for place in drawn]
        parts["drawn_new_propensities"] = [candidates.drawn[rows[place]] for place in drawn]
    shown = candidates.channel[order] == CHANNELS.index(_TRENDING)
    if shown.any():
        parts[_TRENDING] = trending.reasons(candidates.rows[order][shown])
    # Candidates that nothing is known of have no features.
    known = msgspec.structs.replace(answer, items=answer.items[: len(order)])
    return encode_impression(
        state.named,
        known,
        state.assignment,
        at=state.context.at,
        applied=state.applied,
        layout=layout,
        features=None if state.features is None else state.features[order],
        more=parts,
    )


def _fallback(state: RequestState, count: int) -> str | None:
    """Return why a response of `count` items is less than a personal list of full length."""
    return fallback_reason(
        state.request,
        count,
        items=len(state.serving.view.catalogue),
        trained=state.serving.model is not None,
        known=state.context.known,
        cohorts=state.candidates.lift is not None,
        crossed=state.candidates.taste is not None,
        quiet_since=quiet_since(state.latest, state.context.at),
    )
