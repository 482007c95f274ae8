"""Resources of a server: open stores and services, before they are assembled."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import CrossedVector
from tactful.config.privacy import DAY_MS
from tactful.config.settings import PACKAGED_FEATURES, Settings
from tactful.coupons.definitions import CouponDefinition, load_coupons
from tactful.erasure.erase import complete_erasures
from tactful.errors import ConfigError
from tactful.event_log.impressions import OFFER
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.own_guardrails import check_own
from tactful.experiments.controller import apply_file, write_served
from tactful.experiments.serving import FILE
from tactful.experiments.store import RolloutStore
from tactful.maintenance.retention import expire_state
from tactful.metadata.api_keys import KeyStore
from tactful.metadata.connections import open_keys
from tactful.metadata.directory_lock import exclusive
from tactful.metadata.lease import FILE_LEDGER, Lease, claim
from tactful.metadata.store import MetadataStore
from tactful.metrics.registry import Stage
from tactful.models.audit_log import ModelLog
from tactful.pipeline.backends import Backend, open_backend
from tactful.pipeline.shared_deliveries import Sharing
from tactful.pipeline.webhooks import Webhooks
from tactful.ranking.features import absent_features
from tactful.recall.index import RecallIndex
from tactful.recommend.item_lists import ItemLists
from tactful.recommend.trials import Attempt, TrialOptions
from tactful.schemas.recommendations import Explanation, Recommendation, RecommendRequest
from tactful.server.lease_keeper import make_lease
from tactful.statistics.service import PrivateStatistics
from tactful.subjects.consent import ConsentStore, note_of_server, open_consents
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.definitions.model import Definitions, dump_definitions, emitted_types
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.options import CoCommittedConsumer

logger = logging.getLogger(__name__)


class Recommender(Protocol):
    """Makes recommendations from features and models."""

    def answer(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, Callable[[], bytes] | None]:
        """Answer `request` at the time `now` (epoch ms), in a few milliseconds.

        It is called with the read lock held. The second value encodes the impression for the log;
        it is called once, after the response is sent and before the next request.
        """

    def attempt(self, request: RecommendRequest, options: TrialOptions, *, now: int) -> Attempt:
        """Answer to try a recommendation out; see `tactful.recommend.recommender.Recommender`."""

    def load_to_compare(self, version: str) -> None:
        """Load a version of the model for `attempt`, in a thread, or raise `ModelError`."""

    def lists(self) -> AbstractContextManager[ItemLists]:
        """Hold the items as they are, to list some of them; for a moment."""

    # returns the profiles that a user lets cross, by key, device of the request and time
    crossed: Callable[[str, str | None, int], Sequence[CrossedVector]]
    # called with the name and the seconds of each step of a request; None for nobody
    observe: Callable[[Stage, float], None] | None

    @property
    def catalogue(self) -> Catalogue:
        """The present catalogue, whose rows may be looked up in any thread."""

    @property
    def trained_index(self) -> RecallIndex:
        """Index of the present model, with directions and bridges of profiles that cross."""

    @property
    def latest_event(self) -> int:
        """Time of the latest event about an item, epoch milliseconds; 0 while it is unknown."""

    def refresh(self, reading: AbstractContextManager[object]) -> None:
        """Take over a new model and new items; called several times a second in a thread.

        Hold `reading` while the engine is read, and never for long.
        """

    def explain(self, impression: Event) -> Explanation:
        """Explain a logged impression, in a thread, or raise `ModelError`."""

    def describe(self) -> Mapping[str, Any]:
        """Return the models in use and the number of items."""

    def close(self) -> None:
        """Release its files; it is not called any more."""


@dataclass(frozen=True)
class Resources:
    """Opened parts of one server."""

    installation: Installation  # settings, metadata, suppressed users and clock
    lease: Lease  # on what one server alone may do
    backend: Backend
    keys: KeyStore
    consents: ConsentStore
    rollouts: RolloutStore
    recommender: Recommender
    statistics: PrivateStatistics | None
    webhooks: Webhooks | None
    model_log: ModelLog
    coupons: Sequence[CouponDefinition]
    closing: contextlib.ExitStack  # closes all of them, in reverse order


def open_resources(
    settings: Settings,
    build: Callable[..., Recommender],
    *,
    consumers: Mapping[str, CoCommittedConsumer],
    statistics: PrivateStatistics | None,
    rebuild: bool,
) -> Resources:
    """Open the data directory and every store in it; arguments as for `Platform.open`.

    Raises:
        StorageError: if the directory cannot be used, another process uses it, or its parts do
            not belong together.
        StreamingError: if features, log or state cannot be used; see `tactful_streaming`.
    """
    definitions = load_definitions(settings.features)
    _warn_of_absent_features(settings, definitions)
    with contextlib.ExitStack() as stack:
        stack.enter_context(exclusive(settings.storage.data, note=note_of_server(settings)))
        metadata, keys = stack.enter_context(open_keys(settings))
        lease = make_lease(settings, metadata)
        if statistics is not None:
            _claim_ledger(settings, metadata, statistics)
        suppression = open_suppression(settings, metadata, clock=now_ms)
        installation = Installation(settings, metadata, suppression, now_ms)
        complete_erasures(installation)
        expire_state(settings, clock=now_ms)
        backend = open_backend(
            settings,
            definitions,
            stack,
            consumers=consumers,
            suppressed=suppression.suppressed,
            rebuild=rebuild,
        )
        metadata.record_definitions(
            definitions.fingerprint, dump_definitions(definitions), applied_by="tactful serve"
        )
        types = emitted_types(definitions).values()
        coupons: list[CouponDefinition] = []
        if settings.coupons.definitions != Path():
            coupons = load_coupons(settings.coupons.definitions, definitions=definitions)
        webhooks = _open_webhooks(installation, backend, types, coupons, lease)
        if webhooks is not None:
            stack.callback(webhooks.close)
        rollouts = _open_rollouts(settings, metadata)
        recommender = build(engine=backend.source, settings=settings)
        stack.callback(recommender.close)
        return Resources(
            installation,
            lease,
            backend,
            keys,
            open_consents(settings, metadata, clock=now_ms),
            rollouts,
            recommender,
            statistics,
            webhooks,
            ModelLog(metadata, clock=now_ms),
            coupons,
            closing=stack.pop_all(),
        )


def _warn_of_absent_features(settings: Settings, definitions: Definitions) -> None:
    if absent := absent_features(definitions):
        logger.warning(
            "%s lacks features that recommendations use; each of them counts as 0: %s. "
            "Copy their lines from %s",
            *(settings.features, ", ".join(absent), PACKAGED_FEATURES),
        )


def _open_webhooks(
    installation: Installation,
    backend: Backend,
    types: Collection[str],
    coupons: Sequence[CouponDefinition],
    lease: Lease,
) -> Webhooks | None:
    settings = installation.settings
    if coupons:
        # The shop receives coupon decisions in the place of the actions that trigger them.
        types = ({*types} - {coupon.trigger for coupon in coupons}) | {OFFER}
    if not settings.actions.webhook_url or not types:
        return None
    return Webhooks(
        settings.actions,
        backend.partitions(),
        types,
        settings.storage.data / "webhooks",
        clock=now_ms,
        suppressed=installation.suppression.suppressed,
        sharing=Sharing(lease, settings.log.topic, settings.engine.dedupe_days * DAY_MS)
        if settings.shared
        else None,
    )


def _claim_ledger(
    settings: Settings, metadata: MetadataStore, statistics: PrivateStatistics
) -> None:
    """Refuse to publish from a ledger in a file if another server may do so from its own."""
    if not settings.shared or settings.statistics.ledger_url_env:
        return
    if not claim(metadata, FILE_LEDGER, statistics.counter.identity):
        raise ConfigError(
            f"{settings.statistics.definitions}: another server of this installation publishes"
            " statistics from a ledger in its data directory, and both would draw the same panes."
            " Name a database for the ledger by statistics.ledger_url_env, or leave"
            " statistics.definitions empty here; if that data directory is lost for good, start"
            " this server once with --accept-loss"
        )


def _open_rollouts(settings: Settings, metadata: MetadataStore) -> RolloutStore:
    rollouts = RolloutStore(metadata, clock=now_ms)
    if settings.recommend.rollouts != Path():
        apply_file(
            rollouts,
            settings.recommend.rollouts,
            lambda definition: check_own(definition, load_metrics(settings.experiment_metrics)),
        )
    publish_rollouts(settings, rollouts)
    return rollouts


def publish_rollouts(settings: Settings, rollouts: RolloutStore) -> None:
    """Write the present stages to the file of recommenders, or raise `StorageError`."""
    write_served(settings.storage.data / FILE, rollouts)
