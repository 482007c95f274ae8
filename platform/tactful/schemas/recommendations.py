"""Requests for recommendations, their responses and explanations."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tactful.schemas.fields import MAX_BATCH, MAX_COUNT, Identifier, Moment, Scalar
from tactful.schemas.positions import Position
from tactful.schemas.problems import Problem

NOT_PERSONALISED = "this person has not agreed to personalisation: the list everybody gets"
"""Fallback of a recommendation for a user whose history must not be read."""


class RecommendRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request for recommendations.

    Without `user_id` and `device_id` the answer is the same for everybody.

    Attributes:
        user_id: whom it is for.
        device_id: first-party device id, where the person is not known.
        session_id: the visit it belongs to.
        count: how many items to return, 1 to 1,000.
        context: where it will be shown: page, locale, app…
        exclude: item ids not to return.
        category: return only items of this category.
        min_price: return only items that cost as much at least; a price must be known.
        max_price: return only items that cost as much at most; a price must be known.
        exclude_seen: leave out the items of this visit, the person's latest 50 and all they took.
        exclude_taken: leave out what the person ever put into a cart or bought.
        intent: weight by category, at most 32: what a device believes its person is looking for.
            It adds candidates, and restricts nothing.
        timestamp: answer as of this time (admin keys and ``--dev`` only, for replays).
        after: answer only when the engine has applied the log up to this position.
        force: experiment key to arm to use (admin keys and ``--dev`` only, for tests).
        explain: return how the list came about, too (admin keys and ``--dev`` only: it holds what
            is known of the person).
    """

    user_id: Identifier | None = None
    device_id: Identifier | None = None
    session_id: Identifier | None = None
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 20
    context: Annotated[dict[Identifier, Scalar], Meta(max_length=64)] = {}
    exclude: Annotated[tuple[Identifier, ...], Meta(max_length=1000)] = ()
    category: Identifier | None = None
    min_price: Annotated[float, Meta(ge=0)] | None = None
    max_price: Annotated[float, Meta(ge=0)] | None = None
    exclude_seen: bool = False
    exclude_taken: bool = False
    intent: Annotated[
        dict[Identifier, Annotated[float, Meta(ge=0, le=1)]], Meta(max_length=32)
    ] = {}
    timestamp: Moment | None = None
    after: Annotated[int, Meta(ge=0)] | Annotated[str, Meta(max_length=32_768)] | None = None
    force: Annotated[dict[Identifier, Identifier], Meta(max_length=64)] = {}
    explain: bool = False

    @property
    def subject(self) -> str | None:
        """Key of the `user` entity in the feature engine; None when nobody is named."""
        if self.user_id is not None:
            return self.user_id
        return None if self.device_id is None else f"device:{self.device_id}"

    def anonymous(self) -> RecommendRequest:
        """Copy the request without user, device and visit; page and filters stay."""
        return msgspec.structs.replace(self, user_id=None, device_id=None, session_id=None)


class RecommendedItem(msgspec.Struct, kw_only=True, frozen=True):
    """One recommended item.

    Attributes:
        item_id: the item.
        score: what the item is worth in this list, comparable within one answer only. The list is
            in this order, best first, but for what diversity, placement rules and exploration move.
        channel: which recall channel found it.
    """

    item_id: str
    score: float
    channel: str


class ExplainedItem(msgspec.Struct, kw_only=True, frozen=True):
    """How one item came to its place.

    Attributes:
        item_id: the item.
        channel: which recall channel found it.
        score: what the list was ordered by.
        margin: what the model alone said; the sum of `base` and the contributions.
        features: the values it was ranked by, by name; None for a value that does not exist.
        contributions: what each feature added to the margin, by name.
    """

    item_id: str
    channel: str | None = None
    score: float | None = None
    margin: float | None = None
    features: dict[str, float | None] | None = None
    contributions: dict[str, float | None] | None = None


class Explanation(msgspec.Struct, kw_only=True, frozen=True):
    """How a list came about. It holds what is known of a person.

    Attributes:
        recommendation_id: of the list.
        at: the moment it was given, epoch milliseconds.
        ranking: ``learned`` by a model or ``heuristic``.
        model_version: which model ranked it.
        experiment: the experiment that chose how it was ranked.
        arm: the person's arm in it; None for none.
        forced: whether the caller chose the arm.
        propensity: probability with which the experiment gives this arm.
        base: margin of the model before any feature; the same for every item.
        items: in the order they were shown.
        rules: what else took part, as it was logged: filters, weights, caps and others.
        note: what is missing here and why.
    """

    recommendation_id: str
    at: int
    ranking: str
    model_version: str
    experiment: str | None = None
    arm: str | None = None
    forced: bool = False
    propensity: float | None = None
    base: float | None = None
    items: list[ExplainedItem] = []
    rules: dict[str, Any] = {}
    note: str | None = None


class Recommendation(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a request for recommendations.

    Attributes:
        recommendation_id: send it back on events that follow from this list.
        items: best first.
        model_version: which model ranked it.
        variant: experiment key to arm.
        position: where in the log the events end that had been applied.
        fallback: why the list is short or not personal, in words; None when it is neither.
        took_ms: time in the server, waiting included.
        explanation: how it came about, when asked for.
    """

    recommendation_id: str
    items: list[RecommendedItem]
    model_version: str
    variant: dict[str, str] = {}
    position: Position = 0
    fallback: str | None = None
    took_ms: float = 0.0
    explanation: Explanation | None = None


class RecommendBatchRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Several requests at once.

    Attributes:
        requests: 1 to 100 requests.
    """

    requests: Annotated[list[RecommendRequest], Meta(min_length=1, max_length=MAX_BATCH)]


class BatchResult(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Answer to one request of a batch: one of the two is present.

    Attributes:
        recommendation: the answer.
        problem: why there is none.
    """

    recommendation: Recommendation | None = None
    problem: Problem | None = None


class RecommendBatch(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a batch, in the order of the requests."""

    results: list[BatchResult]
