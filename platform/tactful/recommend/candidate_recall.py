"""Recall step of a request: candidates that pass its filters, from every channel."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.recall.candidates import (
    Quotas,
    by_channel,
    extended,
    gather,
    named,
    with_intended,
)
from tactful.recall.limits import allowed_rows
from tactful.recommend.request_state import RequestState
from tactful.rerank.frequency_caps import Shown, exhausted
from tactful.rerank.placement_rules import with_demanded


def recall(state: RequestState, shown: Shown | None) -> None:
    """Gather candidates from every channel and from the placement rules."""
    request, view = state.request, state.serving.view
    allowed = _allowed(state, shown)
    if request.candidates:
        state.candidates = named(view, state.context, request, allowed)
        return
    personal = _of_visits(state, allowed)
    state.candidates = gather(
        view,
        state.context,
        quotas=_quotas(state),
        allowed=personal,
        intent=request.intent,
        least=request.count,
    )
    if personal is not allowed:
        more = view.popular.first(allowed, request.count)
        state.candidates = extended(state.candidates, "popular", more)
    if state.rules:
        state.candidates = with_demanded(
            state.candidates, state.rules, view, allowed, state.recommendation_id
        )
    if request.intent:
        intended = _quotas(state).intent
        state.candidates = with_intended(state.candidates, view, personal, intended)


def channel_items(state: RequestState, shown: Shown | None, most: int) -> dict[str, list[str]]:
    """Return the ids of the items that each recall channel proposes by itself."""
    if state.request.candidates or not most:
        return {}
    view = state.serving.view
    channels = by_channel(
        view,
        state.context,
        quotas=_quotas(state),
        allowed=_of_visits(state, _allowed(state, shown)),
        intent=state.request.intent,
        most=most,
    )
    ids = view.catalogue.item_ids
    return {channel: ids.of_rows(rows) for channel, rows in channels.items()}


def _allowed(state: RequestState, shown: Shown | None) -> NDArray[np.bool_]:
    """Find the rows that pass the filters and the daily caps of the user."""
    catalogue, context = state.serving.view.catalogue, state.context
    allowed = allowed_rows(state.request, catalogue, context)
    if shown is not None:
        counts = shown.of(state.request.subject, context.at)
        if len(rows := exhausted(state.rules, counts, catalogue)):
            allowed = allowed.copy()
            allowed[rows] = False
            allowed.flags.writeable = False
    return allowed


def _of_visits(state: RequestState, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows may come from visits of other people; `allowed` itself if all may."""
    if (common := state.only_common) is None:
        return allowed
    shown = np.zeros(len(allowed), np.bool_)
    shown[common.rows] = allowed[common.rows]
    return shown


def _quotas(state: RequestState) -> Quotas:
    """Return the quotas of the arm, of a fresh recall without the channels that follow visits."""
    quotas = state.policy.quotas
    if not state.fresh:
        return quotas
    return msgspec.structs.replace(quotas, following=0, together=0, sessions=0, vectors=0)
