"""Assembled platform: log, engine, keys, ingestion, recommender in one process.

Everything runs on one event loop, except some threads: one writes the log (its group commit, or
the client of Kafka), one applies it (`tactful.pipeline.applier`), one may send webhooks. A
recommendation is computed on the event loop, under the lock that the applier's thread holds while
it applies a micro-batch.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib import metadata

from prometheus_client import CollectorRegistry

from tactful.catalogue.item_search import ItemSearch
from tactful.config.settings import Settings
from tactful.erasure.receivers import ErasureNotices
from tactful.errors import StorageError
from tactful.event_log.recipients import open_ids
from tactful.http.credentials import open_tokens
from tactful.http.limits.key_limits import KeyCounters
from tactful.http.limits.rate_limits import RateLimits
from tactful.maintenance.import_undo import (
    preview_undo,
    problem_of,
)
from tactful.metadata.federated_runs import FederatedRunStore
from tactful.metadata.import_log import ImportLog
from tactful.metrics.history import FILE, MetricHistory
from tactful.metrics.registry import Metrics
from tactful.metrics.tracing import open_traces
from tactful.models.commands import ModelCommands
from tactful.pipeline.recent_lists import RecentRecommendations
from tactful.recommend.item_lists import ItemLists
from tactful.schemas.data.imports import Import, UndoPreview
from tactful.schemas.health import Health, WorkerHealth
from tactful.schemas.operations import JobInfo, SystemInfo
from tactful.schemas.positions import Position
from tactful.schemas.users import (
    ErasureRequest,
    ErasureResult,
    PersonExport,
    PersonMatches,
    UserFeatures,
)
from tactful.server.alerts import make_alerts
from tactful.server.background import BackgroundTasks
from tactful.server.bandits import BanditService
from tactful.server.coupons import make_coupons
from tactful.server.domains import DomainProfiles
from tactful.server.flags import ServerFlags
from tactful.server.flink_job import open_monitor
from tactful.server.gauges import add_gauges
from tactful.server.ingestion import make_applier, make_ingest
from tactful.server.lease_keeper import LeaseKeeper
from tactful.server.lifecycle import LifeCycles
from tactful.server.people import PersonData
from tactful.server.recommendations import Recommendations, VisibilityTracker
from tactful.server.removal import make_erasures, make_undos
from tactful.server.reports import make_reports
from tactful.server.resources import Recommender, Resources, open_resources, publish_rollouts
from tactful.server.search.search_thread import SearchThread
from tactful.server.search.searches import Searches
from tactful.server.sources import make_sources
from tactful.server.system import check_health, describe_system, list_jobs
from tactful.server.uploads import Uploads
from tactful.statistics.service import PrivateStatistics
from tactful.subjects.look_up import Identifier
from tactful.subjects.minimise import make_minimiser
from tactful.subjects.permissions import Permissions
from tactful.util.counted_lock import CountedLock
from tactful.util.yielding_lock import YieldingLock
from tactful_streaming.engine.options import CoCommittedConsumer

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
        lease: the lease on what one server alone may do.
        rates: rates of browser keys and devices.
        key_counters: counts of keys with limits of their own.
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
        people: reads the data of persons.
        ingest: accepts events, items and users.
        search: finds items by words.
        searches: answers searches by text, picture or voice.
        sources: accepts messages of other programs.
        recommender: makes recommendations; `recommendations` serves them.
        recommendations: answers requests for recommendations.
        recent: latest recommendations, to be explained.
        statistics: published statistics, if any.
        model_log: audit log of model changes.
        rollouts: changes that are rolled out in stages.
        rollout_controller: moves them from stage to stage.
        read_outs: reads the effects of rollouts and experiments.
        metric_read_outs: reads the effects on metrics of `metrics.yaml`.
        released_read_outs: reads them with noise, for people outside the trusted zone.
        worth: measures what personal recommendations are worth.
        tuner_reports: reports the tuners of rollouts.
        campaigns: reports the coupon campaigns, if there are any.
        life_cycles: stages of users, and how likely they return.
        domains: profiles that cross from and to other domains.
        coupons: decides about coupons, if there are campaigns.
        flags: values of flags and experiments for units.
        bandits: decides by bandits, and learns them.
        encoding: encodes items in a process; None if no encoder is set.
        flink: watches the Flink job; None without one.
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
        self.metrics = Metrics(CollectorRegistry(), tenant=settings.tenants.name)
        self.history = MetricHistory(settings.storage.data / FILE)
        resources.closing.callback(self.history.close)
        self.started_at = clock()
        self.lease, self._keeper = resources.lease, LeaseKeeper(resources.lease)
        resources.closing.callback(self._hand_over)
        self.rates = RateLimits(settings.limits)
        self.key_counters = KeyCounters(wall=clock)
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
        self.search = SearchThread(ItemSearch(backend.source, YieldingLock(self.lock.inner)))
        self.recommender = resources.recommender
        self.recommender.observe = self.metrics.stage
        self.statistics = resources.statistics
        if self.statistics is not None and self.statistics.counter.shared:
            self.statistics.counter.share(lambda: self.lease.fence)
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
        self.life_cycles = LifeCycles(self)
        self.domains = DomainProfiles(self)
        self.recommender.crossed = self.domains.profiles_of
        self.coupons = make_coupons(self, self._ids)
        self.flags = ServerFlags(self)
        reports = make_reports(resources, self.permissions, self._ids, self.coupons)
        self.rollout_controller, self.planner = reports.rollout_controller, reports.planner
        self.read_outs, self.tuner_reports = reports.read_outs, reports.tuner_reports
        self.metric_read_outs = reports.metric_read_outs
        self.released_read_outs = reports.released_read_outs
        self.worth, self.campaigns = reports.worth, reports.campaigns
        self.bandits = BanditService(self, self._ids)
        self._assemble()

    def _assemble(self) -> None:
        """Connect ingestion, log, engine, recommender and background tasks."""
        resources, backend = self.resources, self.backend
        self.applier = make_applier(self)
        self.visibility = VisibilityTracker(self.applier, backend.shared)
        self.ingest = make_ingest(self, self._ids)
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
        self.searches = Searches(self)
        self.notices = ErasureNotices(self.settings)
        self.online_erasures = make_erasures(self)
        self.import_undos = make_undos(self)
        self.people = PersonData(self)
        self.uploads = Uploads(self)
        self.alerts = make_alerts(self)
        self.flink = open_monitor(self.settings)
        self._background = BackgroundTasks(self)
        self.encoding = self._background.encoding
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
        await asyncio.to_thread(self._keeper.start)
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
        try:
            await self._background.save_uses()
        except StorageError as error:
            logger.warning("the last uses of keys were not saved: %s", error)
        await self.model_commands.stop()
        await asyncio.to_thread(self._end_alerts)
        await asyncio.gather(*self.recent.waiting, return_exceptions=True)
        await self.bandits.close()
        await self.backend.commit.close()
        await self.searches.stop()
        await asyncio.to_thread(self.applier.stop)
        await asyncio.to_thread(self.imports.flush)
        await asyncio.to_thread(self.close)

    def _end_alerts(self) -> None:
        try:
            self.alerts.close()
        except StorageError as error:
            logger.warning("the state of alerts was not saved: %s", error)

    def _hand_over(self) -> None:
        """Finish what this server alone may do, and let another one go on with it."""
        if self.resources.webhooks is not None:
            self.resources.webhooks.stop()
        self._keeper.close()

    def close(self) -> None:
        """Close all stores, as they are."""
        self.search.close()
        self.searches.close()
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
        return check_health(self, self._status)

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
        return self.people.features(user, at)

    def export(self, user: str) -> PersonExport:
        """Return everything that is stored about a user; called in a thread.

        Raises:
            StorageError: if the metadata cannot be used.
            StreamingError: if log or state cannot be read.
        """
        return self.people.export(user)

    def find_people(
        self, identifiers: Collection[Identifier]
    ) -> Mapping[Identifier, PersonMatches]:
        """Return the users of identifiers; called in a thread, raises as `export`."""
        return self.people.find(identifiers)

    def request_erasures(self, requests: Sequence[ErasureRequest], by: str) -> list[ErasureResult]:
        """Request the erasure of many users; called in a thread, raises as `export`."""
        return self.people.request_erasures(requests, by)

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
