"""JSON lines that are elements of the contract already, and can be sent unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tactful.client import Kind
from tactful.imports.formats.json_rows import JsonLinesReader
from tactful.schemas.elements import NewEvent, NewItem, NewUser
from tactful.schemas.fields import to_milliseconds
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.decode_requests import DEFAULT_LIMITS

_KINDS: Mapping[Kind, tuple[type[msgspec.Struct], frozenset[str]]] = {
    "events": (NewEvent, frozenset(("type", "timestamp"))),
    "items": (NewItem, frozenset(("item_id",))),
    "users": (NewUser, frozenset(("user_id",))),
}


def raw_lines(reader: JsonLinesReader) -> tuple[Kind, list[int]] | None:
    """Return kind and times of the lines if at least half of the sampled ones need no mapping.

    The others are sent, too: the server says what is wrong with each of them.
    """
    if reader.text.encoding != "utf-8" or reader.text.mark:
        return None
    for kind, (struct, needed) in _KINDS.items():
        fields = {field.name for field in msgspec.structs.fields(struct)}
        lines = [line for line in reader.sampled if needed <= line.keys() <= fields]
        times = [time for line in lines if (time := _time(line, struct)) is not None]
        if times and 2 * len(times) >= len(reader.sampled):
            return kind, times
    return None


def _time(line: Mapping[str, Any], struct: type[msgspec.Struct]) -> int | None:
    """Return the time of a sound element, 0 of one without; None of any other line."""
    try:
        element = msgspec.convert(line, struct, str_keys=True)
        moment = getattr(element, "timestamp", None)
        time = 0 if moment is None else to_milliseconds(moment)
    except (*DECODE_ERRORS, ValueError):
        return None
    return time if moment is None or time >= DEFAULT_LIMITS.earliest else None
