import contextlib
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tactful_streaming.contract.log_entries import (
    Entry,
    EntryFormat,
    Event,
    Item,
    Records,
    Tick,
    User,
    decode_entry,
    encode_entry,
    from_offset,
    payloads_of,
    route_key,
)
from tactful_streaming.errors import EntryError

FORMATS: tuple[EntryFormat, ...] = ("msgpack", "json")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TIMES = st.integers(0, 32_503_680_000_000)
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT
PROPERTIES = st.dictionaries(TEXT, SCALARS | st.lists(SCALARS, max_size=3), max_size=4)
ENTRIES: st.SearchStrategy[Entry] = st.one_of(
    st.builds(
        Event,
        event_id=TEXT,
        type=st.sampled_from(["view", "x.custom"]),
        timestamp=TIMES,
        user_id=st.none() | TEXT,
        item_id=st.none() | TEXT,
        properties=PROPERTIES,
        context=st.dictionaries(TEXT, SCALARS, max_size=3),
    ),
    st.builds(
        Item,
        item_id=TEXT,
        timestamp=TIMES,
        price=st.none() | st.floats(0, 1e9),
        available=st.booleans(),
        properties=PROPERTIES,
    ),
    st.builds(User, user_id=TEXT, timestamp=TIMES, properties=PROPERTIES),
    st.builds(Tick, timestamp=TIMES),
)


@given(ENTRIES)
def test_both_formats_hold_the_same(entry: Entry) -> None:
    for format in FORMATS:
        decoded = decode_entry(encode_entry(entry, format))
        assert type(decoded) is type(entry)
        assert repr(entry) == repr(decoded)  # 1 and 1.0 are equal, and not the same


def test_json_is_readable_by_others() -> None:
    written = encode_entry(Tick(timestamp=5), "json")
    assert msgspec.json.decode(written) == {"kind": "tick", "timestamp": 5}
    assert encode_entry(Tick(timestamp=5)) == encode_entry(Tick(timestamp=5), "msgpack")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b'{"kind":"tick"}',
        b'{"kind":"tick","timestamp":-1}',
        b'{"kind":"tock","timestamp":1}',
        b'{"kind":"event","event_id":"1","type":"view","timestamp":1.5}',
        encode_entry(Tick(timestamp=5))[:-1],
        encode_entry(Tick(timestamp=5), "json")[:-1],
        b'{"kind":"user","user_id":"u","timestamp":1,"properties":' + b"[" * 10_000,
    ],
)
def test_anything_else_is_refused(payload: bytes) -> None:
    with pytest.raises(EntryError, match="not a log entry"):
        decode_entry(payload)


@given(st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_an_entry_error(payload: bytes) -> None:
    with contextlib.suppress(EntryError):
        decode_entry(payload)


def test_events_go_by_person_and_all_else_goes_everywhere() -> None:
    event = Event(event_id="e", type="view", timestamp=0)
    assert route_key(replace(event, user_id="u", device_id="d")) == "u"
    assert route_key(replace(event, device_id="d")) == "device:d"
    assert route_key(event) == "e"
    assert route_key(Item(item_id="i", timestamp=0)) is None
    assert route_key(User(user_id="u", timestamp=0)) is None
    assert route_key(Tick(timestamp=0)) is None


PAIRS = [(7, b"a"), (8, b"b"), (11, b"c")]
RUN = Records([7, 8, 11], [b"a", b"b", b"c"])


def test_a_run_reads_as_its_pairs() -> None:
    assert [*RUN] == PAIRS
    assert [RUN[number] for number in range(len(RUN))] == PAIRS
    assert RUN[-1] == PAIRS[-1]
    assert RUN[1:] == PAIRS[1:]
    assert PAIRS[0] in RUN
    assert RUN == PAIRS
    assert PAIRS[:2] != RUN
    assert RUN != [(7, b"a"), (8, b"b"), (12, b"c")]
    with pytest.raises(IndexError):
        RUN[3]


def test_payloads_are_those_of_the_pairs() -> None:
    assert [*payloads_of(RUN)] == [*payloads_of(PAIRS)] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("offset", range(6, 13))
def test_what_was_applied_is_left_out(offset: int) -> None:
    expected = [pair for pair in PAIRS if pair[0] >= offset]
    assert [*from_offset(RUN, offset)] == [*from_offset(PAIRS, offset)] == expected
    assert [*from_offset([], offset)] == []
