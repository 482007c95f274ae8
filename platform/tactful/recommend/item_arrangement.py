"""Arrangement step of a request: the items that are shown, in their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tactful.recall.blend import own_items
from tactful.recommend.request_state import RequestState
from tactful.rerank.diversity import Likeness
from tactful.rerank.exploration import generator_of
from tactful.rerank.placement_rules import bounds_of
from tactful.rerank.rerank import Bounds, Group, arrange


def arrange_items(state: RequestState, discovery: float | None) -> None:
    """Choose and order the items, by values, rules, diversity and chance.

    Args:
        state: the request, whose candidates are ranked.
        discovery: share of the places for new items where the request sets none; None: that of
            the model.
    """
    policy, view, candidates = state.policy, state.serving.view, state.candidates
    likeness = generator = None
    if policy.diversity.strength:
        category = view.catalogue.category[candidates.rows]
        likeness = Likeness(candidates.vectors(), category)
    if policy.exploration.temperature:
        generator = generator_of(state.recommendation_id)
    count, bounds = state.request.count, Bounds()
    if state.rules:
        bounds = bounds_of(state.rules, candidates, view, count)
    if kept := round(_discovery(state, discovery) * count):
        bounds = replace(bounds, groups=(*bounds.groups, _new_items(state, kept)))
    state.arrangement = arrange(
        state.values,
        count,
        bounds=bounds,
        diversity=policy.diversity,
        likeness=likeness,
        exploration=policy.exploration,
        generator=generator,
    )


def _discovery(state: RequestState, default: float | None) -> float:
    """Return the share of the places for items that are new to the user."""
    if not state.context.known or state.request.candidates:
        return 0.0
    if state.request.discovery is not None:
        return state.request.discovery
    if default is not None:
        return default
    model = state.serving.model
    return model.manifest.discovery if model is not None and state.learned else 0.0


def _new_items(state: RequestState, least: int) -> Group:
    """Return the candidates that are new to the user, of which at least some must be shown."""
    own = own_items(state.context, state.serving.view.catalogue)
    known = np.concatenate([own.visit, own.history, own.amounts.rows])
    new = ~np.isin(state.candidates.rows, known)
    return Group("discovery", new, within=state.request.count, least=least)
