"""Recommendations of a server: read-your-writes, admission, impressions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import msgspec

from tactful.catalogue.request_context import FeatureSource
from tactful.errors import ModelError
from tactful.event_log.impressions import logged_event
from tactful.metrics.registry import RecommendationKind
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.online_features import SharedFeatures
from tactful.pipeline.recent_lists import RecentRecommendations
from tactful.recommend.fallback import kind_of
from tactful.recommend.item_lists import ItemLists
from tactful.recommend.made_up import MADE_UP, made_up_engine
from tactful.recommend.trials import TrialOptions, check_trial
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.positions import Offsets, Position, parse, reaches
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    NOT_PERSONALISED,
    OVERLOADED,
    Explanation,
    Recommendation,
    RecommendRequest,
)
from tactful.schemas.trials import ChannelList, TrialRequest, TrialVariant, TriedVariant
from tactful.server.overload import AdmissionControl, CheaperAnswers
from tactful.server.resources import Resources
from tactful.subjects.permissions import Permissions
from tactful_streaming.contract.log_entries import Event

_MARKS_S = 0.003


class VisibilityTracker:
    """Tracks the offsets that features show, here and in the workers' online store."""

    def __init__(self, applier: LogApplier, shared: SharedFeatures | None = None) -> None:
        """Start without waiting requests; `shared` if workers compute features of users."""
        self._applier = applier
        self._shared = shared
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiters: list[tuple[Offsets, asyncio.Future[None]]] = []
        self._marks: Offsets = {}
        self._watching: asyncio.Task[None] | None = None

    @property
    def offsets(self) -> Offsets:
        """Visible offsets by partition."""
        applied = self._applier.applied
        if self._shared is None:
            return applied
        return {n: min(at, self._marks.get(n, 0)) for n, at in applied.items()}

    async def reach(self, wanted: Offsets, timeout: float) -> bool:
        """Wait for offsets; return whether they are visible within `timeout` seconds."""
        if reaches(self.offsets, wanted):
            return True
        self._loop = asyncio.get_running_loop()
        reached: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((wanted, reached))
        if self._shared is not None and self._watching is None:
            self._watching = asyncio.create_task(self._watch_marks(self._shared))
        self._wake()
        try:
            async with asyncio.timeout(timeout):
                await reached
        except TimeoutError:
            return False
        return True

    def progressed(self) -> None:
        """Wake waiting requests; called in the engine thread."""
        if self._waiters and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                self._loop.call_soon_threadsafe(self._wake)

    async def read_marks(self) -> None:
        """Read the workers' offsets from the online store."""
        if self._shared is not None:
            await self._look(self._shared, self._applier.applied)

    def _wake(self) -> None:
        offsets = self.offsets
        waiting: list[tuple[Offsets, asyncio.Future[None]]] = []
        for wanted, reached in self._waiters:
            if reached.done():
                continue
            if reaches(offsets, wanted):
                reached.set_result(None)
            else:
                waiting.append((wanted, reached))
        self._waiters = waiting

    async def _watch_marks(self, shared: SharedFeatures) -> None:
        """Read the workers' offsets while requests wait."""
        try:
            while self._waiters:
                await self._look(shared, {part for wanted, _ in self._waiters for part in wanted})
                self._wake()
                await asyncio.sleep(_MARKS_S)
        finally:
            self._watching = None

    async def _look(self, shared: SharedFeatures, partitions: Iterable[int]) -> None:
        with contextlib.suppress(ProblemError):
            marks = await asyncio.to_thread(shared.marks, list(partitions))
            self._marks = {**self._marks, **marks}


