"""Requests that try a recommendation out, and their answers: nothing of them is stored."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.elements import EVENT_TYPE_PATTERN
from tactful.schemas.fields import Identifier
from tactful.schemas.items import CatalogueItem
from tactful.schemas.recommendations import Recommendation, RecommendRequest
from tactful_streaming.contract.decode_requests import Properties

MOST_VARIANTS = 4
MOST_PAST_EVENTS = 200
_VERSION = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_YEAR_S = 366 * 86_400


class PastEvent(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An event of a made-up person.

    Attributes:
        item_id: item that the event is about, if any.
        type: kind of event, such as ``view`` or ``purchase``.
        seconds_ago: time before the time of the request, seconds.
        properties: price, quantity and others; the price of the item, if none is given.
    """

    item_id: Identifier | None = None
    type: Annotated[str, Meta(pattern=EVENT_TYPE_PATTERN, max_length=64)] = "view"
    seconds_ago: Annotated[float, Meta(ge=0, le=_YEAR_S)] = 0.0
    properties: Properties = {}


class MadeUpPerson(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A person who does not exist; features are computed from the events as for a real one.

    Attributes:
        events: events, in any order, 200 at most.
        properties: description of the person, such as country or age band.
    """

    events: Annotated[tuple[PastEvent, ...], Meta(max_length=MOST_PAST_EVENTS)] = ()
    properties: Properties = {}


class TrialVariant(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One way to answer: by the arms of experiments, or by a version of the model.

    Attributes:
        force: experiment key to arm; arms that are not named are those of the person.
        model: version that ranks instead of the champion, with the champion's candidates.
    """

    force: Annotated[dict[Identifier, Identifier], Meta(max_length=64)] = {}
    model: Annotated[str, Meta(pattern=_VERSION)] | None = None


class TrialRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A recommendation to try out.

    Attributes:
        request: the request, as of ``POST /v1/recommend``, with `timestamp` or `as_of` for another
            time. It names a real user or device, a history in `items`, or nobody.
        person: a made-up person instead of the user of the request.
        variants: ways to answer it, side by side: 1 to 4.
        channel_count: items that each recall channel lists by itself; 0 lists none.
    """

    request: RecommendRequest = RecommendRequest()
    person: MadeUpPerson | None = None
    variants: Annotated[tuple[TrialVariant, ...], Meta(min_length=1, max_length=MOST_VARIANTS)] = (
        TrialVariant(),
    )
    channel_count: Annotated[int, Meta(ge=0, le=100)] = 10


class ChannelList(msgspec.Struct, kw_only=True, frozen=True):
    """Items that one recall channel proposes by itself.

    Attributes:
        channel: its name.
        item_ids: its items, best first.
    """

    channel: str
    item_ids: list[str]


class TriedVariant(msgspec.Struct, kw_only=True, frozen=True):
    """Answer by one variant.

    Attributes:
        recommendation: the answer with its explanation. Its id was never logged.
        channels: proposals of each recall channel that has some, with the quotas of the arm.
    """

    recommendation: Recommendation
    channels: list[ChannelList] = []


class Trial(msgspec.Struct, kw_only=True, frozen=True):
    """A recommendation that was tried out. It contains personal data.

    Attributes:
        at: time that it was answered for, epoch milliseconds.
        variants: one answer for each variant, in their order.
        items: descriptions of all items in it, by id; an item without one is left out.
    """

    at: int
    variants: list[TriedVariant]
    items: dict[str, CatalogueItem]
