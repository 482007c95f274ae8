"""Impressions: recommendations that were shown, as events of the log.

The server logs every recommendation as an event of the type ``impression``: items in order, scores,
channels, model version, and the features of the ranking.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.event_log.batches import Record, read_batches
from tactful.schemas.recommendations import Recommendation, RecommendRequest
from tactful_bandits.assignment.assign import Assignment
from tactful_streaming.contract.log_entries import (
    PERSONALISATION,
    Entry,
    Event,
    decode_entry,
    encode_entry,
    event_for,
)
from tactful_streaming.errors import StreamingError
from tactful_streaming.log.event_log import EventLog

IMPRESSION_ID = "impression:"
"""Prefix of the event ids of the server's own impressions; clients must not send such ids."""

DECISION = "x.bandit"
"""Type of the events of decisions that a shop asked a bandit for; clients must not send it."""

DECISION_ID = "bandit:"
"""Prefix of their event ids; clients must not send such ids."""

OFFER = "x.coupon_offer"
"""Type of the event that promises a coupon; clients must not send it."""

OFFER_ID = "coupon:"
"""Prefix of the event ids of coupons, before the code; clients must not send such ids."""

SHOWN = ("impression", DECISION, OFFER)
"""Types of events of the server's own that can have an arm, apart from exposures."""

_CHUNK = 2_048


@dataclass(frozen=True)
class Impression:
    """A recommendation as it was shown."""

    offset: int  # offset of its log record
    applied: int  # log offset up to which events were applied at the ranking
    event: Event
    items: list[str]  # item ids, best first
    version: str  # model version of the ranking, or name of a heuristic
    layout: str  # names of the features, see `tactful.ranking.features.layout`; empty if not logged
    forced: bool  # whether the caller chose the arm, as tests do
    features: NDArray[np.float32] | None  # (items, columns) as served; None: none


def encode_impression(
    request: RecommendRequest,
    answer: Recommendation,
    assignment: Assignment,
    *,
    at: int,
    applied: int | None,
    layout: str,
    features: NDArray[np.float32] | None,
    more: Mapping[str, Any],
) -> bytes:
    """Encode the log record of a recommendation, with features for training."""
    properties: dict[str, Any] = {
        "items": [item.item_id for item in answer.items],
        "scores": [item.score for item in answer.items],
        "channels": [item.channel for item in answer.items],
        "model_version": answer.model_version,
        "experiment": assignment.experiment,
        "arm": assignment.arm,
        "forced": assignment.forced,
        "propensity": assignment.propensity,
        "applied": applied,
        "took_ms": round(answer.took_ms, 3),
        **more,
    }
    if filters := _filters(request):
        properties["filters"] = filters
    if features is not None:
        properties["layout"] = layout
        properties["features"] = b64encode(features.astype("<f4").tobytes()).decode()
    return encode_entry(
        Event(
            event_id=IMPRESSION_ID + answer.recommendation_id,
            type="impression",
            timestamp=at,
            user_id=request.user_id,
            device_id=request.device_id,
            session_id=request.session_id,
            item_id=None,
            recommendation_id=answer.recommendation_id,
            properties=properties,
            context={},
        )
    )


def _filters(request: RecommendRequest) -> list[str]:
    """Describe the filters of a request, to explain missing items."""
    filters: dict[str, Any] = {
        "category": request.category,
        "min_price": request.min_price,
        "max_price": request.max_price,
        "filter": None if request.filter is None else msgspec.json.encode(request.filter).decode(),
        "excluded": len(request.exclude) or None,
        "candidates": len(request.candidates) or None,
        "exclude_seen": "yes" if request.exclude_seen else None,
        "exclude_taken": "yes" if request.exclude_taken else None,
    }
    return [f"{name}: {value}" for name, value in filters.items() if value is not None]


def is_served(event: Event) -> bool:
    """Return whether the server itself logged an impression: a client can claim anything."""
    own = event.sender is None and event.event_id.startswith(IMPRESSION_ID)
    return own and event.type == "impression"


def is_decision(event: Event) -> bool:
    """Return whether the server itself logged the decision of a bandit, also about a coupon."""
    if event.sender is not None:
        return False
    if event.type == OFFER:
        return event.event_id.startswith(OFFER_ID) and "bandit" in event.properties
    return event.type == DECISION and event.event_id.startswith(DECISION_ID)


