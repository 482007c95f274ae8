"""Background tasks of a running server, on its event loop and in threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import BrokenExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tactful.catalogue.changes import feed_of
from tactful.config.privacy import retention_limits
from tactful.coupons.decisions import CouponIssuer
from tactful.erasure.erase import settle_erasures
from tactful.errors import ConfigError, StorageError, TactfulError, TrainingBusy
from tactful.experiment_metrics.watch import MetricWatch
from tactful.maintenance.retention import Retention
from tactful.metadata.api_keys import DAY_MS, KeyUse
from tactful.metrics.history import STEP_S
from tactful.models.encode_catalogue import CatalogueEncoder
from tactful.models.quality_process import QualityMeasurer
from tactful.models.record_rollout import Recorder
from tactful.models.schedule import RecallLearner, retrain
from tactful.schemas.problems import ProblemError
from tactful.server.flink_job import LOOK_S
from tactful.util.changed_file import ChangedFile
from tactful.util.checkpoint import Checkpoint
from tactful.util.yielding_lock import YieldingLock
from tactful_bandits.errors import ExperimentError
from tactful_streaming.contract.log_entries import encode_entry
from tactful_streaming.errors import StreamingError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

Work = Callable[[], Awaitable[object]]
Failures = tuple[type[Exception], ...]

logger = logging.getLogger(__name__)

_REFRESH_S = 0.25  # a new item is recommended within a second, whatever else runs
_USES_S = 10.0
_TRIM_S = 60.0
_ERASE_S = 5.0
_ROLLOUT_S = 5.0
_COUPON_S = 0.25
_BANDIT_S = 0.5
_STAGES_S = 1.0
_ROOT = "tactful"


class BackgroundTasks:
    """Periodic work of one server.

    Attribute `encoding` encodes items; None if no encoder is set, or the command does so. Tasks
    with a star are those of the one server that holds the lease.

    =========  ====================================================================
    every      task
    =========  ====================================================================
    0.25 s     read keys, consent, rollouts, models and items that have changed
    0.25 s     decide about coupons *
    0.5 s      learn bandits from the log, and publish what was learnt
    1 s        read the life cycles of some users on, and write changes of stage *
    5 s        continue erasures and undos of imports; hand erasures on *
    5 s        move rollouts to their next stage; record changed analyses of `metrics.yaml`, and
               once an hour judge their guardrails *
    5 s        read the health of the Flink job, if `engine.kind` is `flink`
    10 s       keep a point of the server's own metrics; save uses of API keys
    15 s       evaluate alerts and send their messages *
    20 s       learn recall from the log, while there is no champion
    60 s       delete records that are older than the retention time; note uses of flags
    60 min     measure the quality of logged recommendations
    60 s       encode new items, if `understanding` names an encoder
    hours      train, if `training.every_hours` or `training.drift_psi` is set *
    =========  ====================================================================
    """

    def __init__(self, platform: Platform) -> None:
        """Prepare; nothing runs before `start`."""
        self._platform = platform
        self._tasks: list[asyncio.Task[None]] = []
        self._retention: Retention | None = None
        self.encoding = _catalogue_encoder(platform)
        self._reader = platform.metrics.reader()
        self._errors = ErrorCounter(platform.metrics.errors.inc)
        self._planned = False  # whether the file of rollouts was applied
        installation = platform.resources.installation
        self._watch = MetricWatch(
            platform.metric_read_outs,
            installation.metadata,
            clock=installation.clock,
            rollouts=lambda: {stored.key for stored in platform.rollouts.all()},
            changed=ChangedFile(platform.settings.experiment_metrics).changed,
        )
        if (log := platform.backend.written.get("log")) is not None:
            self._retention = Retention(
                platform.settings,
                log,
                models=platform.model_log,
                metadata=installation.metadata,
                clock=installation.clock,
            )

    async def start(self, refresh: Callable[[], None]) -> None:
        """Refresh once, and then start all tasks on the running event loop.

        `refresh` takes over new models and items; it runs in a thread.
        """
        self._refresh_recommender = refresh
        logging.getLogger(_ROOT).addHandler(self._errors)
        await self._refresh_models()
        self._platform.key_counters.saved([], self._platform.keys.uses().values())
        if self._platform.resources.webhooks is not None:
            self._platform.resources.webhooks.start()
        self._tasks = [asyncio.create_task(work) for work in self._work()]

    def cancel(self) -> None:
        """Cancel all tasks; threads that erase or trim end at their next step."""
        self._platform.online_erasures.stop()
        self._platform.import_undos.stop()
        if self._retention is not None:
            self._retention.stopping = True
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait for the end of all tasks."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        logging.getLogger(_ROOT).removeHandler(self._errors)

    def _work(self) -> Iterator[Coroutine[Any, Any, None]]:
        platform, run = self._platform, asyncio.to_thread
        settings, recommend = platform.settings, platform.settings.recommend
        cleaning = (StorageError, StreamingError, OSError, BrokenExecutor)

        def again(
            seconds: float, work: Work, failures: Failures, message: str, task: str
        ) -> Coroutine[Any, Any, None]:
            return _repeat(seconds, work, failures, message, partial(platform.metrics.failed, task))

        def alone(work: Work) -> Work:
            return partial(self._alone, work)

        yield self._refresh()
        yield again(_USES_S, self.save_uses, (StorageError,), "no use of keys was saved", "keys")
        yield again(_TRIM_S, partial(run, self._trim), cleaning, "nothing was trimmed", "trim")
        uses = platform.flags.uses.store
        yield again(_TRIM_S, partial(run, uses), (StorageError,), "no use was noted", "flags")
        erase = platform.online_erasures.run
        yield again(_ERASE_S, partial(run, erase), cleaning, "no erasure continued", "erasure")
        undo = platform.import_undos.run
        yield again(_ERASE_S, partial(run, undo), cleaning, "no undo went on", "import_undo")
        yield again(STEP_S, self._keep_metrics, (StorageError,), "metrics were not kept", "metrics")
        recorder = Recorder(settings, platform.rollouts) if recommend.record_rollouts else None
        yield again(
            min(recommend.look_minutes * 60 / 4, _ROLLOUT_S),
            alone(partial(self._control_rollouts, recorder)),
            (TactfulError, StreamingError, ExperimentError, OSError),
            "rollouts were not evaluated",
            "rollouts",
        )
        learn = partial(run, platform.bandits.learn)
        learning = (TactfulError, StreamingError, ExperimentError, OSError)
        yield again(_BANDIT_S, learn, learning, "no bandit was learnt", "bandits")
        if platform.coupons is not None:
            yield self._issue(platform.coupons)
        if settings.lifecycle.every_minutes:
            steps = (TactfulError, StreamingError, ProblemError, OSError)
            yield again(_STAGES_S, self._follow_stages, steps, "no stage was followed", "lifecycle")
        if not settings.log.in_files or platform.notices.receivers:
            installation = platform.resources.installation
            settle = alone(partial(run, settle_erasures, installation, platform.notices))
            yield again(_ERASE_S, settle, (StorageError,), "no erasure was completed", "receivers")
        if platform.flink is not None:
            look = partial(run, platform.flink.look)
            yield again(LOOK_S, look, (Exception,), "the Flink job was not read", "flink")
        if settings.alerts.enabled:
            evaluate = partial(run, platform.alerts.run)
            every = settings.alerts.every_s
            yield again(every, evaluate, (Exception,), "no alert was evaluated", "alerts")
        if settings.training.recall_seconds:
            logs = platform.backend.partitions
            yield again(
                settings.training.recall_seconds,
                RecallLearner(settings, lambda: [log.end for log in logs()]).run,
                (TactfulError, StreamingError, OSError),
                "recall was not learned",
                "recall",
            )
        if settings.training.quality_minutes:
            logs = platform.backend.partitions
            yield again(
                settings.training.quality_minutes * 60,
                QualityMeasurer(settings, lambda: [log.end for log in logs()]).run,
                (TactfulError, StreamingError, OSError),
                "the live quality was not measured",
                "quality",
            )
        if self.encoding is not None:
            failing = (TactfulError, StreamingError, OSError)
            every = settings.understanding.every_s
            encode = partial(self._encode_items, self.encoding)
            yield again(every, encode, failing, "no item was encoded", "encode")
        if settings.training.every_hours or settings.training.drift_psi:
            yield retrain(settings, platform.lease)

    async def _alone(self, work: Work) -> None:
        """Do what one of several servers does, while this one has the lease."""
        if self._platform.lease.held:
            await work()

    async def save_uses(self) -> None:
        """Save which keys were used today, and what those with limits have sent."""
        keys, counters = self._platform.keys, self._platform.key_counters
        today = self._platform.resources.installation.clock() // DAY_MS
        counted, used = counters.unsaved(), keys.take_uses()
        first = {use.key_id for use in counted}
        uses = [*counted, *(KeyUse(key, today, 0, 0) for key in used if key not in first)]
        try:
            totals = await asyncio.to_thread(keys.record_uses, uses)
        except StorageError:
            keys.note_uses(used)
            raise
        counters.saved(counted, [total for total in totals if total.key_id in first])

    async def _encode_items(self, encoding: CatalogueEncoder) -> None:
        """Encode once all items of the log are read: vectors and pictures of others are deleted."""
        if self._platform.recommendations.ready and self._platform.applier.failure is None:
            await encoding.run()

    async def _keep_metrics(self) -> None:
        """Add the present metrics to the history, on the disk in a thread."""
        now = self._platform.resources.installation.clock()
        await asyncio.to_thread(self._platform.history.add, now, self._reader.take())

    async def _refresh(self) -> None:
        """Read the changes of other processes: models, keys, and offsets of workers."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await asyncio.to_thread(self._refresh_metadata)
            except Exception as error:
                logger.warning("API keys and consent were not refreshed: %s", error)
            self._platform.flags.service.announce()
            await self._platform.visibility.read_marks()
            await self._refresh_models()

    def _refresh_metadata(self) -> None:
        platform = self._platform
        platform.suppression.refresh()
        platform.consents.refresh()
        platform.domains.stored.refresh()
        platform.keys.refresh()
        platform.imports.flush()
        platform.publish_rollouts()
        platform.flags.refresh()

    async def _refresh_models(self) -> None:
        """Take over new models and items; the first time makes the server ready."""
        recovered = not self._platform.applier.recovering
        try:
            await asyncio.to_thread(self._refresh_recommender)
        except Exception as error:
            logger.exception("refresh failed with %s; the old state is kept", error)
        self._platform.recommendations.ready |= recovered

    async def _issue(self, coupons: CouponIssuer) -> None:
        """Decide about coupons, and write the decisions to the log."""
        fence = self._platform.lease.fence
        while True:
            try:
                if (held := self._platform.lease.fence) is None:
                    await asyncio.sleep(_COUPON_S)
                    continue
                if held != fence:  # another server may have decided meanwhile
                    await asyncio.to_thread(coupons.resume)
                    fence = held
                made = await asyncio.to_thread(coupons.run)
                await asyncio.gather(*map(self._platform.ingest.append_internal, made))
                await asyncio.to_thread(coupons.settle)
                if made:
                    continue
            except (TactfulError, StreamingError, ExperimentError, ProblemError, OSError) as error:
                logger.warning("no coupon was decided: %s", error)
                self._platform.metrics.failed("coupons")
                coupons.rewind()
            await asyncio.sleep(_COUPON_S)

    async def _follow_stages(self) -> None:
        """Read some users on, and write their changes of stage to the log."""
        changes = await asyncio.to_thread(self._platform.life_cycles.step)
        if not self._platform.lease.held:
            return
        writes = [self._platform.ingest.append_internal(encode_entry(it)) for it in changes]
        await asyncio.gather(*writes)

    async def _control_rollouts(self, recorder: Recorder | None) -> None:
        """Evaluate rollouts, move them by the outcome, and record those that ended.

        Guardrails of other experiments are judged, too.
        """
        if not self._planned:
            await asyncio.to_thread(self._plan_rollouts)
            self._planned = True
        if await asyncio.to_thread(self._platform.rollout_controller.run):
            await asyncio.to_thread(self._platform.publish_rollouts)
        if recorder is not None:
            await recorder.run()
        await asyncio.to_thread(self._watch.run)

    def _plan_rollouts(self) -> None:
        """Forecast and apply the rollouts of the file that the start has left out."""
        if (path := self._platform.settings.recommend.rollouts) == Path():
            return
        try:
            self._platform.planner.apply_file(path)
        except ConfigError as error:  # it was changed since the start
            logger.warning("no rollout was planned: %s", error)
        self._platform.publish_rollouts()

    def _trim(self) -> None:
        """Delete log records, dead letters and late events beyond their retention.

        Records stay that the engine has not committed, or that webhooks or coupons have not read.
        """
        backend = self._platform.backend
        backend.trim(self._needed)
        for letters in (backend.dead_letters, backend.late):
            if letters is not None:
                letters.trim()
        if self._retention is not None:
            self._retention.run(self._needed)
        platform = self._platform
        limits = retention_limits(platform.settings.retention)
        platform.domains.expire(limits.get("personalisation"))
        training = self._platform.settings.models / "training"
        if training.is_dir():
            with contextlib.suppress(TrainingBusy), Checkpoint.hold(training) as checkpoint:
                checkpoint.discard_old()

    @property
    def _needed(self) -> int:
        needed = self._platform.applier.committed
        if self._platform.coupons is not None:
            needed = min(needed, *self._platform.coupons.needed)
        webhooks = self._platform.resources.webhooks
        return needed if webhooks is None else min([needed, *webhooks.positions])


class ErrorCounter(logging.Handler):
    """Log handler that counts lines of errors; others it drops."""

    def __init__(self, count: Callable[[], None]) -> None:
        """Call `count` for each error, in the thread that logs it."""
        super().__init__(logging.ERROR)
        self._count = count

    def emit(self, record: logging.LogRecord) -> None:
        """Count one line."""
        self._count()


def _catalogue_encoder(platform: Platform) -> CatalogueEncoder | None:
    chosen = platform.settings.understanding
    if not ((chosen.text_model or chosen.picture_model) and chosen.background):
        return None
    feed, reading = feed_of(platform.backend.source), YieldingLock(platform.lock.inner)
    return CatalogueEncoder(platform.settings, partial(feed.changes, reading))


async def _repeat(
    seconds: float, work: Work, failures: Failures, message: str, failed: Callable[[], None]
) -> None:
    """Run `work` for ever, with a pause before each run; log `failures` and call `failed`.

    Other errors end the loop.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except failures as error:
            logger.warning("%s: %s", message, error)
            failed()
