"""Ranking step of a request: a score and a value for each candidate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import FeatureSource
from tactful.ranking.features import ASKED, assemble, hide_rare
from tactful.ranking.fusion import caller_orders, fused, rare_last
from tactful.ranking.heuristic import heuristic_scores
from tactful.ranking.intent_effect import Trust, chances_of, intent_effect
from tactful.ranking.own_columns import OwnColumn
from tactful.recall.popularity import is_in
from tactful.recommend.request_state import HEURISTIC, RequestState
from tactful.recommend.served_models import ServedModels
from tactful.rerank.exploration import generator_of
from tactful.rerank.objective import PLAIN


def rank(
    state: RequestState, models: ServedModels, source: FeatureSource, own: Sequence[OwnColumn]
) -> None:
    """Score the candidates by the model or the heuristic, and value the scores."""
    model, view = state.serving.model, state.serving.view
    candidates, context = state.candidates, state.context
    # Popularity and the lifts say more than the trees of a user without any item.
    unknown = not context.known
    state.learned = model is not None and state.assignment.arm != HEURISTIC and not unknown
    if model is not None and state.learned and len(candidates.rows):
        state.features = assemble(
            candidates, context, source=source, catalogue=view.catalogue, own=own
        )
        if state.request.subject is None and view.common is not None:
            hide_rare(state.features, candidates.rows, view.catalogue, view.common, own)
        if state.drawn.model:
            scores, state.trial_failed = models.score_on_trial(
                state.drawn.model, model, state.features
            )
        else:
            scores = model.score(state.features)
    else:
        scores = heuristic_scores(candidates, context, view, source, learned=not state.fresh)
    if candidates.intent:
        scores = _intended(state, scores)
    state.values = scores = _without_visits(state, scores)
    if candidates.asked is not None:
        trained = model is not None and state.learned and model.ranks_by(ASKED)
        if not trained:
            state.values = fused(
                scores,
                caller_orders(candidates.asked),
                personal=not unknown or state.intent is not None,
            )
    if state.policy.objective != PLAIN:
        state.values = state.policy.objective.value(
            scores, candidates.rows, view.catalogue, context, view.popular
        )


def _intended(state: RequestState, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores that the intent has changed: margins by a sum, others by a product."""
    model = state.serving.model
    trust = Trust() if model is None else model.manifest.trust
    state.intent = intent_effect(
        state.candidates,
        state.serving.view.catalogue,
        chances_of(scores) if state.learned else scores,
        trust,
        known=state.context.known,
    )
    if state.intent is None:
        return scores
    factors = state.intent.factors
    return scores + np.log(factors) if state.learned else scores * factors


def _without_visits(state: RequestState, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores that tell an unnamed caller nothing of single visits."""
    if (common := state.only_common) is None:
        return scores
    rare = ~is_in(state.candidates.rows, common.rows)
    chance = generator_of(state.recommendation_id, "rare")
    asked = state.candidates.asked
    return rare_last(scores, rare, None if asked is None else caller_orders(asked), chance)
