import json
from collections.abc import Callable
from typing import Any

import pytest

from tactful_streaming.contract.decode_requests import (
    Limits,
    decode_events,
    decode_items,
    decode_users,
)
from tactful_streaming.contract.log_entries import Event, Item, User, decode_entry, encode_entry
from tactful_streaming.errors import EntryError, PayloadError

NOW = 1_750_000_000_000
GOOD: dict[str, Any] = {"type": "view", "timestamp": NOW, "user_id": "u", "event_id": "e"}
GOOD_TEXT = json.dumps(GOOD)


def event(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


def raw(**changes: str) -> str:
    """A good event with raw JSON text in place of some values."""
    parts = {name: json.dumps(value) for name, value in GOOD.items()} | changes
    return "{" + ", ".join(f'"{name}": {text}' for name, text in parts.items()) + "}"


DEEP = "[" * 10_000 + "]" * 10_000

BAD: list[tuple[str, str | dict[str, Any], str]] = [
    ("NaN price", raw(properties='{"price": NaN}'), "not_json"),
    ("infinite price", raw(properties='{"price": Infinity}'), "not_json"),
    ("negative infinite price", raw(properties='{"price": -Infinity}'), "not_json"),
    ("overflowing price", raw(properties='{"price": 1e999}'), "bad_number"),
    ("overflowing negative", raw(context='{"x": -1e999}'), "bad_number"),
    ("integer beyond 64 bits", raw(properties='{"x": ' + "9" * 40 + "}"), "bad_number"),
    ("integer of 5000 digits", raw(properties='{"x": ' + "9" * 5000 + "}"), "bad_number"),
    ("not an object", "17", "wrong_type"),
    ("null", "null", "wrong_type"),
    ("text", '"event"', "wrong_type"),
    ("nothing between commas", " ", "not_json"),
    ("garbage", "{type: view}", "not_json"),
    ("leading zero", raw(timestamp="01"), "not_json"),
    ("10,000 deep", raw(properties=f'{{"x": {DEEP}}}'), "too_deep"),
    ("10,000 deep object", raw(context='{"a":' * 10_000 + "1" + "}" * 10_000), "too_deep"),
    ("list in list", event(properties={"x": [[1]]}), "wrong_type"),
    ("object in properties", event(properties={"x": {"y": 1}}), "wrong_type"),
    ("list in context", event(context={"x": [1]}), "wrong_type"),
    ("properties are a list", event(properties=[1]), "wrong_type"),
    ("properties are null", event(properties=None), "wrong_type"),
    ("too many properties", event(properties={str(i): i for i in range(65)}), "too_long"),
    ("too long a list", event(properties={"x": [0] * 257}), "too_long"),
    ("too long a text", event(properties={"x": "x" * 2049}), "too_long"),
    ("empty property name", event(properties={"": 1}), "too_long"),
    ("duplicate key", raw()[:-1] + ', "type": "click"}', "duplicate_key"),
    ("duplicate key of equal value", raw()[:-1] + ', "type": "view"}', "duplicate_key"),
    ("duplicate property", raw(properties='{"a": 1, "b": 2, "a": 1}'), "duplicate_key"),
    ("duplicate written as escape", raw(properties='{"a": 1, "\\u0061": 1}'), "duplicate_key"),
    ("duplicate in context", raw(context='{"a": 1, "a": 2}'), "duplicate_key"),
    ("hidden duplicate", raw(properties='{"a": "\\u0022\\u0022", "a": ""}'), "duplicate_key"),
    ("unknown field", event(user="u"), "unknown_field"),
    ("kind is ours", event(kind="event"), "unknown_field"),
    ("no type", without("type"), "missing_field"),
    ("no timestamp", without("timestamp"), "missing_field"),
    ("no subject", without("user_id"), "no_subject"),
    ("null subject", event(user_id=None), "no_subject"),
    ("unknown type", event(type="look"), "unknown_type"),
    ("empty type", event(type=""), "unknown_type"),
    ("custom type without a name", event(type="x."), "unknown_type"),
    ("custom type with a space", event(type="x.a b"), "unknown_type"),
    ("type is a number", event(type=1), "wrong_type"),
    ("user id is a number", event(user_id=5), "wrong_type"),
    ("empty user id", event(user_id=""), "too_long"),
    ("empty event id", event(event_id=""), "too_long"),
    ("over-long id", event(item_id="i" * 257), "too_long"),
    ("NUL in an id", event(user_id="a\x00b"), "bad_id"),
    ("newline in an id", event(item_id="a\nb"), "bad_id"),
    ("DEL in an id", raw(session_id='"a\x7fb"'), "bad_id"),
    ("C1 control in an id", raw(session_id='"a\x85b"'), "bad_id"),
    ("lone surrogate", raw(user_id='"\\ud800"'), "not_json"),
    ("reserved user id", event(user_id="device:1"), "bad_id"),
    ("naive time", event(timestamp="2025-06-01T12:00:00"), "bad_timestamp"),
    ("no time", event(timestamp="yesterday"), "bad_timestamp"),
    ("empty time", event(timestamp=""), "bad_timestamp"),
    ("null time", event(timestamp=None), "bad_timestamp"),
    ("boolean time", event(timestamp=True), "bad_timestamp"),
    ("fractional milliseconds", event(timestamp=NOW + 0.5), "bad_timestamp"),
    ("future", event(timestamp=NOW + 300_001), "in_future"),
    ("absurd", event(timestamp=10**17), "in_future"),
    ("beyond 64 bits", event(timestamp=10**30), "in_future"),
    ("far future in words", event(timestamp="9999-12-31T23:59:59Z"), "in_future"),
    ("before 2000", event(timestamp=946_684_799_999), "too_old"),
    ("negative time", event(timestamp=-1), "too_old"),
    ("seconds", event(timestamp=NOW // 1000), "too_old"),
    ("negative price", event(properties={"price": -0.01}), "bad_number"),
    ("negative quantity", event(properties={"quantity": -1}), "bad_number"),
    ("price is text", event(properties={"price": "3"}), "wrong_type"),
    ("price is true", event(properties={"price": True}), "wrong_type"),
    ("category is a number", event(properties={"category": 3}), "wrong_type"),
    ("empty category", event(properties={"category": ""}), "bad_id"),
    ("control character in category", event(properties={"category": "a\tb"}), "bad_id"),
]

TEXTS = [(name, b if isinstance(b, str) else json.dumps(b), code) for name, b, code in BAD]


@pytest.mark.parametrize(("text", "code"), [pytest.param(b, c, id=a) for a, b, c in TEXTS])
def test_a_bad_event_spares_its_neighbours(text: str, code: str) -> None:
    """In an array, among lines, and alone."""
    forms = [(f"[{GOOD_TEXT}, {text}, {GOOD_TEXT}]", [0, 2])]
    if text.strip():
        forms.append((f"{GOOD_TEXT}\n{text}\n{GOOD_TEXT}\n", [0, 2]))
    if text.startswith("{"):
        forms.append((text, []))
    for body, good in forms:
        accepted, rejected = decode_events(body.encode(), now=NOW)
        assert [i for i, _ in accepted] == good
        assert [(len(good) // 2, code)] == [(r.index, r.code) for r in rejected]
        assert len(rejected[0].message) > 10


@pytest.mark.parametrize("name", ["events", "items", "users", "batch", "data"])
def test_a_list_inside_an_object_is_refused_with_the_cure(name: str) -> None:
    body = json.dumps({name: [GOOD]}).encode()
    accepted, (rejected,) = decode_events(body, now=NOW)
    assert not accepted
    assert (rejected.index, rejected.code) == (0, "unknown_field")
    assert "send a list as it is" in rejected.message


@pytest.mark.parametrize("form", ["[%s, %s, %s]", "%s\n%s\n%s"])
def test_bytes_that_are_not_utf8_spoil_one_event_only(form: str) -> None:
    bad = raw(user_id='"@"').encode().replace(b"@", b"\xff")
    body = form.encode() % (GOOD_TEXT.encode(), bad, GOOD_TEXT.encode())
    accepted, rejected = decode_events(body, now=NOW)
    assert [i for i, _ in accepted] == [0, 2]
    assert [(r.index, r.code) for r in rejected] == [(1, "not_utf8")]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"  \n ", "not_json"),
        (b"hello", "not_json"),
        (b"17", "not_json"),
        (b'"text"', "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"[", "not_json"),
        (b"[" * 100_000, "not_json"),
        (b"[{]}]", "not_json"),
        (b"[1]]", "not_json"),
        (b"[" + GOOD_TEXT.encode() + b"] trailing", "not_json"),
        (b"[" + GOOD_TEXT.encode()[:-1], "not_json"),
        (b'["unterminated', "not_json"),
        (b'["' + b'\\"' * 100_000, "not_json"),
        (json.dumps([GOOD] * 1001).encode(), "batch_too_long"),
        (b"\n".join([GOOD_TEXT.encode()] * 1001), "batch_too_long"),
        (b"[" + b" " * 4_194_304 + b"]", "body_too_long"),
    ],
)
def test_bodies_that_cannot_be_split(body: bytes, code: str) -> None:
    with pytest.raises(PayloadError) as caught:
        decode_events(body, now=NOW)
    assert code == caught.value.code


def test_hopeless_nesting_is_one_bad_event() -> None:
    for body in (b'{"a":' * 100_000, b"[" + b"[" * 100_000 + b"]" * 100_000 + b"]", b"[{]}"):
        accepted, rejected = decode_events(body, now=NOW)
        assert (accepted, len(rejected)) == ([], 1)


def test_every_field_arrives() -> None:
    full = {
        "event_id": "e1",
        "type": "x.wishlist",
        "timestamp": "2025-06-15T17:06:40.5+02:00",
        "user_id": "u",
        "device_id": "d",
        "session_id": "s",
        "item_id": "i",
        "recommendation_id": "r",
        "properties": {"price": 1.5, "tags": ["a", 1, None, True], "note": "a\nb"},
        "context": {"page": "home", "n": 2},
    }
    accepted, rejected = decode_events(json.dumps(full).encode(), now=NOW)
    assert rejected == []
    expected = Event(**{**full, "timestamp": 1_750_000_000_500})  # type: ignore[arg-type]
    assert [(0, expected)] == accepted
    assert expected == decode_entry(encode_entry(expected))


def test_what_is_absent_or_null_is_none() -> None:
    sent = {"type": "leave", "timestamp": NOW, "device_id": "d", "user_id": None}
    [(_, found)], _ = decode_events(json.dumps(sent).encode(), now=NOW, mint=lambda: "minted")
    assert Event(event_id="minted", type="leave", timestamp=NOW, device_id="d") == found


def test_ids_are_minted_apart() -> None:
    body = json.dumps([without("event_id")] * 100).encode()
    accepted, _ = decode_events(body, now=NOW)
    ids = {event.event_id for _, event in accepted}
    assert len(ids) == 100
    assert all(len(event_id) == 32 for event_id in ids)


@pytest.mark.parametrize("type_", ["refund", "return"])
def test_money_may_flow_back(type_: str) -> None:
    body = json.dumps(event(type=type_, properties={"price": -3.0})).encode()
    assert len(decode_events(body, now=NOW)[0]) == 1


def test_edges_of_time_are_inclusive() -> None:
    limits = Limits(future_ms=1000, earliest=NOW - 1000)
    times = [NOW - 1001, NOW - 1000, NOW + 1000, NOW + 1001]
    body = json.dumps([event(timestamp=t) for t in times]).encode()
    accepted, rejected = decode_events(body, now=NOW, limits=limits)
    assert [i for i, _ in accepted] == [1, 2]
    assert [r.code for r in rejected] == ["too_old", "in_future"]


@pytest.mark.parametrize(
    ("body", "content_type", "count"),
    [
        (f"  {GOOD_TEXT}  ", None, 1),
        (json.dumps(GOOD, indent=2), "application/json", 1),
        (json.dumps([GOOD, GOOD], indent=2), None, 2),
        (f"{GOOD_TEXT}\n{GOOD_TEXT}", None, 2),
        (f"\n{GOOD_TEXT}\r\n\r\n{GOOD_TEXT}\r\n", "application/x-ndjson; charset=utf-8", 2),
        ("[]", None, 0),
        ("[ \n]", None, 0),
        ("", "application/x-ndjson", 0),
    ],
)
def test_shapes_of_a_body(body: str, content_type: str | None, count: int) -> None:
    accepted, rejected = decode_events(body.encode(), now=NOW, content_type=content_type)
    assert (count, []) == (len(accepted), rejected)


def test_quotes_written_as_escapes_are_no_duplicates() -> None:
    body = raw(properties='{"a": "\\u0022", "b": "say \\"x\\"", "\\u00e9": "\\u20ac"}')
    [(_, found)], rejected = decode_events(body.encode(), now=NOW)
    assert rejected == []
    assert found.properties == {"a": '"', "b": 'say "x"', "é": "€"}


def test_items() -> None:
    body = json.dumps(
        [
            {"item_id": "i", "title": "T", "category": "c", "price": 3, "properties": {"a": [1]}},
            {"item_id": "j", "available": False, "timestamp": "2025-06-01T00:00:00Z"},
            {"item_id": "k", "price": -1},
            {"item_id": ""},
            {"item_id": "l", "category": "a\nb"},
            {"item_id": "m", "timestamp": NOW + 10**9},
            {"title": "nameless"},
            {"item_id": "n", "price": "3"},
        ]
    ).encode()
    accepted, rejected = decode_items(body, now=NOW)
    parts: dict[str, Any] = {"title": "T", "category": "c", "properties": {"a": [1]}}
    first = Item(item_id="i", timestamp=NOW, price=3.0, **parts)
    second = Item(item_id="j", timestamp=1_748_736_000_000, available=False)
    assert accepted == [(0, first), (1, second)]
    codes = ["bad_number", "too_long", "bad_id", "in_future", "missing_field", "wrong_type"]
    assert [(i + 2, code) for i, code in enumerate(codes)] == [(r.index, r.code) for r in rejected]


def test_users() -> None:
    body = (
        b'{"user_id": "u", "properties": {"age": "35-44"}}\n{"user_id": "device:x"}\n{"user_id": 3}'
    )
    accepted, rejected = decode_users(body, now=NOW)
    assert [(0, User(user_id="u", timestamp=NOW, properties={"age": "35-44"}))] == accepted
    assert [(r.index, r.code) for r in rejected] == [(1, "bad_id"), (2, "wrong_type")]


@pytest.mark.parametrize("decode", [decode_events, decode_items, decode_users])
def test_every_door_refuses_what_is_no_batch(decode: Callable[..., Any]) -> None:
    with pytest.raises(PayloadError):
        decode(b"<xml/>", now=NOW)


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x80", b"{}", b"\x91" * 5000, b"\xff" * 9])
def test_what_is_no_entry_is_refused(payload: bytes) -> None:
    with pytest.raises(EntryError):
        decode_entry(payload)