class Recommendations:
    """Answers requests for recommendations, on the event loop.

    Steps of one request::

        after   ->  admission  ->  lock: consent, recommender  ->  response  ->  impression
        (waits      (queue or 503)                                               (log, recent)
        for the log)
    """

    def __init__(
        self,
        resources: Resources,
        applier: LogApplier,
        visibility: VisibilityTracker,
        recent: RecentRecommendations,
        permissions: Permissions,
        lock: AbstractContextManager[object],
        count: Callable[[RecommendationKind], None],
    ) -> None:
        """Recommend from `resources`; `lock` is held while the engine is read.

        `count` is called with the kind of each recommendation.
        """
        server = resources.installation.settings.server
        self._recommender = resources.recommender
        self._backend = resources.backend
        self._clock = resources.installation.clock
        self._after_wait_s = server.after_wait_s
        self._future_ms = resources.installation.settings.limits.future_ms
        self._applier = applier
        self._visibility = visibility
        self._recent = recent
        self._permissions = permissions
        self._lock = lock
        self._count = count
        self.ready = False  # whether the recommender has read the items of the recovered log
        self.admission = AdmissionControl(server)  # queue of waiting requests
        self._cheaper = CheaperAnswers()

    @property
    def position(self) -> Position:
        """Log position up to which everything is visible."""
        return self._backend.show(self._visibility.offsets)

    async def recommend(
        self, request: RecommendRequest, *, trusted: bool, trial: bool = False
    ) -> Recommendation:
        """Answer one request; a `trusted` caller may choose arms, and replay.

        A `trial` is neither logged nor counted.

        Raises:
            ProblemError: if the caller may not, or it cannot be answered in time.
        """
        started = time.perf_counter()
        self.check_ready()
        now, logged = self._clock(), not trial
        if request.force or request.explain or request.timestamp is not None or request.as_of:
            request, is_shown = self._timed(request, now, trusted)
            logged &= is_shown
            now = now if request.timestamp is None else to_milliseconds(request.timestamp)
        if request.after is not None:
            await self.reach(request.after)
        try:
            async with self.admission:
                with self._lock:
                    personal = self._permissions.personalises(request, now)
                    answer, impression = self._recommender.answer(
                        request if personal else request.anonymous(), now=now
                    )
                    position = self.position
            fallback = answer.fallback if personal else NOT_PERSONALISED
        except ProblemError as refusal:
            cheaper = self._cheaper.of(request, refusal)
            with self._cheaper.counted(), self._lock:
                answer, _ = self._recommender.answer(cheaper, now=now)
                position = self.position
            impression, fallback = None, OVERLOADED
        if not trial:
            self._count(kind_of(fallback))
        identifier, note = answer.recommendation_id, self._recent.note
        if impression is not None and request.explain:
            encoded = impression()
            if logged:
                note(identifier, encoded)
            explanation = await self._explained(encoded)
            answer = msgspec.structs.replace(answer, explanation=explanation)
        elif impression is not None and logged:
            # After the response is sent, and before the next request is read.
            asyncio.get_running_loop().call_soon(lambda: note(identifier, impression()))
        took = (time.perf_counter() - started) * 1000
        return msgspec.structs.replace(
            answer, fallback=fallback, position=position, took_ms=round(took, 3)
        )

    async def attempt(self, trial: TrialRequest) -> tuple[int, list[TriedVariant]]:
        """Answer by each variant and explain it; nothing is logged, and no count changes.

        Returns:
            The time that was answered for, epoch milliseconds, and the answers.

        Raises:
            ProblemError: if the trial contradicts itself, or a version or an arm does not exist.
        """
        check_trial(trial)
        self.check_ready()
        now = self._clock()
        request, _ = self._timed(trial.request, now, trusted=True)
        at = now if request.timestamp is None else to_milliseconds(request.timestamp)
        if request.after is not None:
            await self.reach(request.after)
        for version in {variant.model for variant in trial.variants if variant.model}:
            try:
                await asyncio.to_thread(self._recommender.load_to_compare, version)
            except ModelError as error:
                raise ProblemError("invalid", str(error), field="$.variants") from None
        person = None
        if trial.person is not None:
            with self._lock:
                person = made_up_engine(self._backend.source, trial.person, at)
            request = msgspec.structs.replace(request, user_id=MADE_UP)
        return at, [await self._tried(trial, it, request, person, at) for it in trial.variants]

    async def _tried(
        self,
        trial: TrialRequest,
        variant: TrialVariant,
        request: RecommendRequest,
        person: FeatureSource | None,
        at: int,
    ) -> TriedVariant:
        request = msgspec.structs.replace(request, force=variant.force)
        options = TrialOptions(person, variant.model or "", trial.channel_count)
        with self._lock:
            personal = person is not None or self._permissions.personalises(request, at)
            asked = request if personal else request.anonymous()
            answer, impression, channels = self._recommender.attempt(asked, options, now=at)
            position = self.position
        explanation = None
        if impression is not None:
            explanation = await self._explained(impression)
        answer = msgspec.structs.replace(
            answer,
            explanation=explanation,
            position=position,
            fallback=answer.fallback if personal else NOT_PERSONALISED,
        )
        return TriedVariant(
            recommendation=answer,
            channels=[ChannelList(channel=name, item_ids=ids) for name, ids in channels.items()],
        )

    @contextmanager
    def lists(self) -> Iterator[ItemLists]:
        """Hold the items as they are, to list some of them; for a moment.

        Raises:
            ProblemError: if the items are not read yet.
        """
        self.check_ready()
        with self._lock, self._recommender.lists() as lists:
            yield lists

    def check_ready(self) -> None:
        """Raise `ProblemError` until the items of the log are read."""
        if self._applier.failure is not None or not self.ready:
            self._applier.check()
            raise ProblemError("not_ready", "the items of the log are being read", retry_after=1)

    async def find(self, recommendation_id: str) -> Event:
        """Return the event of a recent recommendation.

        Raises:
            ProblemError: if it is neither among the latest recommendations nor among the latest
                records of the log.
        """
        impression = await self._recent.find(recommendation_id)
        if impression is None:
            raise ProblemError(
                "not_found", "no recent recommendation has this id: only recent ones are explained"
            )
        return impression

    async def explain(self, impression: Event) -> Explanation:
        """Explain a recommendation by its event, or raise `ProblemError`."""
        try:
            return await asyncio.to_thread(self._recommender.explain, impression)
        except ModelError as error:
            raise ProblemError("not_found", str(error)) from None

    async def _explained(self, encoded: bytes) -> Explanation:
        impression = logged_event(encoded)
        assert impression is not None, "the recommender encodes events"
        return await self.explain(impression)

    def _timed(
        self, request: RecommendRequest, now: int, trusted: bool
    ) -> tuple[RecommendRequest, bool]:
        """Check who may choose time and arms; return the request with its time.

        The second value is whether the answer is logged as shown: at another time only a replay of
        a trusted caller is.
        """
        if not trusted and (request.force or request.explain):
            raise ProblemError(
                "missing_scope", "`force` and `explain` need a key with the scope 'admin'"
            )
        if request.as_of is not None:
            if request.timestamp is not None:
                raise ProblemError("invalid", "give `timestamp` or `as_of`", field="$.as_of")
            latest = self._recommender.latest_event
            at = min(latest + 1, now) if latest else now  # behind the latest event
            return msgspec.structs.replace(request, timestamp=at), False
        if request.timestamp is None:
            return request, True
        try:
            at = to_milliseconds(request.timestamp)
        except ValueError as error:
            raise ProblemError("invalid", str(error), field="$.timestamp") from None
        if not trusted and at > now + self._future_ms:
            raise ProblemError("invalid", "the time lies in the future", field="$.timestamp")
        return request, trusted

    async def applied(self, position: Position, timeout: float) -> bool:
        """Wait until the log is applied to `position`; False after `timeout` seconds.

        Raises:
            ValueError: if it is no position.
        """
        return await self._visibility.reach(parse(position), timeout)

    async def reach(self, position: Position) -> None:
        """Wait until the log is applied up to a position that an answer returned.

        Raises:
            ProblemError: if none did, or that takes too long.
        """
        try:
            wanted = parse(position)
        except ValueError as error:
            raise ProblemError("invalid", str(error), field="$.after") from None
        # Several servers may write to a log of several partitions: only its partitions are known.
        ends = self._backend.ends()
        known = isinstance(position, int) == isinstance(self.position, int)
        if isinstance(position, int):
            known = known and reaches(ends, wanted)
        if not known or not wanted.keys() <= ends.keys():
            raise ProblemError("invalid", "no answer has returned this position", field="$.after")
        if not await self.applied(position, self._after_wait_s):
            self._applier.check()
            raise ProblemError("not_caught_up", retry_after=1)
