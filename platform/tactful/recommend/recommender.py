"""Answers one request: context, recall, ranking, arrangement, impression."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import FeatureSource, RequestContext, build_context
from tactful.errors import ConfigError
from tactful.event_log.impressions import encode_impression
from tactful.experiments.definitions import CONTROL, HOLDOUT, experiment_at
from tactful.experiments.serving import Drawn
from tactful.metrics.registry import Stage
from tactful.ranking.features import ASKED, assemble, hide_rare, layout
from tactful.ranking.fusion import fused, rare_last
from tactful.ranking.heuristic import heuristic_scores
from tactful.ranking.own_columns import own_columns
from tactful.recall.blend import own_items
from tactful.recall.candidates import (
    Candidates,
    Quotas,
    allowed_rows,
    by_channel,
    extended,
    gather,
    named,
)
from tactful.recall.index import CHANNELS
from tactful.recall.popularity import CommonItems, is_in
from tactful.recommend.explanation import Explainer
from tactful.recommend.fallback import fallback_reason, quiet_since
from tactful.recommend.item_lists import ItemLists
from tactful.recommend.named_items import check_request, unknown_candidates
from tactful.recommend.served_models import RecommenderOptions as RecommenderOptions
from tactful.recommend.served_models import ServedModels, ServingState
from tactful.recommend.trials import NO_CHAMPION, Attempt, TrialOptions
from tactful.rerank.arm_policy import RANKING_EXPERIMENT as RANKING_EXPERIMENT
from tactful.rerank.arm_policy import Policy, policies
from tactful.rerank.diversity import Likeness
from tactful.rerank.exploration import generator_of
from tactful.rerank.frequency_caps import exhausted
from tactful.rerank.objective import PLAIN
from tactful.rerank.placement_rules import (
    PlacementRule,
    bounds_of,
    on_page,
    with_demanded,
)
from tactful.rerank.rerank import Arrangement, Bounds, Group, arrange
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    Explanation,
    Recommendation,
    RecommendedItem,
    RecommendRequest,
)
from tactful_bandits.assignment.assign import Assignment, assign
from tactful_bandits.errors import AssignmentError
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.kernels.feature_reads import load_add_panes, load_gather

HEURISTIC = "heuristic"
LEARNED = "learned"
TRENDING = "trending"


@dataclass(slots=True)
class _RequestState:
    """One request between its steps; n candidates, of which `order` holds the k shown.

    _begin:   request, context, assignment, drawn, policy, rules
    _recall:  candidates                 rows of the catalogue, shape (n,)
    _rank:    learned, features, values  (n, columns) or None, (n,)
    _arrange: arrangement                positions in `candidates`, shape (k,)
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
    values: NDArray[np.float32] = field(init=False)
    recommendation_id: str = field(init=False)
    arrangement: Arrangement = field(init=False)
    applied: int | None = None
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
            self._rank(state)
            ranked = watch()
            self._arrange(state)
            arranged = watch()
            answer = self._response(state)
        if observe is not None:
            observe("recall", recalled - began)
            observe("rank", ranked - recalled)
            observe("arrange", arranged - ranked)
        logged = bool(len(state.arrangement.order)) and not request.items
        return answer, partial(self._encode, state, answer) if logged else None

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
                request = self._ranked_by_model(request)
            state = self._begin(request, now, options.person)
            state.tried = True
            if options.model:
                state.drawn = replace(state.drawn, model=options.model)
            self._recall(state)
            self._rank(state)
            self._arrange(state)
            answer = self._response(state)
            impression = self._encode(state, answer) if len(state.arrangement.order) else None
            return Attempt(answer, impression, self._channels(state, options.channel_count))

    def _ranked_by_model(self, request: RecommendRequest) -> RecommendRequest:
        """Force an arm that ranks by a model, unless the request forces one."""
        experiment = self._options.experiment
        arm = request.force.get(experiment.key)
        if self._models.current.model is None or arm == HEURISTIC:
            why = f"arm {HEURISTIC!r} ranks without a model" if arm == HEURISTIC else NO_CHAMPION
            raise ProblemError("invalid", why, field="$.variants")
        learned = [arm.name for arm in experiment.arms if arm.name != HEURISTIC]
        if arm is not None or not learned:
            return request
        force = {**request.force, experiment.key: learned[0]}
        return msgspec.structs.replace(request, force=force)

    def load_to_compare(self, version: str) -> None:
        """Load a version for `attempt`, or raise ModelError; takes long, for a thread."""
        self._models.load_to_compare(version)

    def _begin(
        self, request: RecommendRequest, now: int, person: FeatureSource | None = None
    ) -> _RequestState:
        """Check the request and find its context, arm and rules.

        `person` has the features of the user instead of the feature engine.
        """
        started = self._options.stopwatch()
        check_request(request)
        self._read_first_items()
        serving, named = self._models.current, request
        held = self._hold_out(request)
        if held is not None and held.arm == CONTROL:
            request = request.anonymous()
        if request.subject is None:
            serving = replace(serving, view=serving.view.anonymous())
        at = now if request.timestamp is None else to_milliseconds(request.timestamp)
        assignment = self._assign(request, serving)
        context = build_context(
            person or self._source,
            serving.view.catalogue,
            subject=request.subject,
            session_id=request.session_id,
            at=at,
            brought=request.brought,
            asked=request.context,
        )
        drawn = self._draw(request, serving, at)
        if held is not None:
            drawn = replace(drawn, assignments=(held, *drawn.assignments))
        policy = self._policies.get(assignment.arm or "", self._default_policy)
        return _RequestState(
            request=request,
            started=started,
            serving=serving,
            context=context,
            assignment=assignment,
            drawn=drawn,
            policy=drawn.over(policy) if drawn.parts else policy,
            latest=self.latest_event,
            named=named,
            rules=()
            if request.candidates
            else on_page(self._options.placement, request.context.get("page")),
        )

    def _read_first_items(self) -> None:
        """Refresh, or a shop that just sent its first items would get none of them."""
        if not len(self._models.current.view.catalogue.item_ids) and self._source.items:
            self.refresh()

    def _recall(self, state: _RequestState) -> None:
        """Gather candidates from every channel and from the placement rules."""
        request, view = state.request, state.serving.view
        state.recommendation_id = self._new_id(state)
        allowed = self._allowed(state)
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

    def _channels(self, state: _RequestState, most: int) -> dict[str, list[str]]:
        """Return the ids of the items that each recall channel proposes by itself."""
        if state.request.candidates or not most:
            return {}
        view = state.serving.view
        channels = by_channel(
            view,
            state.context,
            quotas=_quotas(state),
            allowed=_of_visits(state, self._allowed(state)),
            intent=state.request.intent,
            most=most,
        )
        ids = view.catalogue.item_ids
        return {channel: ids.of_rows(rows) for channel, rows in channels.items()}

    def _rank(self, state: _RequestState) -> None:
        """Score the candidates by the model or the heuristic, and value the scores."""
        model, view = state.serving.model, state.serving.view
        candidates, context = state.candidates, state.context
        # Popularity and the lifts say more than the trees of a user without any item.
        unknown = not context.known
        state.learned = model is not None and state.assignment.arm != HEURISTIC and not unknown
        if model is not None and state.learned and len(candidates.rows):
            state.features = assemble(
                candidates, context, source=self._source, catalogue=view.catalogue, own=self._own
            )
            if state.request.subject is None and view.common is not None:
                hide_rare(state.features, candidates.rows, view.catalogue, view.common, self._own)
            if state.drawn.model:
                scores, state.trial_failed = self._models.score_on_trial(
                    state.drawn.model, model, state.features
                )
            else:
                scores = model.score(state.features)
        else:
            scores = heuristic_scores(
                candidates, context, view, self._source, learned=not state.fresh
            )
        state.values = scores = _without_visits(state, scores)
        if candidates.asked is not None:
            trained = model is not None and state.learned and model.ranks_by(ASKED)
            if not trained:
                state.values = fused(scores, candidates.asked, personal=not unknown)
        if state.policy.objective != PLAIN:
            state.values = state.policy.objective.value(
                scores, candidates.rows, view.catalogue, context, view.popular
            )

    def _arrange(self, state: _RequestState) -> None:
        """Choose and order the items, by values, rules, diversity and chance."""
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
        if kept := round(self._discovery(state) * count):
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

    def _discovery(self, state: _RequestState) -> float:
        """Return the share of the places for items that are new to the user."""
        if not state.context.known or state.request.candidates:
            return 0.0
        if state.request.discovery is not None:
            return state.request.discovery
        if self._options.discovery is not None:
            return self._options.discovery
        model = state.serving.model
        return model.manifest.discovery if model is not None and state.learned else 0.0

    def _new_id(self, state: _RequestState) -> str:
        """Make the id of a recommendation, signed for its user and arms."""
        random, ids, drawn = self._options.new_id(), self._options.ids, state.assignment
        if ids is None or state.tried:
            return random
        arms = {"experiment": drawn.experiment, "arm": drawn.arm, "forced": drawn.forced}
        arms |= state.drawn.to_log_fields()
        return ids.sign(random, state.context.at, state.named.subject, arms)

    def _response(self, state: _RequestState) -> Recommendation:
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
        state.applied = self._source.offset
        return Recommendation(
            recommendation_id=state.recommendation_id,
            items=items,
            model_version=version,
            variant=variant,
            fallback=_fallback(state, len(items)),
            took_ms=(self._options.stopwatch() - state.started) * 1e3,
        )

    def _encode(self, state: _RequestState, answer: Recommendation) -> bytes:
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
        if state.trial_failed:
            parts["failed"] = True
        rows = candidates.rows[order].tolist()
        if drawn := [place for place, row in enumerate(rows) if row in candidates.drawn]:
            parts["drawn_new"] = [answer.items[place].item_id for place in drawn]
            parts["drawn_new_propensities"] = [candidates.drawn[rows[place]] for place in drawn]
        shown = candidates.channel[order] == CHANNELS.index(TRENDING)
        if shown.any():
            parts[TRENDING] = trending.reasons(candidates.rows[order][shown])
        # Candidates that nothing is known of have no features.
        known = msgspec.structs.replace(answer, items=answer.items[: len(order)])
        return encode_impression(
            state.named,
            known,
            state.assignment,
            at=state.context.at,
            applied=state.applied,
            layout=self._layout,
            features=None if state.features is None else state.features[order],
            more=parts,
        )

    def _draw(self, request: RecommendRequest, serving: ServingState, at: int) -> Drawn:
        """Draw the rollouts' arms of the user; none while no model makes lists personal."""
        if serving.model is None or not self._models.rollouts.rollouts:
            return Drawn()
        try:
            has_model = self._models.on_trial.__contains__
            return self._models.rollouts.draw(request.subject, request.force, has_model, at=at)
        except AssignmentError as error:
            raise ProblemError("invalid", str(error), field="$.force") from None

    def _hold_out(self, request: RecommendRequest) -> Assignment | None:
        """Assign the user to the permanent holdout or not; None without one."""
        held_out, unit = self._holdout, request.subject
        return None if held_out is None or unit is None or request.force else assign(held_out, unit)

    def _allowed(self, state: _RequestState) -> NDArray[np.bool_]:
        """Find the rows that pass the filters and the daily caps of the user."""
        catalogue, context = state.serving.view.catalogue, state.context
        allowed = allowed_rows(state.request, catalogue, context)
        if self._options.shown is not None:
            shown = self._options.shown.of(state.request.subject, context.at)
            if len(rows := exhausted(state.rules, shown, catalogue)):
                allowed = allowed.copy()
                allowed[rows] = False
                allowed.flags.writeable = False
        return allowed

    def _assign(self, request: RecommendRequest, serving: ServingState) -> Assignment:
        """Assign the user's arm; none without a user or a model, unless one is forced."""
        experiment = self._options.experiment
        forced = request.force.get(experiment.key)
        if forced is not None and forced not in (arms := [arm.name for arm in experiment.arms]):
            raise ProblemError(
                "invalid",
                f"the arms of experiment {experiment.key!r} are {', '.join(arms)}",
                field="$.force",
            )
        unit = request.subject
        if forced is None and (serving.model is None or unit is None):
            return Assignment(experiment.key, None, 0.0, None, False)
        return assign(experiment, unit or "nobody", forced=forced)


