"""One request to one list: observe, recall, rank, log what was shown."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.changes import GivesItems
from tactful.catalogue.request_context import FeatureSource, RequestContext, build_context
from tactful.config.settings import Settings
from tactful.errors import ConfigError, ModelError
from tactful.event_log.impressions import encode_impression
from tactful.experiments.serving import FILE, Drawn, ServedRollouts
from tactful.ranking.features import assemble, layout
from tactful.ranking.heuristic import heuristic_scores
from tactful.ranking.model import RankingModel, load_model, read_pointer, version_directory
from tactful.recall.candidates import Candidates, Quotas, gather
from tactful.recall.filters import Filter
from tactful.recall.index import CHANNELS, empty_index
from tactful.recall.live_view import LiveCatalogue, View
from tactful.recall.trending import Rising
from tactful.recommend.explanation import Explainer
from tactful.rerank.apply_placement import bounds_of, with_demanded
from tactful.rerank.arm_policy import RANKING_EXPERIMENT as RANKING_EXPERIMENT
from tactful.rerank.arm_policy import Policy, policies, ranking_experiment
from tactful.rerank.diversity import Likeness
from tactful.rerank.exploration import generator_of
from tactful.rerank.frequency_caps import Shown, ShownToday, exhausted
from tactful.rerank.placement_rules import PlacementRule, load_placement, on_page
from tactful.rerank.rerank import Arrangement, arrange
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    Explanation,
    Recommendation,
    RecommendedItem,
    RecommendRequest,
)
from tactful_bandits.assignment.assign import Assignment, Experiment, assign
from tactful_bandits.errors import AssignmentError
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.kernels.gather import load_taking
from tactful_streaming.kernels.panes import load_kernel as load_pane_kernel

_LOG = logging.getLogger(__name__)

HEURISTIC = "heuristic"
LEARNED = "learned"
TRENDING = "trending"


@dataclass(frozen=True)
class _Loaded:
    """What one request works with; replaced as a whole, so no request sees half of a swap."""

    version: str
    model: RankingModel | None
    live: LiveCatalogue
    view: View


class Recommender:
    """Answers requests for recommendations from the feature engine and the champion model."""

    def __init__(
        self,
        source: FeatureSource,
        *,
        models: Path,
        definitions: str,
        experiment: Experiment,
        quotas: Quotas | None = None,
        placement: Sequence[PlacementRule] = (),
        shown: Shown | None = None,
        rising: Rising | None = None,
        rollouts: Path | None = None,
        new_id: Callable[[], str] = lambda: os.urandom(16).hex(),
        monotonic: Callable[[], float] = time.monotonic,
        stopwatch: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start with the champion, if there is one.

        Args:
            source: the feature engine.
            models: directory with the champion pointer and the model versions.
            definitions: fingerprint of the feature definitions the engine computes.
            experiment: which people get which ranking.
            quotas: how many candidates each channel may bring where an arm does not say.
            placement: what has to stand where in a list, and what must not.
            shown: how often each item was shown today; rules with a cap need it.
            rising: says what rises in published statistics, where they are read for that.
            rollouts: file that says which changes are being rolled out, and to how many.
            new_id: makes recommendation ids.
            monotonic: seconds that never go back; what is popular is counted anew every so often.
            stopwatch: seconds, by which it is logged how long a list took.

        Raises:
            ConfigError: if a parameter of an arm is wrong, or a cap has nothing to count by.
        """
        self._source = source
        self._models = models
        self._definitions = definitions
        self._layout = layout(definitions)
        self._explainer = Explainer(models)
        self._experiment = experiment
        self._default_policy = Policy(quotas=quotas or Quotas())
        self._policies = policies(experiment, default=self._default_policy)
        self._placement = placement
        self._shown = shown
        self._rising = rising
        if shown is None and (capped := [rule.name for rule in placement if rule.per_day]):
            raise ConfigError(
                f"placement rule {capped[0]!r}: caps a day, but lists are not counted here"
            )
        self._rollouts = ServedRollouts(rollouts)
        self._rivals: dict[str, RankingModel] = {}
        self._failing: set[str] = set()
        self._new_id = new_id
        self._monotonic = monotonic
        self._stopwatch = stopwatch
        self._refused = ""
        self._told: str | None = None
        load_pane_kernel()  # or the first request would wait for it
        load_taking()
        self._changing = threading.RLock()  # the first list may refresh while it holds it
        live = LiveCatalogue(
            empty_index(), None, rising=rising, monotonic=monotonic, changing=self._changing
        )
        self._loaded = _Loaded(version="", model=None, live=live, view=live.view)
        self.refresh()

    def recommend(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, bytes | None]:
        """Answer one request.

        Args:
            request: what is asked.
            now: epoch milliseconds; the request's own time wins.

        Returns:
            The answer, and the impression to append to the log (None for an empty list).

        Raises:
            ProblemError: if an arm is forced that does not exist, or no price can be in range.
        """
        answer, impression = self.answer(request, now=now)
        return answer, None if impression is None else impression()

    def answer(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, Callable[[], bytes] | None]:
        """As `recommend`, with what encodes the impression in its place.

        Nobody who waits for the answer waits for that. It is to be called once, before anything
        else is asked for.
        """
        with self._changing:
            return self._answer(request, now=now)

    def _answer(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, Callable[[], bytes] | None]:
        started = self._stopwatch()
        if _or(request.min_price, 0.0) > _or(request.max_price, float("inf")):
            raise ProblemError("invalid", "`min_price` is above `max_price`", field="$.min_price")
        if not len(self._loaded.view.catalogue) and self._source.items:
            self.refresh()  # the first items: a shop that just sent them should not be told to
        loaded = self._loaded
        view = loaded.view
        at = now if request.timestamp is None else to_milliseconds(request.timestamp)
        assignment = self._assign(request, loaded)
        context = build_context(
            self._source,
            view.catalogue,
            subject=request.subject,
            session_id=request.session_id,
            at=at,
        )
        drawn = self._drawn(request, loaded, at)
        policy = drawn.over(self._policies.get(assignment.arm or "", self._default_policy))
        rules = on_page(self._placement, request.context.get("page"))
        allowed = self._allowed(request, view.catalogue, context, rules)
        may_rank = loaded.model is not None and assignment.arm != HEURISTIC
        candidates = gather(
            view.index,
            view.search,
            view.catalogue,
            context,
            popular=view.popular,
            quotas=policy.quotas,
            allowed=allowed,
            intent=request.intent,
            trending=view.trending.rows,
            least=request.count,
        )
        if rules:
            candidates = with_demanded(
                candidates,
                rules,
                view.catalogue,
                allowed=allowed,
                popular=view.popular,
                search=view.search,
                learned=_learned(view),
            )
        # Of somebody of whom only demographics are known, the trees know less than these say.
        unknown = candidates.lift is not None and not context.known
        learned = may_rank and not unknown
        features: NDArray[np.float32] | None = None
        failed = False
        if loaded.model is not None and learned and len(candidates.rows):
            features = assemble(
                candidates,
                context,
                source=self._source,
                catalogue=view.catalogue,
            )
            scores, failed = self._scored(drawn.model, loaded.model, features)
        else:
            scores = heuristic_scores(
                candidates,
                context,
                view.catalogue,
                view.popular,
                source=self._source,
            )
        values = policy.objective.value(
            scores,
            candidates.rows,
            catalogue=view.catalogue,
            context=context,
            popular=view.popular,
        )
        recommendation_id = self._new_id()
        likeness = generator = None
        if policy.diversity.strength:
            category = view.catalogue.category[candidates.rows]
            likeness = Likeness(candidates.vectors.read(), category)
        if policy.exploration.temperature:
            generator = generator_of(recommendation_id)
        arranged = arrange(
            values,
            request.count,
            bounds=bounds_of(
                rules, candidates, view.catalogue, count=request.count, learned=_learned(view)
            ),
            diversity=policy.diversity,
            likeness=likeness,
            exploration=policy.exploration,
            generator=generator,
        )
        order = arranged.order
        items = [
            RecommendedItem(item_id=item_id, score=score, channel=CHANNELS[channel])
            for item_id, score, channel in zip(
                view.catalogue.item_ids.of_rows(candidates.rows[order]),
                values[order].tolist(),
                candidates.channel[order].tolist(),
                strict=True,
            )
        ]
        answer = Recommendation(
            recommendation_id=recommendation_id,
            items=items,
            model_version=((not failed and drawn.model) or loaded.version)
            if learned
            else HEURISTIC,
            variant={
                **({} if assignment.arm is None else {assignment.experiment: assignment.arm}),
                **drawn.variant(),
            },
            fallback=_fallback(request, loaded, context, candidates, len(items)),
            took_ms=(self._stopwatch() - started) * 1e3,
        )
        if not items:
            return answer, None
        applied = self._source.offset

        def impression() -> bytes:
            took_part = {
                **policy.to_log_fields(),
                **_told(rules, arranged),
                **drawn.to_log_fields(),
            }
            if failed:
                took_part["failed"] = True
            here = candidates.channel[order] == CHANNELS.index(TRENDING)
            if here.any():
                took_part[TRENDING] = view.trending.told(candidates.rows[order][here])
            return encode_impression(
                request,
                answer,
                assignment,
                at=at,
                applied=applied,
                layout=self._layout,
                features=None if features is None else features[order],
                more=took_part,
            )

        return answer, impression

    def _scored(
        self,
        rival: str,
        champion: RankingModel,
        features: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], bool]:
        """Scores, and whether a model on trial failed to give them, so that the champion did."""
        trial = self._rivals.get(rival)
        if trial is None:
            return champion.score(features), False
        why = "gives scores that are no numbers"
        try:
            scores = trial.score(features)
        except Exception as error:  # whatever it is: nobody's list may fail for a trial
            why = f"fails ({type(error).__name__}: {error})"
            scores = np.full(len(features), np.nan, np.float32)
        failed = not np.isfinite(scores).all()
        if failed and rival not in self._failing:
            self._failing.add(rival)
            _LOG.error("model %s, on trial, %s: the champion ranks instead", rival, why)
        return (champion.score(features) if failed else scores), failed

    def explain(self, impression: Event) -> Explanation:
        """Say how a list came about.

        Args:
            impression: the event of the list, as it was logged.
        """
        return self._explainer.explain(impression)

    def refresh(self, reading: AbstractContextManager[object] | None = None) -> None:
        """Take in a new champion, new items and what is popular now; swap in one step.

        A champion that does not fit is refused, logged once, and the present one goes on serving.

        Args:
            reading: held while the engine is read; None where no other thread writes to it.
        """
        held = self._loaded
        version, model = self._champion(held)
        swapped = version != held.version and model is not None
        live = held.live
        if model is not None and swapped:
            live = LiveCatalogue(
                model.index,
                self._vectors(version),
                writes=not isinstance(self._source, GivesItems),
                rising=self._rising,
                monotonic=self._monotonic,
                after=held.live,
                changing=self._changing,
            )
        view = live.refresh(self._source, reading)
        self._loaded = _Loaded(version=version, model=model, live=live, view=view)
        self._follow_rollouts()
        if swapped:
            held.live.close()
            if live.writes:
                self._forget_vectors(version)
            _LOG.info("ranking model %s serves, %d items", version, len(view.catalogue))

    @property
    def counted_at(self) -> float:
        """When what is popular was counted last, by `monotonic`: it takes memory by the item."""
        return self._loaded.live.counted_at

    def describe(self) -> dict[str, Any]:
        """What serves: for ``GET /v1/models``."""
        loaded = self._loaded
        manifest = loaded.model.manifest if loaded.model is not None else None
        return {
            "champion": None
            if manifest is None
            else {
                "name": manifest.name,
                "version": manifest.version,
                "run_id": manifest.run_id,
                "trained_until": manifest.trained_until,
                "metrics": manifest.metrics,
                "evaluated": loaded.model.evaluated if loaded.model is not None else None,
            },
            "refused": self._refused or None,
            "items": len(loaded.view.catalogue),
            "indexed_items": len(loaded.view.index.item_ids),
            "vectors": loaded.live.describe(),
            "experiment": {
                "key": self._experiment.key,
                "arms": {arm.name: arm.weight for arm in self._experiment.arms},
            },
            "rollouts": {
                each.experiment.key: each.experiment.arms[-1].weight
                for each in self._rollouts.rollouts
            },
        }

    def _champion(self, held: _Loaded) -> tuple[str, RankingModel | None]:
        version, model = held.version, held.model
        pointer, refused = None, ""
        try:
            pointer = read_pointer(self._models)
            if pointer is not None and pointer.version != held.version:
                version, model = pointer.version, self._load(pointer.version)
        except ModelError as error:
            refused = str(error)
            if held.model is None and pointer is not None and pointer.previous:
                # After a restart nothing is held; what served before the champion still can.
                with suppress(ModelError):
                    version, model = pointer.previous, self._load(pointer.previous)
        told = None if not refused else "" if pointer is None else pointer.version
        # By version and not by message: XGBoost puts the time of day and addresses into its own.
        if refused and told != self._told:
            _LOG.error("new champion refused, %s goes on: %s", version or "none", refused)
        self._refused, self._told = refused, told
        return version, model

    def _load(self, version: str) -> RankingModel:
        return load_model(
            version_directory(self._models, version),
            definitions=self._definitions,
            kernels=self._models / "kernels",
        )

    def _follow_rollouts(self) -> None:
        """Take in who gets which change now, and the models that are compared with the champion."""
        if not self._rollouts.refresh():
            return
        rivals: dict[str, RankingModel] = {}
        for version in {each.model for each in self._rollouts.rollouts if each.model}:
            try:
                rivals[version] = self._rivals.get(version) or self._load(version)
            except ModelError as error:
                _LOG.error("model %s cannot be tried out, its rollout waits: %s", version, error)
        self._rivals = rivals

    def _drawn(self, request: RecommendRequest, loaded: _Loaded, at: int) -> Drawn:
        """What rollouts change for whoever asks; nothing while no model makes lists personal."""
        if loaded.model is None:
            return Drawn()
        try:
            known = self._rivals.__contains__
            return self._rollouts.draw(request.subject, request.force, known, at=at)
        except AssignmentError as error:
            raise ProblemError("invalid", str(error), field="$.force") from None

    def _vectors(self, version: str) -> Path:
        """Where what changed since training is kept of a version's vectors."""
        return self._models / "live" / version

    def _forget_vectors(self, version: str) -> None:
        for place in (self._models / "live").iterdir():
            if place.name != version:
                shutil.rmtree(place, ignore_errors=True)

    def close(self) -> None:
        """Give free what only one process may hold."""
        self._loaded.live.close()

    def _allowed(
        self,
        request: RecommendRequest,
        catalogue: Catalogue,
        context: RequestContext,
        rules: Sequence[PlacementRule],
    ) -> NDArray[np.bool_]:
        """Which rows may be shown: filters, and what the person has not seen too often today."""
        allowed = _filter(request).rows(catalogue, context)
        if self._shown is not None:
            seen = self._shown.of(request.subject, context.at)
            if len(rows := exhausted(rules, seen, catalogue)):
                allowed = allowed.copy()
                allowed[rows] = False
                allowed.flags.writeable = False
        return allowed

    def _assign(self, request: RecommendRequest, loaded: _Loaded) -> Assignment:
        """The person's arm; none for nobody, and none while no model makes the arms differ."""
        forced = request.force.get(self._experiment.key)
        arms = [arm.name for arm in self._experiment.arms]
        if forced is not None and forced not in arms:
            raise ProblemError(
                "invalid",
                f"the arms of experiment {self._experiment.key!r} are {', '.join(arms)}",
                field="$.force",
            )
        unit = request.subject
        if loaded.model is None or (unit is None and forced is None):
            return Assignment(self._experiment.key, None, 0.0, None, False)
        return assign(self._experiment, unit or "nobody", forced=forced)


