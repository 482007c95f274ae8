"""What a platform asks of the parts that it is given."""

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
    """What answers requests for recommendations."""

    def answer(
        self, request: RecommendRequest, *, now: int
    ) -> tuple[Recommendation, Callable[[], bytes] | None]:
        """Answer `request` as of `now` (epoch ms), in a few milliseconds.

        Called with the read lock held. The second value encodes the impression for the log; it is
        called once, after the answer is sent and before the next request.
        """

    def refresh(self, reading: AbstractContextManager[object]) -> None:
        """Take over a new model if there is one; called about once a second in a thread.

        `reading` is to be held while the engine is read, and never for long.
        """

    def explain(self, impression: Event) -> Explanation:
        """Say how a logged list came about; called in a thread.

        Raises:
            ModelError: if it is none that can be explained.
        """

    def describe(self) -> Mapping[str, Any]:
        """Which models are in use."""

    def close(self) -> None:
        """Give free what only one process may hold; nothing is asked of it any more."""


class Statistics(Protocol):
    """Published private statistics."""

    def index(self) -> StatisticsIndex:
        """What is published."""

    def page(
        self, name: str, cursor: str | None, limit: int, since: int | None, until: int | None
    ) -> StatisticsPage:
        """One page of the panes of `name` that start in [since, until), epoch ms.

        Raises:
            KeyError: if there is no such statistic.
            ValueError: if the cursor is not one of ours.
        """

    def ledger(self) -> PrivacyLedger:
        """What published numbers have cost this month."""

    def conclude(self, name: str, conclusion: str, query: ConclusionQuery) -> Conclusion:
        """Conclude something from the panes of `name`.

        Raises:
            KeyError: if there is no such statistic or conclusion.
            ValueError: if it cannot be drawn; the message says why.
        """