def _of_visits(state: _RequestState, allowed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which rows may come from visits of other people; `allowed` itself if all may."""
    if (common := state.only_common) is None:
        return allowed
    shown = np.zeros(len(allowed), np.bool_)
    shown[common.rows] = allowed[common.rows]
    return shown


def _without_visits(state: _RequestState, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return scores that tell an unnamed caller nothing of single visits."""
    if (common := state.only_common) is None:
        return scores
    rare = ~is_in(state.candidates.rows, common.rows)
    chance = generator_of(state.recommendation_id, "rare")
    return rare_last(scores, rare, state.candidates.asked, chance)


def _new_items(state: _RequestState, least: int) -> Group:
    """Return the candidates that are new to the user, of which at least some must be shown."""
    own = own_items(state.context, state.serving.view.catalogue)
    known = np.concatenate([own.visit, own.history, own.amounts.rows])
    new = ~np.isin(state.candidates.rows, known)
    return Group("discovery", new, within=state.request.count, least=least)


def _quotas(state: _RequestState) -> Quotas:
    """Return the quotas of the arm, of a fresh recall without the channels that follow visits."""
    quotas = state.policy.quotas
    if not state.fresh:
        return quotas
    return msgspec.structs.replace(quotas, following=0, together=0, sessions=0, vectors=0)


def _fallback(state: _RequestState, count: int) -> str | None:
    """Return why a response of `count` items is less than a personal list of full length."""
    return fallback_reason(
        state.request,
        count,
        items=len(state.serving.view.catalogue),
        trained=state.serving.model is not None,
        known=state.context.known,
        cohorts=state.candidates.lift is not None,
        quiet_since=quiet_since(state.latest, state.context.at),
    )
