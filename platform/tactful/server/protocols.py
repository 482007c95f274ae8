"""Interfaces of the recommender and the statistics that a platform receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

from tactful.schemas.conclusion_query import ConclusionQuery
from tactful.schemas.recommendations import Explanation, Recommendation, RecommendRequest
from tactful.schemas.statistics import Conclusion, StatisticsIndex, StatisticsPage
from tactful.statistics.ledger_view import PrivacyLedger
from tactful_streaming.contract.log_entries import Event


class Recommender(Protocol):
    """Makes recommendations from features and models."""

    def answer(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, Callable[[], bytes] | None]:
        """Answer `request` at the time `now` (epoch ms), in a few milliseconds.

        It is called with the read lock held. The second value encodes the impression for the log;
        it is called once, after the response is sent and before the next request.
        """

    def refresh(self, reading: AbstractContextManager[object]) -> None:
        """Take over a new model and new items; called several times a second in a thread.

        Hold `reading` while the engine is read, and never for long.
        """

    def explain(self, impression: Event) -> Explanation:
        """Explain a logged impression; called in a thread.

        Raises:
            ModelError: if it cannot be explained.
        """

    def describe(self) -> Mapping[str, Any]:
        """Return the models in use and the number of items."""

    def close(self) -> None:
        """Release its files; it is not called any more."""


class Statistics(Protocol):
    """Published private statistics."""

    def index(self) -> StatisticsIndex:
        """Return the published statistics."""

    def page(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> StatisticsPage:
        """Return one page of the panes of `name` that start in [since, until), epoch ms.

        Raises:
            KeyError: if there is no such statistic.
            ValueError: if the cursor is invalid.
        """

    def ledger(self) -> PrivacyLedger:
        """Return the privacy loss of this month."""

    def conclude(self, name: str, conclusion: str, query: ConclusionQuery) -> Conclusion:
        """Draw a conclusion from the panes of `name`.

        Raises:
            KeyError: if there is no such statistic or conclusion.
            ValueError: if it cannot be drawn; the message gives the reason.
        """
