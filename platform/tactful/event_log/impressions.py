"""Lists that were shown: written for the log, read from it, and the latest of them at hand.

The server logs every list it gives as an event of the type ``impression``: the items in order,
their scores and channels, who ranked them, and the features they were ranked by.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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

_CHUNK = 2_048


@dataclass(frozen=True)
class Impression:
    """A list as it was shown.

    Attributes:
        offset: of its log record.
        applied: log offset before which everything was applied when it was ranked.
        event: the event itself.
        items: item ids, best first.
        version: the model version that ranked them, or the name of a heuristic.
        layout: what the features mean, see `tactful.ranking.features.layout`; empty where that was not
            logged.
        forced: whether the caller chose the arm, as tests do.
        features: as served, shape (items, columns); None where no features were served.
    """

    offset: int
    applied: int
    event: Event
    items: list[str]
    version: str
    layout: str
    forced: bool
    features: NDArray[np.float32] | None


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
    """A log record of a list, with the features as served: what training will learn from.

    Args:
        request: what was asked.
        answer: what was shown.
        assignment: the arm.
        at: when, epoch milliseconds.
        applied: as in `Impression`; None where nobody can say.
        layout: as in `Impression`.
        features: as in `Impression`.
        more: what else took part, by name.
    """
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
            event_id=f"impression:{answer.recommendation_id}",
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
    """What the request left out, for whoever wants to know why an item is not there."""
    asked: dict[str, Any] = {
        "category": request.category,
        "min_price": request.min_price,
        "max_price": request.max_price,
        "excluded": len(request.exclude) or None,
        "exclude_seen": "yes" if request.exclude_seen else None,
        "exclude_taken": "yes" if request.exclude_taken else None,
    }
    return [f"{name}: {value}" for name, value in asked.items() if value is not None]


def decode_impression(payload: bytes, offset: int) -> Impression | None:
    """Read a list from a log record; None if the record is none, or cannot be read as one."""
    # Decoding everything would take most of the time.
    if b"impression" not in payload:
        return None
    try:
        entry = decode_entry(payload)
    except StreamingError:
        return None
    event = event_for(entry, PERSONALISATION)
    return None if event is None else as_impression(event, offset)


def as_impression(event: Event, offset: int = 0) -> Impression | None:
    """Read a list from its event; None if the event is none, or cannot be read as one.

    Args:
        event: any event.
        offset: of its log record.
    """
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
    """Lists of a log, in order.

    Args:
        log: where they are.
        latest: look at so many of the newest records only; None looks at all.
    """
    for records in _newest(log, latest):
        for offset, payload in records:
            if (found := decode_impression(payload, offset)) is not None:
                yield found


def _newest(log: EventLog, latest: int | None) -> Iterator[Sequence[Record]]:
    """The newest records, or all; also beyond the end, where some brokers count a batch as one."""
    end = log.end
    begin = log.begin if latest is None else max(log.begin, end - latest)
    return read_batches(log, begin, end + _CHUNK, size=_CHUNK)


def find_impression(log: EventLog, recommendation_id: str, *, latest: int) -> Event | None:
    """The event of one list, if it is among the newest records of a log.

    Args:
        log: where it is.
        recommendation_id: of the list.
        latest: how many of the newest records are looked at.
    """
    wanted = recommendation_id.encode()
    for records in _newest(log, latest):
        for offset, payload in records:
            found = decode_impression(payload, offset) if wanted in payload else None
            if found is not None and found.event.recommendation_id == recommendation_id:
                return found.event
    return None


class RecentImpressions:
    """The latest lists, encoded as for the log, at hand by their id; bounded in number and bytes.

    For one thread.
    """

    def __init__(self, *, most: int = 2_000, bytes_: int = 32 * 1024 * 1024) -> None:
        """Start empty.

        Args:
            most: lists to keep.
            bytes_: most bytes of them together.
        """
        self._most = most
        self._bytes = bytes_
        self._held = 0
        self._lists: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._lists)

    def add(self, recommendation_id: str, payload: bytes) -> None:
        """Keep a list; the oldest make room."""
        self._held += len(payload) - len(self._lists.pop(recommendation_id, b""))
        self._lists[recommendation_id] = payload
        while len(self._lists) > self._most or self._held > self._bytes:
            _, dropped = self._lists.popitem(last=False)
            self._held -= len(dropped)

    def forget(self, needles: Collection[bytes], theirs: Callable[[Entry], bool]) -> int:
        """Forget lists of people; how many there were.

        Args:
            needles: one of these is in each that is theirs.
            theirs: whether an entry is.
        """
        gone = [
            list_
            for list_, payload in self._lists.items()
            if any(needle in payload for needle in needles) and theirs(decode_entry(payload))
        ]
        for list_ in gone:
            self._held -= len(self._lists.pop(list_))
        return len(gone)

    def find(self, recommendation_id: str) -> Event | None:
        """The event of one list; None if it is not here any more."""
        payload = self._lists.get(recommendation_id)
        entry = None if payload is None else decode_entry(payload)
        return None if entry is None else event_for(entry, PERSONALISATION)