def build(
    *,
    engine: Any,
    settings: Settings,
    shown: Shown | None = None,
    rising: Rising | None = None,
) -> Recommender:
    """Make the recommender that ``tactful serve`` runs.

    Args:
        engine: the feature engine.
        settings: where models, experiments and placement rules lie.
        shown: how often each item was shown today, counted by the same engine.
        rising: says what rises in published statistics.

    Returns:
        The recommender, with the champion loaded when there is one.

    Raises:
        ConfigError: if a file is wrong, or holds no experiment on the ranking.
    """
    return Recommender(
        engine,
        models=settings.models,
        definitions=engine.definitions.fingerprint,
        experiment=ranking_experiment(settings.experiments),
        placement=load_placement(settings.placement),
        shown=shown,
        rising=rising,
        rollouts=settings.storage.data / FILE,
    )


def open_shown(settings: Settings) -> ShownToday | None:
    """What counts the lists of the day, if a placement rule needs it."""
    capped = any(rule.per_day for rule in load_placement(settings.placement))
    return ShownToday() if capped else None


def _learned(view: View) -> int:
    """Rows from this one on came since the model was trained; without a model none did."""
    return len(view.index.item_ids) or len(view.catalogue)


def _told(rules: Sequence[PlacementRule], arranged: Arrangement) -> dict[str, Any]:
    """Which rules held for a list and what chance did, for the log."""
    said: dict[str, Any] = {}
    if rules:
        said["placement"] = [rule.name for rule in rules]
    if arranged.short:
        said["placement_short"] = [*arranged.short]
    if arranged.propensities is not None:
        said["propensities"] = arranged.propensities.tolist()
    return said


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _filter(request: RecommendRequest) -> Filter:
    return Filter(
        categories=() if request.category is None else (request.category,),
        min_price=request.min_price,
        max_price=request.max_price,
        exclude=request.exclude,
        seen=request.exclude_seen,
        taken=request.exclude_taken,
    )


def _fallback(
    request: RecommendRequest,
    loaded: _Loaded,
    context: RequestContext,
    candidates: Candidates,
    found: int,
) -> str | None:
    if not len(loaded.view.catalogue):
        return "the catalogue is empty: send items with PUT /v1/items"
    reasons = []
    if loaded.model is None:
        reasons.append("no model is trained yet: ordered by own repeats and popularity")
    if request.subject is None:
        reasons.append("nobody was named: not personal")
    elif not context.known:
        by = "what people like them take" if candidates.lift is not None else "popularity"
        reasons.append(f"nothing is known of this person yet: ordered by {by}")
    if found < request.count:
        reasons.append(
            f"only {found} items passed the filters and placement rules, or were found by any "
            "recall channel"
        )
    return "; ".join(reasons) or None
