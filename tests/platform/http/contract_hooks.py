"""Inputs and checks that schemathesis needs beside the OpenAPI document."""

from __future__ import annotations

import json
import time
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.core.parameters import ParameterLocation

# Reasons of rejections that the document would have to name.
_DOCUMENTED = {"missing_field", "unknown_field", "unknown_type", "too_long"}


def _lines(element: dict[str, Any]) -> bytes:
    return json.dumps(element).encode()


_events = st.builds(
    lambda user, item, kind: {
        "type": kind,
        "timestamp": time.time_ns() // 1_000_000,
        "user_id": user,
        "item_id": item,
    },
    st.text("abc", min_size=1, max_size=2),
    st.text("xyz", min_size=1, max_size=2),
    st.sampled_from(["view", "click", "purchase"]),
)
# The document cannot say which text is JSON.
schemathesis.openapi.media_type("text/plain", st.just(b"{}"))
schemathesis.openapi.media_type(
    "application/x-ndjson",
    st.lists(_events.map(_lines), min_size=1, max_size=3).map(b"\n".join),
)


@schemathesis.check
def elements_are_judged(ctx: Any, response: Any, case: Any) -> None:
    """Check that a batch with an element that the document forbids has a rejected one."""
    body = None if case.meta is None else case.meta.components.get(ParameterLocation.BODY)
    if response.status_code != 202 or body is None or case.media_type != "application/json":
        return
    if (elements := response.json().get("rejected")) is None:
        return
    rejected = {element["code"] for element in elements}
    if body.mode.is_negative:
        assert rejected, "an element that the document forbids was accepted"
    else:
        wrong = rejected & _DOCUMENTED
        assert not wrong, f"elements that the document allows were rejected: {wrong}"


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: Any) -> None:
    """Write pairs without `prefixItems`, which schemathesis 4.32 makes invalid in responses."""
    if isinstance(raw_schema, dict):
        if "prefixItems" in raw_schema:
            raw_schema["items"] = {"anyOf": raw_schema.pop("prefixItems")}
        for value in raw_schema.values():
            before_load_schema(context, value)
    elif isinstance(raw_schema, list):
        for value in raw_schema:
            before_load_schema(context, value)


@schemathesis.hook
def map_case(context: Any, case: Any) -> Any:
    """Give the texts of a batch a request, and write whole numbers as the server wants them."""
    if case.media_type == "text/plain" and case.path.endswith("/batch"):
        case.body = b'{"requests": [{}]}'
    case.body = _whole(case.body)
    return case


def _whole(value: Any) -> Any:
    """Write 604.0, an integer of JSON Schema, as 604."""
    if isinstance(value, dict):
        return {name: _whole(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_whole(part) for part in value]
    return (
        int(value)
        if isinstance(value, float) and value == value // 1 and abs(value) < 2**53
        else value
    )
