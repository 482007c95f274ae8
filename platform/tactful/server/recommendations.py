"""Recommendations of a server: read-your-writes, admission, impressions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

import msgspec

from tactful.errors import ModelError
from tactful.pipeline.applier import LogApplier
from tactful.pipeline.recent_lists import RecentRecommendations
from tactful.pipeline.visibility import VisibilityTracker
from tactful.schemas.fields import to_milliseconds
from tactful.schemas.positions import Position, parse, reaches
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import (
    NOT_PERSONALISED,
    Explanation,
    Recommendation,
    RecommendRequest,
)
from tactful.server.overload import AdmissionControl
from tactful.server.resources import Resources
from tactful.subjects.permissions import Permissions


class Recommendations:
    """Answers requests for recommendations, on the event loop.

    Steps of one request::

        after   ->  admission  ->  lock: consent, recommender  ->  response  ->  impression
        (waits      (queue or 503)                                               (log, recent)
        for the log)

    Attributes:
        ready: whether the recommender has read the items of the recovered log.
        admission: queue of waiting requests.
    """

    def __init__(
        self,
        resources: Resources,
        applier: LogApplier,
        visibility: VisibilityTracker,
        recent: RecentRecommendations,
        permissions: Permissions,
        lock: threading.Lock,
    ) -> None:
        """Recommend from `resources`.

        Args:
            resources: open stores, with the recommender.
            applier: applies the log to the engine.
            visibility: log offsets that features include.
            recent: writes impressions to the log, and keeps the latest.
            permissions: say whose history may be read.
            lock: held while the engine is read.
        """
        server = resources.installation.settings.server
        self._recommender = resources.recommender
        self._backend = resources.backend
        self._clock = resources.installation.clock
        self._after_wait_s = server.after_wait_s
        self._applier = applier
        self._visibility = visibility
        self._recent = recent
        self._permissions = permissions
        self._lock = lock
        self.ready = False
        self.admission = AdmissionControl(server)

    @property
    def position(self) -> Position:
        """Log position up to which everything is visible."""
        return self._backend.show(self._visibility.offsets)

    async def recommend(self, request: RecommendRequest, *, trusted: bool) -> Recommendation:
        """Answer one request.

        Args:
            request: decoded request.
            trusted: whether the caller may choose time and arms.

        Raises:
            ProblemError: if the caller may not, or it cannot be answered in time.
        """
        started = time.perf_counter()
        self._applier.check()
        if not self.ready:
            raise ProblemError("not_ready", "the items of the log are being read", retry_after=1)
        now = self._clock()
        if request.force or request.timestamp is not None or request.explain:
            now = _time_of(request, now, trusted)
        if request.after is not None:
            await self.reach(request.after)
        async with self.admission:
            with self._lock:
                personal = self._permissions.personalises(request, now)
                answer, impression = self._recommender.answer(
                    request if personal else request.anonymous(), now=now
                )
                position = self.position
        if not personal:
            answer = msgspec.structs.replace(answer, fallback=NOT_PERSONALISED)
        if impression is not None and not request.explain:
            # After the response is sent, and before the next request is read.
            log = partial(self._log_encoded, answer.recommendation_id, impression)
            asyncio.get_running_loop().call_soon(log)
        elif impression is not None:
            self._log_encoded(answer.recommendation_id, impression)
            explanation = await self.explain(answer.recommendation_id)
            answer = msgspec.structs.replace(answer, explanation=explanation)
        took = (time.perf_counter() - started) * 1000
        return msgspec.structs.replace(answer, position=position, took_ms=round(took, 3))

    async def explain(self, recommendation_id: str) -> Explanation:
        """Explain a recent recommendation.

        Args:
            recommendation_id: id that was returned with it.

        Raises:
            ProblemError: if it is neither among the latest recommendations nor among the latest
                records of the log, or cannot be explained.
        """
        impression = await self._recent.find(recommendation_id)
        if impression is None:
            raise ProblemError(
                "not_found", "no recent recommendation has this id: only recent ones are explained"
            )
        try:
            return await asyncio.to_thread(self._recommender.explain, impression)
        except ModelError as error:
            raise ProblemError("not_found", str(error)) from None

    async def applied(self, position: Position, timeout: float) -> bool:
        """Wait until the log is applied up to `position`.

        Returns:
            Whether that happened within `timeout` seconds.

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

    def log_impression(self, recommendation_id: str, impression: bytes) -> None:
        """Append an impression to the log, and keep it for a while to be explained."""
        self._recent.note(recommendation_id, impression)

    def _log_encoded(self, recommendation_id: str, impression: Callable[[], bytes]) -> None:
        self.log_impression(recommendation_id, impression())


def _time_of(request: RecommendRequest, now: int, trusted: bool) -> int:
    """Return the time of a request with fields that only administrators may set."""
    if not trusted:
        raise ProblemError(
            "missing_scope",
            "`timestamp`, `force` and `explain` need a key with the scope 'admin'",
        )
    try:
        return now if request.timestamp is None else to_milliseconds(request.timestamp)
    except ValueError as error:
        raise ProblemError("invalid", str(error), field="$.timestamp") from None
