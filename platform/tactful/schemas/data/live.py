"""Messages of the stream of the newest events."""

from __future__ import annotations

from typing import Any

import msgspec


class LiveMessage(msgspec.Struct, kw_only=True, frozen=True):
    """Events and refusals since the last message, once a second.

    Attributes:
        at: time of the message, epoch milliseconds.
        accepted: accepted events by type.
        refused: refused events by code.
        newest: the newest of the accepted events, 50 at most, with user, device and session as
            keyed hashes.
    """

    at: int
    accepted: dict[str, int]
    refused: dict[str, int]
    newest: list[dict[str, Any]]
