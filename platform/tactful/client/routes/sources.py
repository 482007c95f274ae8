"""Requests that send messages in the formats of other programs; they need the scope ``source``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tactful.client.exchange import segment
from tactful.client.request import Request
from tactful.schemas.sources import SourceAnswer, SourceBatch, ValidationMessages

SegmentLike = Literal["segment", "rudderstack"]
"""Sources with the calls of Segment."""


def batch(source: SegmentLike, messages: Sequence[Mapping[str, Any]]) -> Request[SourceAnswer]:
    """Send a batch of messages of Segment or RudderStack; each needs a ``messageId``."""
    body = SourceBatch(batch=[*messages])
    return Request("POST", f"/v1/sources/{segment(source)}/v1/batch", SourceAnswer, body=body)


def message(source: SegmentLike, call: str, content: Mapping[str, Any]) -> Request[SourceAnswer]:
    """Send one message: `call` is track, identify, page, screen, group or alias."""
    path = f"/v1/sources/{segment(source)}/v1/{segment(call)}"
    return Request("POST", path, SourceAnswer, body=dict(content))


def measurement(content: Mapping[str, Any]) -> Request[bytes]:
    """Send events of Google Analytics 4; the answer is empty, also where some were refused."""
    return Request("POST", "/v1/sources/ga4/mp/collect", bytes, body=dict(content))


def check_measurement(content: Mapping[str, Any]) -> Request[ValidationMessages]:
    """Check events of Google Analytics 4; nothing is stored."""
    path = "/v1/sources/ga4/debug/mp/collect"
    return Request("POST", path, ValidationMessages, body=dict(content), repeatable=True)


def plain(events: Sequence[Mapping[str, Any]]) -> Request[SourceAnswer]:
    """Send events under common names of fields."""
    return Request("POST", "/v1/sources/plain", SourceAnswer, body=[*events])
