"""Messages in a file, as a client would send them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tactful.sources import ga4, plain, segment
from tactful.sources.decode import decode_json
from tactful.sources.mapping import KINDS, SourceMapping, SourceName
from tactful.sources.translate import Message

_MOST = 100_000


def likely_source(body: bytes) -> SourceName:
    """Return the source that would send a body: the one whose fields it has."""
    try:
        content = decode_json(body)
    except ValueError:
        return "plain"  # such as one object a line
    first = content[0] if isinstance(content, list) and content else content
    if not isinstance(first, dict):
        return "plain"
    if isinstance(first.get("batch"), list) or first.get("type") in KINDS["segment"]:
        return "segment"
    return "ga4" if isinstance(first.get("events"), list) else "plain"


def read_request(body: bytes, mapping: SourceMapping, *, now: int) -> Sequence[Message]:
    """Return the messages of a body that its source sends; an array is a batch.

    Raises:
        ValueError: if it is no such body; the message says why.
    """
    if mapping.source == "plain":
        return plain.read_events(body, None, mapping, most=_MOST)
    if mapping.source == "ga4":
        return ga4.read_request(body)
    content: Any = decode_json(body)
    if isinstance(content, list):
        return segment.read_calls(msgspec.json.encode({"batch": content}), "batch", received=now)
    kind = "batch"
    if isinstance(content, dict) and "batch" not in content:
        kind = str(content.get("type", "batch"))
    return segment.read_calls(body, kind, received=now)
