"""The assembled platform: log, engine, keys, door and recommender in one process.

Everything here lives on one event loop, except some threads: one writes the log (its group commit,
or the client of Kafka), one applies it (`tactful.pipeline.applier`), one may tell others of actions. A
recommendation is computed on the event loop, under the lock that the engine thread holds while it
applies a micro-batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry

from tactful.config.settings import PACKAGED_FEATURES, Settings
from tactful.coupons.decisions import CouponIssuer
from tactful.coupons.definitions import OFFER, WITHHELD, CouponDefinition, load_coupons
from tactful.erasure.erase import complete_erasures, settle_erasures
from tactful.erasure.live_stores import LiveStores
from tactful.erasure.online import OnlineErasures
from tactful.errors import ModelError, StorageError, TactfulError
from tactful.experiments.controller import RolloutController, apply_file, write_served
from tactful.experiments.serving import FILE
from tactful.experiments.store import RolloutStore
from tactful.maintenance.retention import Retention, expire_state
from tactful.metadata.api_keys import KeyStore
from tactful.metadata.connections import open_keys
from tactful.metadata.directory_lock import exclusive
from tactful.metadata.store import MetadataStore
from tactful.metrics.registry import Metrics
from tactful.models.audit_log import ModelLog
from tactful.models.record_rollout import Recorder
from tactful.models.schedule import retrain
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.backends import Backend, open_backend
from tactful.pipeline.ingest import EventIngest, IngestOptions
from tactful.pipeline.recent_lists import RecentRecommendations
from tactful.pipeline.visibility import VisibilityTracker
from tactful.pipeline.webhooks import Webhooks
from tactful.ranking.features import absent_features
from tactful.recommend.anonymous import NOT_PERSONALISED, for_everybody
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.health import Health, WorkerHealth
from tactful.schemas.positions import Position, parse, reaches
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import Explanation, Recommendation, RecommendRequest
from tactful.schemas.users import PersonExport, UserFeatures
from tactful.server.admission import Turnstile
from tactful.server.gauges import add_gauges
from tactful.server.protocols import Recommender, Statistics
from tactful.subjects.consent import ConsentStore, default_purposes
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.subjects.export import export_person
from tactful.subjects.installation import Installation
from tactful.subjects.permissions import CLAIM, Permissions, claimed
from tactful.subjects.suppression import SuppressionStore, open_suppression
from tactful.subjects.trace_search import search_partitions
from tactful.util.clock import now_ms
from tactful.util.periodic import repeat
from tactful.util.yielding_lock import GivingWay
from tactful_bandits.errors import ExperimentError
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import Event, User
from tactful_streaming.contract.wire import Limits
from tactful_streaming.definitions.model import dump_definitions, emitted_types
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.consumers import CoCommittedConsumer
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import StreamingError

logger = logging.getLogger(__name__)

_REFRESH_S = 0.25  # a new item shows within a second, whatever else goes on
_TRIM_S = 60.0
_SETTLE_S = 5.0
_DROP_S = 30.0
_LOOK_S = 5.0
_GIVE_S = 0.25
_EXPLAINED_RECORDS = 200_000


class Platform:
    """One running installation.

    Attributes:
        settings: as given.
        metrics: what it counts.
        keys: its API keys.
        consents: what people have agreed to.
        suppression: people who were erased.
        erasures: what is to be removed of them, and receipts.
        permissions: what follows from that for an event or a request.
        backend: its log, and who computes its features.
        engine: its feature engine; read it with `lock` held.
        lock: what readers of the engine hold.
        online_erasures: what removes erased people while the server is in use.
        ingest: accepts events, items and users.
        recommender: who recommends.
        statistics: what is published, if anything.
        model_log: who changed which model, where that is kept.
        rollouts: changes that are rolled out in stages.
        version: of the software.
        workers: tells how the processes are that answer requests, where there are any.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        backend: Backend,
        keys: KeyStore,
        consents: ConsentStore,
        suppression: SuppressionStore,
        erasures: ErasureJobs,
        database: MetadataStore,
        recommender: Recommender,
        statistics: Statistics | None = None,
        webhooks: Webhooks | None = None,
        model_log: ModelLog | None = None,
        coupons: Sequence[CouponDefinition] = (),
        clock: Callable[[], int],
    ) -> None:
        """Assemble a platform from its parts, which it closes at its end.

        Args:
            settings: checked settings.
            backend: log and engine.
            keys: API keys.
            consents: what people have agreed to.
            suppression: people who were erased.
            erasures: what is to be removed of them, and receipts.
            database: the metadata, where all of these are kept.
            recommender: who recommends.
            statistics: published statistics, if any.
            webhooks: who tells others of actions, if anybody does.
            model_log: who changed which model, where that is kept.
            coupons: campaigns, if there are any.
            clock: now in epoch milliseconds.
        """
        limits, server = settings.limits, settings.server
        self.settings = settings
        self.metrics = Metrics(CollectorRegistry())
        self.keys = keys
        self.consents = consents
        self.suppression = suppression
        self.permissions = Permissions(
            consents.consents, backend.engine.resolve, suppression.suppressed
        )
        self.erasures = erasures
        self._metadata = database
        self.backend = backend
        self.engine: Engine = backend.engine
        self.lock = threading.Lock()
        self.recommender = recommender
        self.statistics = statistics
        self.model_log = model_log
        self.rollouts = RolloutStore(database, clock=clock)
        self.coupons: CouponIssuer | None = None
        if coupons:
            self.coupons = CouponIssuer(
                coupons, database, backend.partitions(), features=self._known, clock=clock
            )
        self.version = metadata.version("tactful")
        self._clock = clock
        self._webhooks = webhooks
        self._keeper = RolloutController(
            self.rollouts,
            backend.partitions,
            every_ms=int(settings.recommend.look_minutes * 60_000),
            clock=clock,
            allows=self._measures,
        )
        self._visible = VisibilityTracker(lambda: self._applier.applied, backend.shared)
        self._applier = LogApplier(
            backend.followed,
            backend.engine,
            self.lock,
            settings.engine,
            self.metrics,
            progressed=self._visible.progressed,
            append=backend.append,
            letters=backend.letters,
            permits=lambda key: Purpose.MARKETING in self.permissions.of_key(key),
            commit_idle=statistics is not None,
            tells_time=settings.statistics.clock == "wall",
        )
        self.ingest = EventIngest(
            backend,
            self._applier,
            self.metrics,
            IngestOptions(
                limits=Limits(
                    max_bytes=limits.body_bytes, max_batch=limits.batch, future_ms=limits.future_ms
                ),
                engine_lag=limits.engine_lag,
                stamps=backend.rules is not None,
                reserved=frozenset(emitted_types(backend.engine.definitions).values())
                | frozenset((OFFER, WITHHELD) if coupons else ()),
                permit=self.permissions.restricted,
                describe=self._take_decisions,
            ),
            clock=clock,
        )
        self._lists = RecentRecommendations(self.ingest, backend)
        self.online_erasures = OnlineErasures(
            Installation(settings, database, suppression, clock),
            backend.written,
            running=LiveStores(
                backend.engine,
                backend.state,
                self._applier,
                self.lock,
                consents=consents,
                webhooks=webhooks,
                drop_lists=self._lists.forget,
                keeper=self._keeper,
            ),
        )
        self._retention: Retention | None = None
        if (log := backend.written.get("log")) is not None:
            self._retention = Retention(
                settings, log, models=model_log, metadata=database, clock=clock
            )
        self._turnstile = Turnstile(
            queue=server.recommend_queue,
            wait_s=server.recommend_wait_s,
            standing_s=server.recommend_standing_s,
        )
        self._follow: Callable[[], None] = lambda: None
        self._status = "starting"
        self._current = False
        self._guard = contextlib.ExitStack()
        self.workers: Callable[[], list[WorkerHealth]] | None = None
        add_gauges(
            self.metrics,
            backend,
            self._applier,
            self._turnstile,
            webhooks,
            lock=self.lock,
            clock=clock,
        )

    @classmethod
    def open(
        cls,
        settings: Settings,
        build: Callable[..., Recommender],
        *,
        consumers: Mapping[str, CoCommittedConsumer] | None = None,
        statistics: Statistics | None = None,
        rebuild: bool = False,
    ) -> Platform:
        """Open the data directory and assemble a platform on the embedded stores.

        Args:
            settings: checked settings.
            build: called as ``build(engine=…, settings=…)``; makes the recommender.
            consumers: passengers of the engine, by name.
            statistics: published statistics, if any.
            rebuild: throw the engine's state away and compute it again from the log.

        Raises:
            StorageError: if the directory cannot be used, another process uses it, or its parts do
                not belong together.
            StreamingError: if features, log or state cannot be used; see `tactful_streaming`.
        """
        definitions = load_definitions(settings.features)
        if absent := absent_features(definitions):
            logger.warning(
                "%s lacks features that lists are made from, and each of them counts as nothing: "
                "%s. If there are to be lists, copy their lines from %s",
                *(settings.features, ", ".join(absent), PACKAGED_FEATURES),
            )
        with contextlib.ExitStack() as stack:
            data = settings.storage.data
            stack.enter_context(exclusive(data))
            metadata, keys = stack.enter_context(open_keys(settings))
            installation = Installation(
                settings, metadata, open_suppression(settings, metadata, clock=now_ms), now_ms
            )
            complete_erasures(installation)
            expire_state(settings, clock=now_ms)
            backend = open_backend(
                settings,
                definitions,
                stack,
                consumers=consumers or {},
                suppressed=installation.suppression.suppressed,
                rebuild=rebuild,
            )
            metadata.record_definitions(
                definitions.fingerprint, dump_definitions(definitions), applied_by="tactful serve"
            )
            webhooks: Webhooks | None = None
            types: Collection[str] = emitted_types(definitions).values()
            coupons: list[CouponDefinition] = []
            if settings.coupons.definitions != Path():
                coupons = load_coupons(settings.coupons.definitions, actions=types)
                # The shop is told of what was decided, and no more of what is only asked.
                types = ({*types} - {each.trigger for each in coupons}) | {OFFER}
            if settings.actions.webhook_url and types:
                webhooks = Webhooks(
                    settings.actions,
                    backend.partitions(),
                    types,
                    data / "webhooks",
                    clock=now_ms,
                    suppressed=installation.suppression.suppressed,
                )
                stack.callback(webhooks.close)
            rollouts = RolloutStore(metadata, clock=now_ms)
            if settings.recommend.rollouts != Path():
                apply_file(rollouts, settings.recommend.rollouts)
            write_served(data / FILE, rollouts.all())
            recommender = build(engine=backend.source, settings=settings)
            stack.callback(recommender.close)
            platform = cls(
                settings,
                backend=backend,
                keys=keys,
                consents=ConsentStore(metadata, default_purposes(settings), clock=now_ms),
                suppression=installation.suppression,
                erasures=installation.jobs,
                database=metadata,
                recommender=recommender,
                statistics=statistics,
                webhooks=webhooks,
                model_log=ModelLog(metadata, clock=now_ms),
                coupons=coupons,
                clock=now_ms,
            )
            platform._guard = stack.pop_all()
        return platform

    async def start(self, *, refresh: Callable[[], None] | None = None) -> None:
        """Start to write, to apply and to refresh, on the running event loop.

        Args:
            refresh: follows models and items, in a thread; None: the recommender does.
        """
        self._follow = refresh or partial(self.recommender.refresh, GivingWay(self.lock))
        self._lists.begin()
        self._applier.start()
        await self._take_in()
        if self._webhooks is not None:
            self._webhooks.start()
        self._tasks = [asyncio.create_task(each) for each in self._upkeep()]
        self._status = "ok"

    async def stop(self) -> None:
        """Write, apply and commit everything that was accepted, then close all stores."""
        self._status = "stopping"
        self.online_erasures.stop()
        if self._retention is not None:
            self._retention.stopping = True
        for task in self._tasks:
            task.cancel()
        self.ingest.flush_internal()  # a task that is cancelled leaves nothing behind to wait for
        await asyncio.gather(*self._tasks, *self._lists.waiting, return_exceptions=True)
        await self.backend.commit.close()
        await asyncio.to_thread(self._applier.stop)
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """Close all stores, as they are."""
        self._guard.close()

    @property
    def position(self) -> Position:
        """Log position up to which everything is visible."""
        return self.backend.show(self._visible.offsets)

    def health(self) -> Health:
        """Whether it is ready for traffic, and if not, why.

        A log or an online store that is away is told, but recommendations go on as well as they
        can: it stays ready.
        """
        applier = self._applier
        behind = applier.recovering or not self._current
        engine = applier.failure or ("catching up" if behind else "ok")
        status = self._status
        if status == "ok" and engine != "ok":
            status = "failed" if applier.failure else "starting"
        checks = {"engine": engine}
        if problem := self.backend.problem():
            checks["log"] = problem
        if (shared := self.backend.shared) is not None and shared.problem:
            checks["online"] = shared.problem
        if self.engine.missing:
            checks["features"] = f"{len(self.engine.missing)} are to be computed by a backfill"
        workers = None if self.workers is None else self.workers()
        if workers is not None:
            ready = sum(worker.state == "ready" for worker in workers)
            of = len(workers)
            checks["workers"] = "ok" if ready == of else f"{ready} of {of} ready"
        return Health(status=status, version=self.version, checks=checks, workers=workers)

    async def recommend(self, request: RecommendRequest, *, trusted: bool) -> Recommendation:
        """Answer one request.

        Args:
            request: as decoded.
            trusted: whether the caller may choose time and arms.

        Raises:
            ProblemError: if the caller may not, or it cannot be answered in time.
        """
        started = time.perf_counter()
        self._applier.check()
        if not self._current:
            raise ProblemError("not_ready", "the items of the log are being read", retry_after=1)
        if not trusted and (request.force or request.timestamp is not None or request.explain):
            raise ProblemError(
                "missing_scope",
                "`timestamp`, `force` and `explain` need a key with the scope 'admin'",
            )
        try:
            asked = request.timestamp
            now = self._clock() if asked is None else to_milliseconds(asked)
        except ValueError as error:
            raise ProblemError("invalid", str(error), field="$.timestamp") from None
        if request.after is not None:
            await self.reach(request.after)
        async with self._turnstile:
            with self.lock:
                asked_by = request
                if not self.permissions.personalises(request, now):
                    request = for_everybody(request)
                answer, impression = self.recommender.answer(request, now=now)
                position = self.position
            if request is not asked_by:
                answer = msgspec.structs.replace(answer, fallback=NOT_PERSONALISED)
        if impression is not None and not request.explain:
            # After the answer is sent, and before anything else is read.
            noted = partial(self._note, answer.recommendation_id, impression)
            asyncio.get_running_loop().call_soon(noted)
        elif impression is not None:
            self._note(answer.recommendation_id, impression)
            explanation = await self.explain(answer.recommendation_id)
            answer = msgspec.structs.replace(answer, explanation=explanation)
        took = (time.perf_counter() - started) * 1000
        return msgspec.structs.replace(answer, position=position, took_ms=round(took, 3))

    async def explain(self, recommendation_id: str) -> Explanation:
        """Say how a list came about that was given lately.

        Args:
            recommendation_id: of the list.

        Raises:
            ProblemError: if it is neither among the latest lists nor among the latest records of
                the log, or cannot be explained.
        """
        impression = await self._lists.find(recommendation_id)
        if impression is None:
            raise ProblemError(
                "not_found", "no list of this id was given lately: only recent ones are explained"
            )
        try:
            return await asyncio.to_thread(self.recommender.explain, impression)
        except ModelError as error:
            raise ProblemError("not_found", str(error)) from None

    def features(self, user: str, at: int | None) -> UserFeatures:
        """The features of one user as of `at` (epoch ms), or now."""
        self._applier.check()
        moment = self._clock() if at is None else at
        with self.lock:
            features = self.backend.source.read("user", user, moment)
            position = self.position
        return UserFeatures(user_id=user, at=moment, position=position, features=dict(features))

    def export(self, person: str) -> PersonExport:
        """All there is of a person; called in a thread.

        Raises:
            StorageError: if the metadata cannot be used.
            StreamingError: if log or state cannot be read.
        """
        with self.backend.searched() as partitions:
            # Files are searched faster as such.
            kafka = self.settings.log.kind == "kafka"
            return export_person(
                self.settings,
                self._metadata,
                person,
                clock=self._clock,
                search=search_partitions(partitions) if kafka else None,
            )

    async def applied(self, position: Position, timeout: float) -> bool:
        """Wait until the log is applied up to `position`.

        Returns:
            Whether that happened within `timeout` seconds.

        Raises:
            ValueError: if it is no position.
        """
        return await self._visible.reach(parse(position), timeout)

    def check(self) -> None:
        """Refuse work while the engine cannot do it.

        Raises:
            ProblemError: while it recovers, and after it died.
        """
        self._applier.check()

    async def reach(self, position: Position) -> None:
        """Wait until the log is applied up to a position that an answer gave.

        Raises:
            ProblemError: if none did, or that takes too long.
        """
        try:
            wanted = parse(position)
        except ValueError as error:
            raise ProblemError("invalid", str(error), field="$.after") from None
        # In a log that others write, too, only a partition that is none can be told from a far one.
        ends = self.backend.ends()
        known = isinstance(position, int) == isinstance(self.position, int)
        if isinstance(position, int):
            known = known and reaches(ends, wanted)
        if not known or not wanted.keys() <= ends.keys():
            raise ProblemError("invalid", "no answer has given this position", field="$.after")
        if not await self.applied(position, self.settings.server.after_wait_s):
            self._applier.check()
            raise ProblemError("not_caught_up", retry_after=1)

    def note(self, recommendation_id: str, impression: bytes) -> None:
        """Log a list that is shown, and keep it for a while to be explained."""
        self._lists.note(recommendation_id, impression)

    def _note(self, recommendation_id: str, impression: Callable[[], bytes]) -> None:
        self.note(recommendation_id, impression())

    def _upkeep(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What is done again and again until the server stops."""
        settings, recommend = self.settings, self.settings.recommend
        cleaning = (StorageError, StreamingError, OSError, BrokenExecutor)
        yield self._refresh()
        yield repeat(
            _TRIM_S,
            partial(asyncio.to_thread, self._forget),
            failures=cleaning,
            told="nothing was trimmed",
        )
        yield repeat(
            _SETTLE_S,
            partial(asyncio.to_thread, self.online_erasures.run),
            failures=cleaning,
            told="no erasure went on",
        )
        recorder = Recorder(settings, self.rollouts) if recommend.record_rollouts else None
        yield repeat(
            min(recommend.look_minutes * 60 / 4, _LOOK_S),
            partial(self._look, recorder),
            failures=(TactfulError, StreamingError, ExperimentError, OSError),
            told="no look was taken at rollouts",
        )
        if self.coupons is not None:
            yield self._give(self.coupons)
        if settings.log.kind == "kafka":
            installation = Installation(settings, self._metadata, self.suppression, self._clock)
            yield repeat(
                _SETTLE_S,
                partial(asyncio.to_thread, settle_erasures, installation),
                failures=(StorageError,),
                told="no erasure was completed",
            )
        if settings.training.every_hours or settings.training.drift_psi:
            yield retrain(settings)

    async def _refresh(self) -> None:
        """Follow what other processes change: models, keys, and how far workers are."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await asyncio.to_thread(self._follow_metadata)
            except Exception as error:
                logger.warning("API keys and consent are as they were: %s", error)
            await self._visible.look_at_marks()
            await self._take_in()

    def _follow_metadata(self) -> None:
        self.suppression.refresh()
        self.consents.refresh()
        self.keys.refresh()
        self.follow_rollouts()

    def follow_rollouts(self) -> None:
        """Let lists know how far rollouts are now.

        Raises:
            StorageError: if that cannot be read or written.
        """
        write_served(self.settings.storage.data / FILE, self.rollouts.all())

    def _known(self, person: str, at: int) -> Mapping[str, Any]:
        """What is known of a person at a time."""
        with self.lock:
            return dict(self.backend.source.read("user", person, at))

    async def _give(self, desk: CouponIssuer) -> None:
        """Decide about coupons, and let the log know."""
        while True:
            try:
                made = await asyncio.to_thread(desk.run)
                await asyncio.gather(*map(self.ingest.append_internal, made))
                await asyncio.to_thread(desk.settle)
                if made:
                    continue
            except (TactfulError, StreamingError, ExperimentError, ProblemError, OSError) as error:
                logger.warning("no coupon was decided: %s", error)
                desk.rewind()
            await asyncio.sleep(_GIVE_S)

    def _measures(self, event: Event) -> bool:
        """Whether an event may be counted, by what its person says now."""
        said = claimed(event.context.get(CLAIM)) if event.context else None
        of = self.permissions.of
        return Purpose.MEASUREMENT in of(event.user_id, event.device_id, event.timestamp, said)

    async def _take_decisions(self, users: Sequence[User]) -> Collection[str]:
        """Record what descriptions of people say of consent, before anybody reads them.

        Returns:
            Ids of those of whom nothing may be kept.

        Raises:
            ProblemError: if that cannot be kept: then the descriptions are not taken, either.
        """
        erased = self.permissions.is_erased
        described = {u.user_id: u.properties for u in users if not erased(u.user_id)}
        news = self.consents.news(described)
        record = partial(self.consents.record_many, news, source="users")
        try:
            if news:
                await asyncio.to_thread(record)
        except StorageError as error:
            logger.error("consent cannot be recorded: %s", error)
            raise ProblemError(
                "not_ready", "consent cannot be recorded now; send it again", retry_after=2
            ) from None
        of_key = self.permissions.of_key
        return {user.user_id for user in users if Purpose.SERVICE not in of_key(user.user_id)}

    async def _take_in(self) -> None:
        """Let lists know the models and items of now; the first time makes the server ready."""
        recovered = not self._applier.recovering
        try:
            await asyncio.to_thread(self._follow)
        except Exception as error:
            logger.exception("refresh failed with %s; the old state is kept", error)
        self._current |= recovered

    async def _look(self, recorder: Recorder | None) -> None:
        """Look at rollouts, move them by what people do, and keep how they ended."""
        if await asyncio.to_thread(self._keeper.run):
            await asyncio.to_thread(self.follow_rollouts)
        if recorder is not None:
            await recorder.run()

    def _forget(self) -> None:
        """Forget what retention gives up, as far as nobody needs it any more."""
        self.trim()
        if self._retention is not None:
            self._retention.run(self._needed)

    @property
    def _needed(self) -> int:
        needed = self._applier.committed
        if self.coupons is not None:
            needed = min(needed, *self.coupons.needed)
        return needed if self._webhooks is None else min(needed, *self._webhooks.positions)

    def trim(self) -> None:
        """Forget log records, dead letters and late events that retention gives up.

        What the engine has not committed stays, and what webhooks have not looked at.
        """
        self.backend.trim(self._needed)
        for letters in (self.backend.dead_letters, self.backend.late):
            if letters is not None:
                letters.trim()
