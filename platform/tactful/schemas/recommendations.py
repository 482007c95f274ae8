"""Requests for recommendations, their responses and explanations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tactful.schemas.fields import MAX_BATCH, MAX_COUNT, Identifier, Moment, Scalar
from tactful.schemas.item_filter import ItemFilter
from tactful.schemas.positions import Position
from tactful.schemas.problems import Problem

NOT_PERSONALISED = "this person has not agreed to personalisation: the list everybody gets"
"""Fallback of a recommendation for a user whose history must not be read."""


_Finite = Annotated[float, Meta(ge=-1e30, le=1e30)]


class Candidate(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An item to rank, such as a search result; larger numbers are better.

    Attributes:
        item_id: the item.
        score: the caller's score of any scale; the caller's order, if every candidate has one, else
            all three numbers are orders.
        text_match: how well a text matches.
        vector_match: how near a vector is.
    """

    item_id: Identifier
    score: _Finite | None = None
    text_match: _Finite | None = None
    vector_match: _Finite | None = None


OVERLOADED = "the server is busy: a recommendation that is not personal"
"""Fallback of a recommendation that was made instead of a refusal."""


class RecommendRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A request for recommendations.

    Without `user_id`, `device_id` and `items` the recommendation is the same for every caller.

    Attributes:
        user_id: user.
        device_id: first-party device id, where the user is not known.
        session_id: visit.
        item_id: item of the page: it counts as the latest of the visit, and is not returned.
        items: history that the caller brings, the latest item last. It counts as a visit, and
            neither it nor the answer is stored: there is no explanation later.
        candidates: rank these and no others, and leave none out, known or not.
        count: number of items, 1 to 1,000.
        context: page, locale, app and others.
        exclude: item ids not to return.
        category: return only items of this category.
        filter: return only items that pass this condition, such as
            ``{"field": "colour", "in": ["red", "blue"]}``.
        discovery: least share of the places for items that are new to the user; the one that the
            training chose, if not given.
        min_price: return only items with a known price of at least this.
        max_price: return only items with a known price of at most this.
        exclude_seen: leave out the items of this visit, the user's latest 50, and all taken ones.
        exclude_taken: leave out all items that the user put into a cart or bought.
        intent: weight by category, at most 32: categories that a device predicts its user is
            looking for. It adds candidates, raises items of these categories by their weight, and
            restricts nothing. More than 1 in all is scaled to 1.
        timestamp: time to answer for, not in the future. With an admin key and in ``--dev`` it is a
            replay, and the answer is logged as shown then; otherwise the answer is not logged.
        as_of: ``last``: answer for the time of the latest event, where data end long ago. The
            answer is not logged.
        after: answer only when the engine has applied the log up to this position.
        force: experiment key to arm to use (admin keys and ``--dev`` only, for tests).
        explain: return an explanation, too (admin keys and ``--dev`` only: it contains personal
            data).
    """

    user_id: Identifier | None = None
    device_id: Identifier | None = None
    session_id: Identifier | None = None
    item_id: Identifier | None = None
    items: Annotated[tuple[Identifier, ...], Meta(max_length=200)] = ()
    candidates: Annotated[tuple[Candidate, ...], Meta(max_length=MAX_COUNT)] = ()
    count: Annotated[int, Meta(ge=1, le=MAX_COUNT)] = 20
    context: Annotated[dict[Identifier, Scalar], Meta(max_length=64)] = {}
    exclude: Annotated[tuple[Identifier, ...], Meta(max_length=1000)] = ()
    category: Identifier | None = None
    filter: ItemFilter | None = None
    discovery: Annotated[float, Meta(ge=0, le=1)] | None = None
    min_price: Annotated[float, Meta(ge=0)] | None = None
    max_price: Annotated[float, Meta(ge=0)] | None = None
    exclude_seen: bool = False
    exclude_taken: bool = False
    intent: Annotated[
        dict[Identifier, Annotated[float, Meta(ge=0, le=1)]], Meta(max_length=32)
    ] = {}
    timestamp: Moment | None = None
    as_of: Literal["last"] | None = None
    after: (
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | Annotated[str, Meta(max_length=32_768)] | None
    ) = None
    force: Annotated[dict[Identifier, Identifier], Meta(max_length=64)] = {}
    explain: bool = False

    @property
    def subject(self) -> str | None:
        """Key of the `user` entity in the feature engine; None without user and device."""
        if self.user_id is not None:
            return self.user_id
        return None if self.device_id is None else f"device:{self.device_id}"

    @property
    def brought(self) -> tuple[str, ...]:
        """Items that the request itself names as the latest of the visit, the latest last."""
        return self.items if self.item_id is None else (*self.items, self.item_id)

    def cheaper(self) -> RecommendRequest | None:
        """Copy the request without all that takes long; None if its filters need the user."""
        if self.exclude_seen or self.exclude_taken or self.explain:
            return None
        return msgspec.structs.replace(self.anonymous(), item_id=None, intent={}, force={})

    def anonymous(self) -> RecommendRequest:
        """Copy the request without user, device, visit and history; page and filters stay."""
        return msgspec.structs.replace(
            self, user_id=None, device_id=None, session_id=None, items=(), discovery=None
        )


class RecommendedItem(msgspec.Struct, kw_only=True, frozen=True):
    """One recommended item.

    Attributes:
        item_id: the item.
        score: value of the item, comparable within one response only. Items are in this order,
            best first, except those that diversity, placement rules and exploration move.
        channel: recall channel that found it.
    """

    item_id: str
    score: float
    channel: str


class ExplainedItem(msgspec.Struct, kw_only=True, frozen=True):
    """Explanation of one recommended item.

    Attributes:
        item_id: the item.
        channel: recall channel that found it.
        score: value that items were ordered by.
        intent: factor by which the intent of the request changed the chance of the item; a score
            by a model contains its logarithm. None without an intent.
        margin: output of the model; the sum of `base` and the contributions.
        features: features by name; None for a value that does not exist.
        contributions: contribution of each feature to the margin, by name.
    """

    item_id: str
    channel: str | None = None
    score: float | None = None
    intent: float | None = None
    margin: float | None = None
    features: dict[str, float | None] | None = None
    contributions: dict[str, float | None] | None = None


class Explanation(msgspec.Struct, kw_only=True, frozen=True):
    """Explanation of a recommendation. It contains personal data.

    Attributes:
        recommendation_id: id of the recommendation.
        at: its time, epoch milliseconds.
        ranking: ``learned`` by a model or ``heuristic``.
        model_version: model that ranked the items.
        experiment: experiment that chose the ranking.
        arm: arm of the user; None for none.
        forced: whether the caller chose the arm.
        propensity: probability of this arm in the experiment.
        base: margin of the model before any feature; the same for every item.
        items: in the order they were shown.
        rules: logged filters, weights, caps and others.
        note: missing parts, and the reason.
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
        recommendation_id: send it with events that follow from this recommendation.
        items: best first.
        model_version: model that ranked the items.
        variant: experiment key to arm.
        position: log position up to which events had been applied.
        fallback: reason why there are few items or none is personal; None otherwise.
        took_ms: time in the server, waiting included.
        explanation: explanation, if requested.
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
        recommendation: the response.
        problem: reason why there is none.
    """

    recommendation: Recommendation | None = None
    problem: Problem | None = None


class RecommendBatch(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a batch, in the order of the requests."""

    results: list[BatchResult]
