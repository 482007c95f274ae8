"""Answers one request: context, recall, ranking, arrangement, impression."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import CrossedVector, FeatureSource, build_context
from tactful.errors import ConfigError
from tactful.experiments.definitions import CONTROL, HOLDOUT, experiment_at
from tactful.metrics.registry import Stage
from tactful.ranking.features import layout
from tactful.ranking.own_columns import own_columns
from tactful.recall.index import RecallIndex
from tactful.recommend.assignments import (
    ask_bandit,
    assign_arm,
    assign_holdout,
    draw_rollouts,
    force_model_arm,
)
from tactful.recommend.candidate_ranking import rank
from tactful.recommend.candidate_recall import channel_items, recall
from tactful.recommend.explanation import Explainer
from tactful.recommend.item_arrangement import arrange_items
from tactful.recommend.item_lists import ItemLists
from tactful.recommend.named_items import check_request
from tactful.recommend.request_state import HEURISTIC as HEURISTIC
from tactful.recommend.request_state import LEARNED as LEARNED
from tactful.recommend.request_state import RequestState
from tactful.recommend.response import build_response, encode_response
from tactful.recommend.served_models import RecommenderOptions as RecommenderOptions
from tactful.recommend.served_models import ServedModels
from tactful.recommend.trials import Attempt, TrialOptions
from tactful.rerank.arm_policy import RANKING_EXPERIMENT as RANKING_EXPERIMENT
from tactful.rerank.arm_policy import Policy, policies
from tactful.rerank.placement_rules import on_page
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.recommendations import Explanation, Recommendation, RecommendRequest
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.kernels.feature_reads import load_add_panes, load_gather


class Recommender:
    """Answers requests from the feature engine and the champion model.

    request -> context -> candidates -> features -> scores -> arrangement -> recommendation
    """

    def __init__(self, source: FeatureSource, options: RecommenderOptions) -> None:
        """Start with the champion, if there is one.

        Args:
            source: the feature engine.
            options: files and rules.

        Raises:
            ConfigError: if a parameter of an arm is wrong, or a cap has nothing to count by.
        """
        if options.shown is None:
            for rule in options.placement:
                if rule.per_day:
                    raise ConfigError(
                        f"placement rule {rule.name!r}: caps a day, but lists are not counted here"
                    )
        self._source = source
        self._options = options
        self._layout = layout(options.definitions)
        self._own = own_columns(source.definitions)
        self._explainer = Explainer(options.models, options.trusted)
        self._default_policy = Policy(quotas=options.quotas)
        self._holdout = experiment_at(HOLDOUT, 1 - options.holdout) if options.holdout else None
        self._policies = policies(options.experiment, default=self._default_policy)
        load_add_panes()  # or the first request would wait for it
        load_gather()
        self._changing = threading.RLock()  # the first request may refresh while it holds it
        self._models = ServedModels(source, options, self._changing)
        self._rng = np.random.default_rng()
        # returns the profiles that a user lets cross, by key, device of the request and time
        self.crossed: Callable[[str, str | None, int], Sequence[CrossedVector]]
        self.crossed = lambda key, device, at: ()
        # called with the name and the seconds of each step of a request
        self.observe: Callable[[Stage, float], None] | None = None

    def recommend(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, bytes | None]:
        """Answer one request.

        Args:
            request: filters, user and visit.
            now: epoch milliseconds; the request's own time wins.

        Returns:
            The answer, and the impression to append to the log; None for an empty list, and where
            the request brings a history.

        Raises:
            ProblemError: if an arm is forced that does not exist, or no price can be in range.
        """
        answer, impression = self.answer(request, now=now)
        return answer, None if impression is None else impression()

    def answer(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, Callable[[], bytes] | None]:
        """Answer as `recommend` does, and leave the impression to be encoded later.

        Call the returned function once, before the next request.
        """
        watch, observe = self._options.stopwatch, self.observe
        with self._changing:
            state = self._begin(request, now)
            began = watch()
            self._recall(state)
            recalled = watch()
            rank(state, self._models, self._source, self._own)
            ranked = watch()
            arrange_items(state, self._options.discovery)
            arranged = watch()
            answer = build_response(state, watch)
            state.applied = self._source.offset
        if observe is not None:
            observe("recall", recalled - began)
            observe("rank", ranked - recalled)
            observe("arrange", arranged - ranked)
        logged = bool(len(state.arrangement.order)) and not request.items
        return answer, partial(encode_response, state, answer, self._layout) if logged else None

    @contextmanager
    def lists(self) -> Iterator[ItemLists]:
        """Hold the items as they are, to list some of them; for a moment."""
        with self._changing:
            self._read_first_items()
            yield ItemLists(self._models.current.view, self._options.minimum_people)

    def explain(self, impression: Event) -> Explanation:
        """Explain a recommendation."""
        return self._explainer.explain(impression)

    def refresh(self, reading: AbstractContextManager[object] | None = None) -> None:
        """Load a new champion, new items and popularity; see `ServedModels.refresh`."""
        self._models.refresh(reading)

    @property
    def catalogue(self) -> Catalogue:
        """The present catalogue, whose rows may be looked up in any thread."""
        return self._models.current.view.catalogue

    @property
    def trained_index(self) -> RecallIndex:
        """Index of the present model, with directions and bridges of profiles that cross."""
        return self._models.current.view.index

    @property
    def counted_at(self) -> float:
        """Time of the latest popularity count, which takes memory, by `monotonic`."""
        return self._models.current.live.counted_at

    @property
    def latest_event(self) -> int:
        """Time of the latest event about an item, epoch milliseconds; 0 while it is unknown."""
        return self._options.latest()

    def describe(self) -> dict[str, Any]:
        """Describe what serves, for ``GET /v1/models``."""
        experiment = self._options.experiment
        arms = {arm.name: arm.weight for arm in experiment.arms}
        return {**self._models.describe(), "experiment": {"key": experiment.key, "arms": arms}}

    def close(self) -> None:
        """Release what only one process may hold."""
        self._models.current.live.close()

    def attempt(self, request: RecommendRequest, options: TrialOptions, *, now: int) -> Attempt:
        """Answer as `answer` does, to try it out, with what each recall channel proposes.

        The caller appends nothing to the log, so that neither caps nor training change.

        Raises:
            ProblemError: as `recommend`, and if a model is to rank where no champion serves.
        """
        with self._changing:
            if options.model:
                request = force_model_arm(self._options.experiment, request, self._models.current)
            state = self._begin(request, now, options.person)
            state.tried = True
            if options.model:
                state.drawn = replace(state.drawn, model=options.model)
            self._recall(state)
            rank(state, self._models, self._source, self._own)
            arrange_items(state, self._options.discovery)
            answer = build_response(state, self._options.stopwatch)
            state.applied = self._source.offset
            shown = len(state.arrangement.order)
            impression = encode_response(state, answer, self._layout) if shown else None
            channels = channel_items(state, self._options.shown, options.channel_count)
            return Attempt(answer, impression, channels)

    def load_to_compare(self, version: str) -> None:
        """Load a version for `attempt`, or raise ModelError; takes long, for a thread."""
        self._models.load_to_compare(version)

    def _begin(
        self, request: RecommendRequest, now: int, person: FeatureSource | None = None
    ) -> RequestState:
        """Check the request and find its context, arm and rules.

        `person` has the features of the user instead of the feature engine.
        """
        started = self._options.stopwatch()
        check_request(request)
        self._read_first_items()
        serving, named = self._models.current, request
        held = assign_holdout(self._holdout, request)
        if held is not None and held.arm == CONTROL:
            request = request.anonymous()
        if request.subject is None:
            serving = replace(serving, view=serving.view.anonymous())
        at = now if request.timestamp is None else to_milliseconds(request.timestamp)
        assignment = assign_arm(self._options.experiment, request, serving)
        context = build_context(
            person or self._source,
            serving.view.catalogue,
            subject=request.subject,
            session_id=request.session_id,
            at=at,
            brought=request.brought,
            asked=request.context,
        )
        if request.subject is not None:
            crossed = self.crossed(request.subject, request.device_id, at)
            context = replace(context, crossed=crossed) if crossed else context
        drawn = draw_rollouts(self._models, request, serving, at)
        if held is not None:
            drawn = replace(drawn, assignments=(held, *drawn.assignments))
        policy = self._policies.get(assignment.arm or "", self._default_policy)
        policy, decision = ask_bandit(
            self._models.bandits, request, context, drawn, policy, self._rng
        )
        return RequestState(
            request=request,
            started=started,
            serving=serving,
            context=context,
            assignment=assignment,
            drawn=drawn,
            policy=drawn.over(policy) if drawn.parts else policy,
            latest=self.latest_event,
            named=named,
            decision=decision,
            rules=()
            if request.candidates
            else on_page(self._options.placement, request.context.get("page")),
        )

    def _read_first_items(self) -> None:
        """Refresh, or a shop that just sent its first items would get none of them."""
        if not len(self._models.current.view.catalogue.item_ids) and self._source.items:
            self.refresh()

    def _recall(self, state: RequestState) -> None:
        """Give the recommendation its id, which placement rules draw from, and recall."""
        state.recommendation_id = self._new_id(state)
        recall(state, self._options.shown)

    def _new_id(self, state: RequestState) -> str:
        """Make the id of a recommendation, signed for its user and arms."""
        random, ids, drawn = self._options.new_id(), self._options.ids, state.assignment
        if ids is None or state.tried:
            return random
        arms = {"experiment": drawn.experiment, "arm": drawn.arm, "forced": drawn.forced}
        arms |= state.drawn.to_log_fields()
        return ids.sign(random, state.context.at, state.named.subject, arms)