def decision_named(event: Event) -> str | None:
    """Return the id of the decision that an event names in its properties; None without one."""
    named = event.properties.get("decision_id")
    return named if isinstance(named, str) and named else None


def decode_impression(payload: bytes, offset: int) -> Impression | None:
    """Decode an impression from a log record; None if it is none or damaged."""
    # Decoding every record would take most of the time.
    if b"impression" not in payload:
        return None
    try:
        entry = decode_entry(payload)
    except StreamingError:
        return None
    event = event_for(entry, PERSONALISATION)
    return None if event is None else as_impression(event, offset)


def as_impression(event: Event, offset: int = 0) -> Impression | None:
    """Convert an event to an impression; None if it is none or damaged."""
    properties: Mapping[str, Any] = event.properties
    items = properties.get("items")
    if event.type != "impression" or not isinstance(items, list) or not items:
        return None
    features: NDArray[np.float32] | None = None
    try:
        if isinstance(encoded := properties.get("features"), str):
            values = np.frombuffer(b64decode(encoded, validate=True), "<f4")
            features = values.reshape(len(items), -1).astype(np.float32)
    except (binascii.Error, ValueError):
        return None
    applied = properties.get("applied")
    return Impression(
        offset=offset,
        applied=applied if isinstance(applied, int) and applied <= offset else offset,
        event=event,
        items=[str(item) for item in items],
        version=str(properties.get("model_version")),
        layout=str(properties.get("layout") or ""),
        forced=bool(properties.get("forced")),
        features=features,
    )


def read_impressions(log: EventLog, *, latest: int | None = None) -> Iterator[Impression]:
    """Read the server's impressions in a log in order: all, or those in the `latest` records."""
    for records in _newest(log, latest):
        for offset, payload in records:
            impression = decode_impression(payload, offset)
            if impression is not None and is_served(impression.event):
                yield impression


def _newest(log: EventLog, latest: int | None) -> Iterator[Sequence[Record]]:
    """Read the newest records, or all, also past the end that brokers understate."""
    end = log.end
    begin = log.begin if latest is None else max(log.begin, end - latest)
    return read_batches(log, begin, end + _CHUNK, size=_CHUNK)


def find_impression(log: EventLog, recommendation_id: str, *, latest: int) -> Event | None:
    """Find the server's event of a recommendation among the `latest` records of a log."""
    wanted = recommendation_id.encode()
    for records in _newest(log, latest):
        for offset, payload in records:
            impression = decode_impression(payload, offset) if wanted in payload else None
            event = None if impression is None else impression.event
            if event and is_served(event) and event.recommendation_id == recommendation_id:
                return event
    return None


class RecentImpressions:
    """Bounded cache of the latest impressions by id, as in the log; for one thread."""

    def __init__(self, *, most: int = 2_000, bytes_: int = 32 * 1024 * 1024) -> None:
        """Start empty; hold at most `most` impressions and `bytes_` bytes of them."""
        self._most = most
        self._bytes = bytes_
        self._held = 0
        self._payloads: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of impressions."""
        return len(self._payloads)

    def add(self, recommendation_id: str, payload: bytes) -> None:
        """Add an impression; the oldest are dropped."""
        self._held += len(payload) - len(self._payloads.pop(recommendation_id, b""))
        self._payloads[recommendation_id] = payload
        while len(self._payloads) > self._most or self._held > self._bytes:
            _, dropped = self._payloads.popitem(last=False)
            self._held -= len(dropped)

    def forget(self, needles: Collection[bytes], matches: Callable[[Entry], bool]) -> int:
        """Delete impressions that contain a needle and match; return their number."""
        deleted = [
            key
            for key, payload in self._payloads.items()
            if any(needle in payload for needle in needles) and matches(decode_entry(payload))
        ]
        for key in deleted:
            self._held -= len(self._payloads.pop(key))
        return len(deleted)

    def find(self, recommendation_id: str) -> Event | None:
        """Return the event of a recommendation; None if it was dropped."""
        payload = self._payloads.get(recommendation_id)
        return None if payload is None else logged_event(payload)


def logged_event(payload: bytes) -> Event | None:
    """Decode the event of a recommendation; None if its use is not permitted."""
    return event_for(decode_entry(payload), PERSONALISATION)
