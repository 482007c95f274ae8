"""The live stream of events as both clients read it."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

from tactful.schemas.data.live import LiveMessage

PATH = "/v1/events/stream"

_SILENCE_S = 30.0  # three heartbeats
_DATA = "data: "


def stream_options(timeout: httpx.Timeout, seconds: int) -> dict[str, Any]:
    """Return the options of a request that listens for so many seconds."""
    return {
        "params": {"seconds": seconds},
        "timeout": httpx.Timeout(timeout.connect, read=_SILENCE_S),
    }


def live_message(line: str) -> LiveMessage | None:
    """Return the message of a line; None of a line that has none."""
    if not line.startswith(_DATA):
        return None
    return msgspec.json.decode(line[len(_DATA) :], type=LiveMessage)
