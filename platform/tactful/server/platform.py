"""Assembled platform: log, engine, keys, ingestion, recommender in one process.

Everything runs on one event loop, except some threads: one writes the log (its group commit, or
the client of Kafka), one applies it (`tactful.pipeline.applier`), one may send webhooks. A
recommendation is computed on the event loop, under the lock that the applier's thread holds while
it applies a micro-batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from importlib import metadata
from typing import Any

from prometheus_client import CollectorRegistry

from tactful.config.settings import Settings
from tactful.coupons.campaign_report import CampaignReports
from tactful.coupons.decisions import CouponIssuer
from tactful.coupons.definitions import OFFER, OFFER_ID, WITHHELD
from tactful.erasure.bulk import request_erasures
from tactful.erasure.personal_stores import LiveStores
from tactful.erasure.receivers import ErasureNotices
from tactful.erasure.running_server import OnlineErasures
from tactful.errors import StorageError
from tactful.event_log.impressions import IMPRESSION_ID
from tactful.event_log.recipients import Recipients, open_ids
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.planning import Planner
from tactful.experiments.stage_readout import ReadOuts
from tactful.experiments.tuner_report import TunerReports
from tactful.experiments.worth import Worth
from tactful.http.credentials import open_tokens
from tactful.http.rate_limits import RateLimits
from tactful.maintenance.import_undo import (
    ImportUndos,
    UndoTarget,
    preview_undo,
    problem_of,
)
from tactful.metadata.federated_runs import FederatedRunStore
from tactful.metadata.import_log import ImportLog
from tactful.metrics.history import FILE, MetricHistory
from tactful.metrics.registry import Metrics
from tactful.metrics.tracing import open_traces
from tactful.models.commands import ModelCommands
from tactful.pipeline.applier import ApplierOptions, LogApplier
from tactful.pipeline.ingest import EventIngest, IngestOptions
from tactful.pipeline.recent_lists import RecentRecommendations
from tactful.recommend.item_lists import ItemLists
from tactful.schemas.data.imports import Import, UndoPreview
from tactful.schemas.health import Health, WorkerHealth
from tactful.schemas.operations import JobInfo, SystemInfo
from tactful.schemas.positions import Position
from tactful.schemas.users import (
    ErasureRequest,
    ErasureResult,
    FeatureMeaning,
    PersonExport,
    PersonMatches,
    UserFeatures,
)
from tactful.server.alerts import make_alerts
from tactful.server.background import BackgroundTasks
from tactful.server.gauges import add_gauges
from tactful.server.recommendations import Recommendations, VisibilityTracker
from tactful.server.resources import Recommender, Resources, open_resources, publish_rollouts
from tactful.server.rollouts import control_rollouts
from tactful.server.search_thread import SearchThread
from tactful.server.sources import make_sources
from tactful.server.system import describe_system, list_jobs
from tactful.server.uploads import Uploads
from tactful.statistics.service import PrivateStatistics
from tactful.subjects.consent import record_described
from tactful.subjects.consented_log import PermittedLog
from tactful.subjects.export import export_person
from tactful.subjects.history import meanings
from tactful.subjects.look_up import Identifier, look_up
from tactful.subjects.minimise import make_minimiser
from tactful.subjects.permissions import CLAIM, Permissions, claimed
from tactful.subjects.trace_search import search_log, search_partitions
from tactful.util.counted_lock import CountedLock
from tactful.util.yielding_lock import YieldingLock
from tactful_privacy.ledger.query import Query
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.decode_requests import Limits
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Event, named_keys
from tactful_streaming.definitions.model import emitted_types
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.options import CoCommittedConsumer
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)


class Platform:
    """One running installation.

    Data flow::

        HTTP -> ingest -> log -> applier -> engine -> recommender -> recommendations -> HTTP
                           |                  |
                           `-> webhooks       `-> statistics (released at commits)

    Attributes:
        resources: open stores.
        settings: checked settings.
        metrics: metrics of this process.
        history: metrics of the last day, a point each ten seconds.
        rates: rates of browser keys and devices.
        keys: API keys.
        tokens: checks ID tokens; None if nobody signs in by OpenID Connect.
        consents: consent decisions.
        suppression: erased users.
        erasures: requested erasures and their receipts.
        imports: imports of files.
        accesses: accesses to the data of users.
        audit: all changes and accesses.
        hash_secret: key of the hashes in place of ids, new at each start.
        redriving: held while dead letters are sent again; `checking` while data are checked.
        permissions: allowed purposes of an event or a request.
        minimise: shortens named fields of events, users and requests; None if none are named.
        backend: log and engine.
        engine: feature engine; read it with `lock` held.
        lock: held by readers of the engine.
        applier: applies the log to the engine.
        visibility: log offsets that features include.
        online_erasures: erases users while the server runs.
        import_undos: undoes imports while the server runs.
        uploads: files that are imported by the server.
        notices: hands erasures on to the receivers of data.
        ingest: accepts events, items and users.
        search: finds items by words.
        sources: accepts messages of other programs.
        recommender: makes recommendations; `recommendations` serves them.
        recommendations: answers requests for recommendations.
        recent: latest recommendations, to be explained.
        statistics: published statistics, if any.
        model_log: audit log of model changes.
        rollouts: changes that are rolled out in stages.
        rollout_controller: moves them from stage to stage.
        read_outs: reads the effects of rollouts and experiments.
        worth: measures what personal recommendations are worth.
        tuner_reports: reports the tuners of rollouts.
        campaigns: reports the coupon campaigns, if there are any.
        coupons: decides about coupons, if there are campaigns.
        started_at: time of the start, epoch milliseconds.
        alerts: evaluates the rules of alerts, and sends their messages.
        version: version of the software.
        workers: returns the health of the worker processes; None without workers.
    """

    def __init__(self, resources: Resources) -> None:
        """Assemble a platform, which closes `resources` at its end."""
        installation, backend = resources.installation, resources.backend
        settings, clock = installation.settings, installation.clock
        self.resources = resources
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry())
        self.history = MetricHistory(settings.storage.data / FILE)
        resources.closing.callback(self.history.close)
        self.started_at = clock()
        self.rates = RateLimits(settings.limits)
        self.keys = resources.keys
        self.tokens = open_tokens(settings, clock=clock)
        self.consents = resources.consents
        self.suppression = installation.suppression
        self.erasures = installation.jobs
        self.accesses = installation.accesses
        self.imports = ImportLog(installation.metadata, clock=installation.clock)
        self.audit = installation.audit
        self.backend = backend
        self.engine = backend.engine
        self.lock = CountedLock()
        self.redriving, self.checking = asyncio.Lock(), asyncio.Lock()
        self.hash_secret = secrets.token_bytes(32)
        self.search = SearchThread(backend.source, YieldingLock(self.lock.inner))
        self.recommender = resources.recommender
        self.recommender.observe = self.metrics.stage
        self.statistics = resources.statistics
        self.model_log = resources.model_log
        self.model_commands = ModelCommands(settings)
        self.federated_runs = FederatedRunStore(installation.metadata, clock=clock)
        self.rollouts = resources.rollouts
        self.version = metadata.version("tactful")
        self.workers: Callable[[], list[WorkerHealth]] | None = None
        if settings.server.traces:
            self.metrics.traces = traces = open_traces(self.version)
            resources.closing.callback(traces.close)
        self._status = "starting"
        self.permissions = Permissions(
            self.consents.consents, self.engine.resolve, self.suppression.suppressed
        )
        self._ids = open_ids(settings, clock=clock)
        self.minimise = make_minimiser(settings.minimise, lambda: self._ids.keyring)
        self.coupons: CouponIssuer | None = None
        if resources.coupons:
            self.coupons = CouponIssuer(
                resources.coupons,
                installation.metadata,
                backend.partitions(),
                features=self._user_features,
                clock=clock,
                keyring=self._ids.keyring,
                keys_of=self._keys_of,
            )
        recipients = partial(Recipients, self.engine.resolve, self._ids)
        outcomes = ExactOutcomes(backend.partitions, self._measures, recipients)
        self.rollout_controller = control_rollouts(
            settings, self.rollouts, outcomes, clock=clock, charge=self._charge
        )
        self.planner = Planner(self.rollouts, outcomes, clock=clock)
        self._report(outcomes)
        self._assemble()

    def _report(self, outcomes: ExactOutcomes) -> None:
        """Make the reports about experiments, coupons and tuners."""
        installation = self.resources.installation
        settings, clock = installation.settings, installation.clock
        self.campaigns: CampaignReports | None = None
        if self.coupons is not None:
            self.campaigns = CampaignReports(
                self.resources.coupons,
                installation.metadata,
                self._measured_logs,
                self.coupons.left,
                clock=clock,
            )
        self.worth = Worth(
            installation.metadata,
            outcomes,
            holdout=settings.recommend.holdout,
            epsilon=settings.recommend.holdout_epsilon,
            clock=clock,
            charge=self._charge,
        )
        self.tuner_reports = TunerReports(self.rollouts, self._measured_logs, clock=clock)
        self.read_outs = ReadOuts(self.rollouts, outcomes, clock=clock)

    def _measured_logs(self) -> list[EventLog]:
        """Return the partitions, with the events that may be used to measure."""
        purpose = Purpose.MEASUREMENT

        def allows(user_id: str | None, device_id: str | None, at: int, claim: str | None) -> bool:
            return purpose in self.permissions.of(user_id, device_id, at, claimed(claim))

        return [PermittedLog(log, allows, purpose) for log in self.backend.partitions()]

    def _charge(self, queries: Iterable[Query]) -> None:
        if self.statistics is not None:  # without published statistics there is no ledger
            self.statistics.charge(queries)

    def _assemble(self) -> None:
        """Connect ingestion, log, engine, recommender and background tasks."""
        resources, backend = self.resources, self.backend
        installation = resources.installation
        self.applier = self._make_applier()
        self.visibility = VisibilityTracker(self.applier, backend.shared)
        self.ingest = EventIngest(
            backend, self.applier, self.metrics, self._ingest_options(), clock=installation.clock
        )
        self.sources = make_sources(self)
        self.recent = RecentRecommendations(self.ingest, backend)
        self.recommendations = Recommendations(
            resources,
            self.applier,
            self.visibility,
            self.recent,
            self.permissions,
            self.lock,
            self.metrics.recommended,
        )
        self.notices = ErasureNotices(installation.settings)
        self.online_erasures = OnlineErasures(
            installation,
            backend.written,
            running=LiveStores(
                installation.settings,
                backend.engine,
                backend.state,
                self.applier,
                self.lock,
                consents=self.consents,
                webhooks=resources.webhooks,
                drop_recommendations=self.recent.forget,
                rollouts=self.rollout_controller,
            ),
        )
        self.import_undos = ImportUndos(
            installation,
            self.imports,
            UndoTarget(
                *(backend.engine, backend.state, self.applier, self.lock),
                append=backend.append,
                logs=backend.written,
            ),
        )
        self.uploads = Uploads(self)
        self.alerts = make_alerts(self)
        self._background = BackgroundTasks(self)
        add_gauges(self)

    @classmethod
    def open(
        cls,
        settings: Settings,
        build: Callable[..., Recommender],
        *,
        consumers: Mapping[str, CoCommittedConsumer] | None = None,
        statistics: PrivateStatistics | None = None,
        rebuild: bool = False,
    ) -> Platform:
        """Open the data directory and assemble a platform.

        Args:
            settings: checked settings.
            build: called as ``build(engine=…, settings=…)``; makes the recommender.
            consumers: co-committed consumers of the engine, by name.
            statistics: published statistics, if any.
            rebuild: delete the engine's state and compute it again from the log.

        Raises:
            StorageError: if the directory cannot be used, another process uses it, or its parts do
                not belong together.
            StreamingError: if features, log or state cannot be used; see `tactful_streaming`.
        """
        resources = open_resources(
            settings, build, consumers=consumers or {}, statistics=statistics, rebuild=rebuild
        )
        try:
            return cls(resources)
        except BaseException:
            resources.closing.close()
            raise

    async def start(self, *, refresh: Callable[[], None] | None = None) -> None:
        """Start to write, to apply and to refresh, on the running event loop.

        Args:
            refresh: takes over models and items, in a thread; None: the recommender's own.
        """
        recommender, reading = self.recommender, YieldingLock(self.lock.inner)
        self.recent.begin()
        self.applier.start()
        await self._background.start(refresh or (lambda: recommender.refresh(reading)))
        self.uploads.resume()
        self._status = "ok"

    async def stop(self) -> None:
        """Write, apply and commit everything that was accepted, then close all stores."""
        self._status = "stopping"
        self._background.cancel()
        await self.uploads.stop()
        self.ingest.flush_internal()  # entries of cancelled tasks are written, too
        await self._background.ended()
        await self.model_commands.stop()
        await asyncio.to_thread(self._end_alerts)
        await asyncio.gather(*self.recent.waiting, return_exceptions=True)
        await self.backend.commit.close()
        await asyncio.to_thread(self.applier.stop)
        await asyncio.to_thread(self.imports.flush)
        await asyncio.to_thread(self.close)

    def _end_alerts(self) -> None:
        try:
            self.alerts.close()
        except StorageError as error:
            logger.warning("the state of alerts was not saved: %s", error)

    def close(self) -> None:
        """Close all stores, as they are."""
        self.search.close()
        self.resources.closing.close()

    def check(self) -> None:
        """Raise `ProblemError` while the engine recovers, and after it failed."""
        self.applier.check()

    @property
    def position(self) -> Position:
        """Log position up to which everything is visible."""
        return self.recommendations.position

    def health(self) -> Health:
        """Return whether it is ready for traffic, and if not, why; it tries the disk.

        While a broker or an online store is unreachable, it stays ready: recommendations continue
        as well as possible, and a check names the store.
        """
        applier = self.applier
        behind = applier.recovering or not self.recommendations.ready
        engine = applier.failure or ("catching up" if behind else "ok")
        status = self._status
        if status == "ok" and engine != "ok":
            status = "failed" if applier.failure else "starting"
        checks = {"engine": engine}
        if problem := self.backend.problem():
            checks["log"] = problem
        if problem := self.backend.unwritable():
            checks["log"] = problem
            status = "failed" if status == "ok" else status
        if (shared := self.backend.shared) is not None and shared.problem:
            checks["online"] = shared.problem
        if self.engine.missing:
            checks["features"] = f"{len(self.engine.missing)} are to be computed by a backfill"
        workers = None if self.workers is None else self.workers()
        if workers is not None:
            ready = sum(worker.state == "ready" for worker in workers)
            total = len(workers)
            checks["workers"] = "ok" if ready == total else f"{ready} of {total} ready"
        return Health(status=status, version=self.version, checks=checks, workers=workers)

    def system(self) -> SystemInfo:
        """Describe the server and its machine; called in a thread."""
        return describe_system(self)

    def jobs(self) -> list[JobInfo]:
        """List the long jobs of the installation, newest first; called in a thread."""
        return list_jobs(self)

    def lists(self) -> AbstractContextManager[ItemLists]:
        """Hold the items as they are, to list some of them; for a moment."""
        return self.recommendations.lists()

    def features(self, user: str, at: int | None) -> UserFeatures:
        """Return the features of one user as of `at` (epoch ms), or now."""
        self.check()
        time = self.resources.installation.clock() if at is None else at
        with self.lock:
            features = self.backend.source.read("user", user, time)
            position = self.position
        return UserFeatures(
            user_id=user,
            at=time,
            position=position,
            features=dict(features),
            meanings=self._meanings,
        )

    @cached_property
    def _meanings(self) -> list[FeatureMeaning]:
        """What the features of users compute."""
        return meanings(load_definitions(self.settings.features))

    def export(self, user: str) -> PersonExport:
        """Return everything that is stored about a user; called in a thread.

        Raises:
            StorageError: if the metadata cannot be used.
            StreamingError: if log or state cannot be read.
        """
        installation = self.resources.installation
        with self.backend.searched() as partitions:
            # A log in files is searched faster through its files.
            kafka = not self.settings.log.in_files
            return export_person(
                self.settings,
                installation.metadata,
                user,
                clock=installation.clock,
                search=search_partitions(partitions) if kafka else None,
            )

    def find_people(
        self, identifiers: Collection[Identifier]
    ) -> Mapping[Identifier, PersonMatches]:
        """Return the users of identifiers; called in a thread, raises as `export`."""
        installation = self.resources.installation
        with self.backend.searched() as partitions, contextlib.ExitStack() as stack:
            if self.settings.log.in_files:
                search = stack.enter_context(search_log(self.settings, clock=installation.clock))
            else:
                search = search_partitions(partitions)
            erased = self.suppression.suppressed
            return look_up(search, identifiers, erased=erased, minimise=self.minimise)

    def request_erasures(self, requests: Sequence[ErasureRequest], by: str) -> list[ErasureResult]:
        """Request the erasure of many users; called in a thread, raises as `export`."""
        return request_erasures(self.resources.installation, requests, self.find_people, by=by)

    def preview_undo(self, found: Import) -> UndoPreview:
        """Count what the undo of an import takes out; called in a thread, raises as `export`."""
        log = self.backend.written.get("log")
        return preview_undo(self.settings, found, self.model_log, log)

    def undo_problem(self) -> str:
        """Return why no import can be undone; empty if it can."""
        return problem_of(self.settings, self.backend.written.get("log"))

    def publish_rollouts(self) -> None:
        """Make the present stages known to all recommenders, or raise `StorageError`."""
        publish_rollouts(self.settings, self.rollouts)

    def _make_applier(self) -> LogApplier:
        backend = self.backend
        applier = LogApplier(
            backend.followed,
            self.engine,
            self.lock.inner,
            self.metrics,
            ApplierOptions(
                settings=self.settings.engine,
                permits=lambda key: Purpose.MARKETING in self.permissions.of_key(key),
                commit_idle=self.statistics is not None,
                sends_ticks=self.settings.statistics.clock == "wall",
                written_until=self._written_until,
                reads=lambda: self.lock.uses,
            ),
            progressed=lambda: self.visibility.progressed(),
            append=backend.append,
            letters=backend.letters,
        )
        if self.statistics is not None:
            self.statistics.counter.applied_until = lambda: applier.applied_until
        return applier

    def _written_until(self) -> int:
        """Return the time before which all accepted records are in the log; 0 while unknown."""
        now = self.resources.installation.clock()
        if self.backend.problem() is not None or self.backend.spooled():
            return 0  # some may wait for the broker
        return self.ingest.unwritten_since or now

    def _ingest_options(self) -> IngestOptions:
        limits = self.settings.limits
        return IngestOptions(
            limits=Limits(
                max_bytes=limits.body_bytes, max_batch=limits.batch, future_ms=limits.future_ms
            ),
            engine_lag=limits.engine_lag,
            reserved=frozenset((*emitted_types(self.engine.definitions).values(), OFFER, WITHHELD)),
            reserved_ids=(IMPRESSION_ID, OFFER_ID),
            ids=self._ids,
            minimise=self.minimise,
            permit=self.permissions.restricted,
            repeats=self.backend.rules is not None,
            describe=partial(record_described, self.consents, self.permissions),
        )

    def _user_features(self, user: str, at: int) -> Mapping[str, Any]:
        with self.lock:
            return dict(self.backend.source.read("user", user, at))

    def _keys_of(self, event: Event) -> Collection[str]:
        """Return the keys of an event's user: as named, and by device links."""
        keys = {*named_keys(event)}
        with self.lock:
            keys.update([self.engine.resolve(key, event.timestamp) for key in keys])
            if event.user_id is not None:
                devices = self.engine.devices_of(event.user_id)
                keys.update(DEVICE_PREFIX + device for device in devices)
        return keys

    def _measures(self, event: Event) -> bool:
        """Whether the present consent of an event's user allows to count it."""
        claim = claimed(event.context.get(CLAIM)) if event.context else None
        allowed = self.permissions.of(event.user_id, event.device_id, event.timestamp, claim)
        return Purpose.MEASUREMENT in allowed
