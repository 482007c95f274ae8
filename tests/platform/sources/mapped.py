"""Messages through the packaged mapping, for tests."""

from __future__ import annotations

import json
from typing import Any

from tactful.config.settings import PACKAGED_MAPPING
from tactful.sources import ga4, plain, segment
from tactful.sources.mapping import Mappings, SourceName
from tactful.sources.preview import Preview, preview
from tactful.sources.read_mapping import read_mappings
from tactful.sources.translate import Message

NOW = 1_772_366_405_000  # 2026-03-01T12:00:05Z
NOON = "2026-03-01T12:00:00Z"


def packaged() -> Mappings:
    return read_mappings(PACKAGED_MAPPING)


def become(source: SourceName, messages: list[Message], mappings: Mappings) -> list[Preview]:
    return preview(messages, mappings[source], now=NOW)


def of_segment(mappings: Mappings, *messages: Any, **batch: Any) -> list[Preview]:
    """What becomes of the messages of one batch."""
    body = json.dumps({"batch": messages, **batch}).encode()
    return become("segment", segment.read_calls(body, "batch", received=NOW), mappings)


def of_ga4(mappings: Mappings, *events: Any, **request: Any) -> list[Preview]:
    """What becomes of the events of one request of the measurement protocol."""
    body = json.dumps({"client_id": "555.1", "events": events, **request}).encode()
    return become("ga4", ga4.read_request(body), mappings)


def of_plain(mappings: Mappings, *events: Any) -> list[Preview]:
    """What becomes of plain events, one a line."""
    body = "\n".join(it if isinstance(it, str) else json.dumps(it) for it in events).encode()
    read = plain.read_events(body, "application/x-ndjson", mappings["plain"], most=1000)
    return become("plain", read, mappings)


def kept(preview: Preview) -> list[tuple[str, str | None, dict[str, Any]]]:
    """Type, item and properties of each event."""
    return [(it.type, it.item_id, dict(it.properties)) for it in preview.events]
