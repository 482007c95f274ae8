"""Odd, wrong, huge and deep messages: each is refused or ignored, and none fails its neighbours."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.sources.mapped import NOW, become, packaged

from tactful.sources import ga4, plain, segment
from tactful.sources.mapping import SourceName
from tactful.sources.preview import Preview
from tactful.sources.translate import MOST_EVENTS
from tactful_streaming.contract.decode_requests import decode_events

MAPPINGS = packaged()

# Names that the mapping reads, so that odd values stand where it looks.
_NAMES = st.sampled_from(
    [
        *("type", "event", "userId", "anonymousId", "previousId", "messageId", "timestamp"),
        *("sentAt", "originalTimestamp", "receivedAt", "properties", "traits", "context"),
        *("product_id", "sku", "products", "price", "quantity", "category", "consent"),
        *("categoryPreferences", "name", "params", "items", "item_id", "client_id", "user_id"),
        *("timestamp_micros", "user_properties", "plan", "value", "age", "address", "country"),
        *("itemId", "ts", "event_type", "session_id", "page", "path", "total", "query"),
    ]
)
_WORDS = st.sampled_from(
    [
        *("track", "identify", "alias", "page", "Order Completed", "Product Viewed", "view_item"),
        *("purchase", "login", "click", "x.own", "*", "impression:1", "device:1", " ", "a" * 300),
        *("2026-03-01T12:00:00Z", "1e400", "\x00", "\u2028", "😀", "NaN", "true"),
    ]
)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=20)
    | _WORDS
)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(_NAMES, inner, max_size=6),
    max_leaves=30,
)
_MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["track", "identify", "alias", "page"]) | _VALUES,
        "event": _WORDS | _VALUES,
        "name": _WORDS | _VALUES,
        "userId": _SCALARS,
        "user_id": _SCALARS,
        "anonymousId": _SCALARS,
        "messageId": _SCALARS,
        "timestamp": _SCALARS,
        "properties": st.dictionaries(_NAMES, _VALUES, max_size=6) | _VALUES,
        "params": st.dictionaries(_NAMES, _VALUES, max_size=6) | _VALUES,
        "traits": st.dictionaries(_NAMES, _VALUES, max_size=6) | _VALUES,
        "context": st.dictionaries(_NAMES, _VALUES, max_size=6) | _VALUES,
    },
)
GOOD = {
    "type": "track",
    "event": "Product Viewed",
    "name": "view_item",
    "userId": "ada",
    "user_id": "ada",
    "properties": {"sku": "tea"},
    "params": {"items": [{"item_id": "tea"}]},
}


def read(source: SourceName, body: bytes) -> list[Preview]:
    if source == "plain":
        messages = plain.read_events(body, None, MAPPINGS["plain"], most=1000)
    elif source == "ga4":
        messages = ga4.read_request(body)
    else:
        messages = segment.read_calls(body, "batch", received=NOW)
    return become(source, messages, MAPPINGS)


def check(made: Preview) -> None:
    """What is sent on would be accepted as a request of our own."""
    assert len(made.events) <= MOST_EVENTS
    for event in made.events:
        sent = msgspec.to_builtins(event)
        del sent["kind"]
        accepted, rejected = decode_events(msgspec.json.encode(sent), now=NOW)
        assert (len(accepted), rejected) == (1, [])


@pytest.mark.parametrize("source", ["segment", "ga4", "plain"])
@given(messages=st.lists(_MESSAGES | _VALUES, max_size=4))
def test_odd_messages_fail_nothing(source: SourceName, messages: list[Any]) -> None:
    batch = {"segment": "batch", "ga4": "events"}
    sent = [*messages, GOOD]
    body = json.dumps({batch[source]: sent} if source in batch else sent).encode()
    made = read(source, body)
    assert len(made) == len(sent)
    for it in made:
        check(it)
    if source == "plain":
        assert made[-1].rule == "views"
    else:
        assert [event.item_id for event in made[-1].events] == ["tea"]
        assert made[-1].problems == []


@pytest.mark.parametrize("source", ["segment", "ga4", "plain"])
@given(body=st.binary(max_size=200) | _VALUES.map(lambda it: json.dumps(it).encode()))
def test_any_body_is_read_or_refused(source: SourceName, body: bytes) -> None:
    try:
        made = read(source, body)
    except ValueError as refused:
        assert str(refused)
    else:
        for it in made:
            check(it)


@pytest.mark.parametrize("source", ["segment", "ga4", "plain"])
@pytest.mark.parametrize(
    "odd",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b'{"properties":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"userId": "\\ud800", "ts": 1e9, "timestamp_micros": 1e15, "timestamp": 1e9}',
        b'{"userId": ' + b"9" * 5000 + b"}",
        b'{"userId": 1e999}',
        b'{"userId": NaN, "userId": Infinity}',
        b'{"userId": "a", "userId": "b"}',
    ],
    ids=["lists", "objects", "half a character", "digits", "large", "NaN", "twice"],
)  # fmt: skip
def test_hostile_json(source: SourceName, odd: bytes) -> None:
    good = json.dumps(GOOD).encode()
    listed = b"[" + odd + b", " + good + b"]"
    batch = {"segment": b"batch", "ga4": b"events"}
    body = b'{"' + batch[source] + b'": ' + listed + b"}" if source in batch else listed
    try:
        made = read(source, body)
    except ValueError as refused:
        assert str(refused).startswith("not JSON")
        return
    assert made[-1].rule is not None, "its neighbour is accepted"


@pytest.mark.parametrize("source", ["segment", "ga4"])
def test_a_list_that_is_too_long_is_cut_and_reported(source: SourceName) -> None:
    products = [{"sku": n, "item_id": n} for n in range(MOST_EVENTS + 1)]
    message = {
        **{"type": "track", "event": "Order Completed", "name": "purchase", "userId": "u"},
        **{"user_id": "u", "properties": {"products": products}, "params": {"items": products}},
    }
    batch = {"batch": [message], "events": [message]}
    (made,) = read(source, json.dumps(batch).encode())
    assert (len(made.events), [it.code for it in made.problems]) == (MOST_EVENTS, ["too_long"])
