"""Models of a server: the champion, models on trial, and the live catalogue."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.bandits.serving import ServedBandits
from tactful.catalogue.changes import GivesItems
from tactful.catalogue.request_context import FeatureSource
from tactful.errors import ConfigError, ModelError
from tactful.event_log.recipients import RecommendationIds
from tactful.experiments.serving import ServedRollouts
from tactful.ranking.features import column_names
from tactful.ranking.model import (
    RankingModel,
    checked_version,
    load_model,
    missing_pointer,
    read_pointer,
    untrained_recall,
    version_directory,
)
from tactful.ranking.own_columns import own_columns
from tactful.recall.candidates import CatalogueView, Quotas
from tactful.recall.index import RecallIndex, empty_index
from tactful.recall.live_view import LiveCatalogue, OpenVectors
from tactful.recall.takers import TakenByMany
from tactful.recall.trending import Rising
from tactful.rerank.frequency_caps import Shown
from tactful.rerank.placement_rules import PlacementRule
from tactful_bandits.assignment.assign import Experiment

_LOG = logging.getLogger(__name__)

_COMPARED = 2
_new_id = partial(token_hex, 16)


@dataclass(frozen=True, kw_only=True)
class RecommenderOptions:
    """Files and rules of a `Recommender`."""

    models: Path
    definitions: str  # fingerprint of the feature definitions the engine computes
    # public keys whose signature a model needs; None accepts every model
    trusted: Collection[str] | None = None
    experiment: Experiment  # which users get which ranking
    # candidates of each channel where an arm does not set them
    quotas: Quotas = field(default_factory=Quotas)
    placement: Sequence[PlacementRule] = ()
    shown: Shown | None = None  # counts of items shown today; rules with a cap need them
    rising: Rising | None = None
    takers: TakenByMany | None = None  # items of anonymous requests; None for no minimum
    # time of the latest event about an item, epoch milliseconds; 0 while it is unknown
    latest: Callable[[], int] = lambda: 0
    # share of the places for items that are new to the user; None: the one of the champion
    discovery: float | None = None
    minimum_people: int = 10  # people from whom on a pair of items counts in lists for everybody
    rollouts: Path | None = None  # file of the changes being rolled out, and their shares
    bandits: Path | None = None  # file of the published bandits
    # share of the users who get recommendations that are not personal, to measure what these are
    # worth
    holdout: float = 0.0
    new_id: Callable[[], str] = _new_id
    ids: RecommendationIds | None = None  # signs the ids; None leaves them unsigned
    encoded: OpenVectors | None = None  # vectors of items by encoders; None for none
    # seconds that never go back; popularity is counted anew every so often
    monotonic: Callable[[], float] = time.monotonic
    # seconds, for the logged duration of a request
    stopwatch: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class ServingState:
    """Champion and catalogue of one request, replaced as a whole at a swap."""

    version: str
    model: RankingModel | None
    live: LiveCatalogue
    view: CatalogueView


class ServedModels:
    """Keeps the models of a server up to date with its files and its feature engine.

    champion.json -> version -> RankingModel, LiveCatalogue -> View   (`current`)
    rollouts file -> version -> RankingModel                          (`on_trial`)
    """

    def __init__(
        self,
        source: FeatureSource,
        options: RecommenderOptions,
        changing: AbstractContextManager[object],  # held while shared columns are written
    ) -> None:
        """Load the champion, if there is one."""
        self._source = source
        self._options = options
        self._directory = options.models
        self._changing = changing
        self._refusal = ""
        self._logged_refusal: str | None = None
        self._learned: tuple[int, ...] = ()  # identity of the file of the untrained recall
        self._failing: set[str] = set()
        self.rollouts = ServedRollouts(options.rollouts)
        self.bandits = ServedBandits(options.bandits)
        self.on_trial: dict[str, RankingModel] = {}
        self._compared: dict[str, RankingModel] = {}
        live = LiveCatalogue(
            empty_index(),
            None,
            rising=options.rising,
            takers=options.takers,
            monotonic=options.monotonic,
            changing=changing,
        )
        self.current = ServingState(version="", model=None, live=live, view=live.view)
        if (missing := missing_pointer(options.models)) is not None:
            told = "%s is missing: no model ranks until `tactful models promote` chooses a version"
            _LOG.warning(told, missing)
        self.refresh()

    def refresh(self, reading: AbstractContextManager[object] | None = None) -> None:
        """Load a new champion, new items and popularity, and swap them in at once.

        A champion that does not fit is refused and logged once; the present one goes on serving.
        `reading` is held while the engine is read; None where no other thread writes to it.
        """
        before = self.current
        version, model = self._champion(before)
        swapped = version != before.version and model is not None
        live = self._untrained(before) if model is None else before.live
        if model is not None and swapped:
            live = LiveCatalogue(
                model.index,
                self._directory / "live" / version,
                writes=not isinstance(self._source, GivesItems),
                rising=self._options.rising,
                takers=self._options.takers,
                monotonic=self._options.monotonic,
                after=before.live,
                changing=self._changing,
                encoded=self._options.encoded,
            )
        view = live.refresh(self._source, reading)
        self.current = ServingState(version=version, model=model, live=live, view=view)
        self._load_rollouts()
        try:
            self.bandits.refresh()
        except ConfigError as error:
            _LOG.error("the former bandits go on: %s", error)
        if swapped:
            self._learned = ()
            before.live.close()
            if live.writes:
                self._delete_vectors(but=version)
            _LOG.info("ranking model %s serves, %d items", version, len(view.catalogue))

    def load_to_compare(self, version: str) -> None:
        """Load a version that `score_on_trial` is to know; the two latest are kept.

        Raises:
            ModelError: if there is no such version, or it does not fit this server.
        """
        if not version_directory(self._directory, version).is_dir():
            raise ModelError(f"there is no version {version!r}: GET /v1/models/log lists them")
        compared = dict(self._compared)
        model = compared.pop(version, None) or self.on_trial.get(version) or self._load(version)
        latest = [*compared.items()][1 - _COMPARED :]
        self._compared = {**dict(latest), version: model}

    def score_on_trial(
        self, version: str, champion: RankingModel, features: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], bool]:
        """Score candidates by a version on trial, or by the champion where it is unknown or fails.

        The second value is whether the model on trial failed.
        """
        trial = self.on_trial.get(version) or self._compared.get(version)
        if trial is None:
            return champion.score(features), False
        reason = "gives scores that are no numbers"
        try:
            scores = trial.score(features)
        except Exception as error:  # no request may fail for a trial, whatever the error is
            reason = f"fails ({type(error).__name__}: {error})"
            scores = np.full(len(features), np.nan, np.float32)
        failed = not np.isfinite(scores).all()
        if failed and version not in self._failing:
            self._failing.add(version)
            _LOG.error("model %s, on trial, %s: the champion ranks instead", version, reason)
        return (champion.score(features) if failed else scores), failed

    def describe(self) -> dict[str, Any]:
        """Describe the models and the catalogue, for ``GET /v1/models``."""
        current, champion = self.current, None
        if current.model is not None:
            manifest = current.model.manifest
            champion = {
                "name": manifest.name,
                "version": manifest.version,
                "run_id": manifest.run_id,
                "trained_until": manifest.trained_until,
                "metrics": manifest.metrics,
                "evaluated": current.model.evaluated,
            }
        return {
            "champion": champion,
            "refused": self._refusal or None,
            "items": len(current.view.catalogue),
            "indexed_items": len(current.view.index.item_ids),
            "vectors": current.live.describe(),
            "rollouts": {
                rollout.experiment.key: rollout.experiment.arms[-1].weight
                for rollout in self.rollouts.rollouts
            },
        }

    def _untrained(self, before: ServingState) -> LiveCatalogue:
        """Return views of the recall that was learned last without a model."""
        place = untrained_recall(self._directory)
        try:
            status = (place / "index.json").stat()
            identity = status.st_ino, status.st_mtime_ns
            if identity == self._learned:
                return before.live
            index = RecallIndex.load(place)
        except FileNotFoundError:
            return before.live
        except ModelError as error:  # it may be replaced at this moment
            _LOG.info("recall as it was goes on: %s", error)
            return before.live
        self._learned = identity
        return LiveCatalogue(
            index,
            None,
            rising=self._options.rising,
            takers=self._options.takers,
            monotonic=self._options.monotonic,
            after=before.live,
            changing=self._changing,
        )

    def _champion(self, before: ServingState) -> tuple[str, RankingModel | None]:
        version, model = before.version, before.model
        pointer, refusal = None, ""
        try:
            pointer = read_pointer(self._directory)
            if pointer is not None and pointer.version != before.version:
                version, model = pointer.version, self._load(pointer.version)
        except ModelError as error:
            refusal = str(error)
            if before.model is None and pointer is not None and pointer.previous:
                # After a restart no model is loaded; the one before the champion still can serve.
                with suppress(ModelError):
                    version, model = pointer.previous, self._load(pointer.previous)
        refused = None if not refusal else "" if pointer is None else pointer.version
        # By version and not by message: XGBoost puts the time of day and addresses into its own.
        if refusal and refused != self._logged_refusal:
            _LOG.error("new champion refused, %s goes on: %s", version or "none", refusal)
        self._refusal, self._logged_refusal = refusal, refused
        return version, model

    def _load(self, version: str) -> RankingModel:
        return load_model(
            checked_version(self._directory, version, self._options.trusted),
            definitions=self._options.definitions,
            names=column_names(own_columns(self._source.definitions)),
        )

    def _load_rollouts(self) -> None:
        """Load the rollouts file when it changed, and the models that it names."""
        if not self.rollouts.refresh():
            return
        on_trial: dict[str, RankingModel] = {}
        for version in {rollout.model for rollout in self.rollouts.rollouts if rollout.model}:
            try:
                on_trial[version] = self.on_trial.get(version) or self._load(version)
            except ModelError as error:
                _LOG.error("model %s cannot be tried out, its rollout waits: %s", version, error)
        self.on_trial = on_trial

    def _delete_vectors(self, *, but: str) -> None:
        """Delete the changed vectors of every other version."""
        for path in (self._directory / "live").iterdir():
            if path.name != but:
                shutil.rmtree(path, ignore_errors=True)
