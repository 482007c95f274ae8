"""One request between the steps of answering it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tactful.bandits.decisions import Decision
from tactful.catalogue.request_context import RequestContext
from tactful.experiments.serving import Drawn
from tactful.ranking.intent_effect import IntentEffect
from tactful.recall.candidates import Candidates
from tactful.recall.popularity import CommonItems
from tactful.recommend.served_models import ServingState
from tactful.rerank.arm_policy import Policy
from tactful.rerank.placement_rules import PlacementRule
from tactful.rerank.rerank import Arrangement
from tactful.schemas.recommendations import RecommendRequest
from tactful_bandits.assignment.assign import Assignment

HEURISTIC = "heuristic"
LEARNED = "learned"


@dataclass(slots=True)
class RequestState:
    """One request between its steps; n candidates, of which `order` holds the k shown.

    begin:         request, context, assignment, drawn, policy, rules
    recall:        candidates                 rows of the catalogue, shape (n,)
    rank:          learned, features, values  (n, columns) or None, (n,)
    arrange_items: arrangement                positions in `candidates`, shape (k,)
    """

    request: RecommendRequest
    started: float
    serving: ServingState
    context: RequestContext
    assignment: Assignment
    drawn: Drawn
    policy: Policy
    rules: Sequence[PlacementRule]
    latest: int  # time of the latest event, 0 while it is unknown
    # the request with its user, for the log; `request` has none for users who are held out
    named: RecommendRequest
    candidates: Candidates = field(init=False)
    learned: bool = field(init=False)
    features: NDArray[np.float32] | None = None
    trial_failed: bool = False
    intent: IntentEffect | None = None  # None without an intent, or one of no candidate
    values: NDArray[np.float32] = field(init=False)
    recommendation_id: str = field(init=False)
    arrangement: Arrangement = field(init=False)
    applied: int | None = None
    decision: Decision | None = None  # of a bandit; None without one
    tried: bool = False  # whether it is only tried out, so that its id needs no signature

    @property
    def only_common(self) -> CommonItems | None:
        """Items that enough people took; an unnamed caller is shown no others of their visits.

        None where that makes no difference.
        """
        request = self.request
        return self.serving.view.common if request.subject is None and request.brought else None

    @property
    def fresh(self) -> bool:
        """Whether recall may have learned from a few people just now, and nobody may be shown it.

        Recall is learned every few seconds while no model serves.
        """
        common, request = self.serving.view.common, self.request
        anonymous = request.subject is None and not request.items
        return common is not None and anonymous and self.serving.model is None
