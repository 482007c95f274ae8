"""Background tasks of a running server, on its event loop and in threads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import BrokenExecutor
from functools import partial
from typing import Any

from tactful.coupons.decisions import CouponIssuer
from tactful.erasure.erase import settle_erasures
from tactful.erasure.running_server import OnlineErasures
from tactful.errors import StorageError, TactfulError
from tactful.experiments.controller import RolloutController
from tactful.maintenance.retention import Retention
from tactful.models.record_rollout import Recorder
from tactful.models.schedule import retrain
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.ingest import EventIngest
from tactful.schemas.problems import ProblemError
from tactful.server.recommendations import Recommendations, VisibilityTracker
from tactful.server.resources import Resources, publish_rollouts
from tactful_bandits.errors import ExperimentError
from tactful_streaming.errors import StreamingError

logger = logging.getLogger(__name__)

_REFRESH_S = 0.25  # a new item is recommended within a second, whatever else runs
_TRIM_S = 60.0
_ERASE_S = 5.0
_ROLLOUT_S = 5.0
_COUPON_S = 0.25


class BackgroundTasks:
    """Periodic work of one server.

    =========  ====================================================================
    every      task
    =========  ====================================================================
    0.25 s     read keys, consent, rollouts, models and items that have changed
    0.25 s     decide about coupons
    5 s        continue erasures; move rollouts to their next stage
    60 s       delete records that are older than the retention time
    hours      train, if `training.every_hours` or `training.drift_psi` is set
    =========  ====================================================================
    """

    def __init__(
        self,
        resources: Resources,
        *,
        applier: LogApplier,
        ingest: EventIngest,
        visibility: VisibilityTracker,
        recommendations: Recommendations,
        erasures: OnlineErasures,
        controller: RolloutController,
        coupons: CouponIssuer | None,
    ) -> None:
        """Prepare; nothing runs before `start`."""
        self._resources = resources
        self._applier = applier
        self._ingest = ingest
        self._visibility = visibility
        self._recommendations = recommendations
        self._erasures = erasures
        self._controller = controller
        self._coupons = coupons
        self._tasks: list[asyncio.Task[None]] = []
        self._retention: Retention | None = None
        installation = resources.installation
        if (log := resources.backend.written.get("log")) is not None:
            self._retention = Retention(
                installation.settings,
                log,
                models=resources.model_log,
                metadata=installation.metadata,
                clock=installation.clock,
            )

    async def start(self, refresh: Callable[[], None]) -> None:
        """Refresh once, and then start all tasks on the running event loop.

        Args:
            refresh: takes over new models and items; runs in a thread.
        """
        self._refresh_recommender = refresh
        await self._refresh_models()
        if self._resources.webhooks is not None:
            self._resources.webhooks.start()
        self._tasks = [asyncio.create_task(work) for work in self._work()]

    def cancel(self) -> None:
        """Cancel all tasks; threads that erase or trim end at their next step."""
        self._erasures.stop()
        if self._retention is not None:
            self._retention.stopping = True
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        """Wait for the end of all tasks."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _work(self) -> Iterator[Coroutine[Any, Any, None]]:
        installation = self._resources.installation
        settings, recommend = installation.settings, installation.settings.recommend
        cleaning = (StorageError, StreamingError, OSError, BrokenExecutor)
        yield self._refresh()
        yield _repeat(
            _TRIM_S,
            partial(asyncio.to_thread, self._trim),
            failures=cleaning,
            message="nothing was trimmed",
        )
        yield _repeat(
            _ERASE_S,
            partial(asyncio.to_thread, self._erasures.run),
            failures=cleaning,
            message="no erasure continued",
        )
        rollouts = self._resources.rollouts
        recorder = Recorder(settings, rollouts) if recommend.record_rollouts else None
        yield _repeat(
            min(recommend.look_minutes * 60 / 4, _ROLLOUT_S),
            partial(self._control_rollouts, recorder),
            failures=(TactfulError, StreamingError, ExperimentError, OSError),
            message="rollouts were not evaluated",
        )
        if self._coupons is not None:
            yield self._issue(self._coupons)
        if not settings.log.in_files:
            yield _repeat(
                _ERASE_S,
                partial(asyncio.to_thread, settle_erasures, installation),
                failures=(StorageError,),
                message="no erasure was completed",
            )
        if settings.training.every_hours or settings.training.drift_psi:
            yield retrain(settings)

    async def _refresh(self) -> None:
        """Read the changes of other processes: models, keys, and offsets of workers."""
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await asyncio.to_thread(self._refresh_metadata)
            except Exception as error:
                logger.warning("API keys and consent were not refreshed: %s", error)
            await self._visibility.read_marks()
            await self._refresh_models()

    def _refresh_metadata(self) -> None:
        resources = self._resources
        resources.installation.suppression.refresh()
        resources.consents.refresh()
        resources.keys.refresh()
        publish_rollouts(resources.installation.settings, resources.rollouts)

    async def _refresh_models(self) -> None:
        """Take over new models and items; the first time makes the server ready."""
        recovered = not self._applier.recovering
        try:
            await asyncio.to_thread(self._refresh_recommender)
        except Exception as error:
            logger.exception("refresh failed with %s; the old state is kept", error)
        self._recommendations.ready |= recovered

    async def _issue(self, coupons: CouponIssuer) -> None:
        """Decide about coupons, and write the decisions to the log."""
        while True:
            try:
                made = await asyncio.to_thread(coupons.run)
                await asyncio.gather(*map(self._ingest.append_internal, made))
                await asyncio.to_thread(coupons.settle)
                if made:
                    continue
            except (TactfulError, StreamingError, ExperimentError, ProblemError, OSError) as error:
                logger.warning("no coupon was decided: %s", error)
                coupons.rewind()
            await asyncio.sleep(_COUPON_S)

    async def _control_rollouts(self, recorder: Recorder | None) -> None:
        """Evaluate rollouts, move them by the outcome, and record those that ended."""
        if await asyncio.to_thread(self._controller.run):
            settings = self._resources.installation.settings
            await asyncio.to_thread(publish_rollouts, settings, self._resources.rollouts)
        if recorder is not None:
            await recorder.run()

    def _trim(self) -> None:
        """Delete log records, dead letters and late events beyond their retention.

        Records stay that the engine has not committed, or that webhooks or coupons have not read.
        """
        backend = self._resources.backend
        backend.trim(self._needed)
        for letters in (backend.dead_letters, backend.late):
            if letters is not None:
                letters.trim()
        if self._retention is not None:
            self._retention.run(self._needed)

    @property
    def _needed(self) -> int:
        needed = self._applier.committed
        if self._coupons is not None:
            needed = min(needed, *self._coupons.needed)
        webhooks = self._resources.webhooks
        return needed if webhooks is None else min(needed, *webhooks.positions)


async def _repeat(
    seconds: float,
    work: Callable[[], Awaitable[object]],
    *,
    failures: tuple[type[Exception], ...],
    message: str,
) -> None:
    """Run `work` for ever, with a pause before each run; log `failures`.

    Other errors end the loop.
    """
    while True:
        await asyncio.sleep(seconds)
        try:
            await work()
        except failures as error:
            logger.warning("%s: %s", message, error)
