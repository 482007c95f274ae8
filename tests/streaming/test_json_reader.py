"""Machine code reads of JSON what the general decoder reads, and nothing that it would refuse."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming import Engine, Event, MemoryState, Tick, encode_entry, load_definitions
from tactful_streaming import json_reader as module
from tactful_streaming.chains import Chains
from tactful_streaming.entries import ENTRY_ERRORS
from tactful_streaming.identity import Identity
from tactful_streaming.json_reader import (
    JsonEvents,
    JsonReader,
    NumberedTexts,
    Numbers,
    quoted,
    unquoted,
)
from tactful_streaming.partitions import Partitions
from tactful_streaming.pattern import compile_pattern
from tactful_streaming.projection import Projection
from tactful_streaming.records import PADDING

SOURCES = ("event_id", "session_id", "item_id", "properties.category", "properties.price")
START = 1_760_000_000_000


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(module, "_UNUSUAL_SHARE", 0)
    monkeypatch.setattr(module, "_REST", 0)


def both(sources: Sequence[str] = SOURCES) -> tuple[Projection, Projection]:
    """One that reads by machine code, and one that decodes."""
    return Projection(sources, compiled=True), Projection(sources)


def compare(
    compiled: Projection, plain: Projection, payloads: Sequence[bytes], sources: Sequence[str]
) -> bool:
    """Whether machine code read them; if so, they are what the decoder says they are."""
    events = compiled.read(payloads)
    decoded = plain.decode(payloads)
    if events is None:
        return False
    assert [type(event) for event in decoded] == [plain.event_class] * len(payloads)
    assert len(events) == len(decoded)
    assert events.times.tolist() == [event.timestamp for event in decoded]
    assert [*events.users] == plain.column(decoded, "user_id")
    types = sorted({event.type for event in decoded})
    codes = {type_: code for code, type_ in enumerate(types[::2])}
    assert events.codes(codes, -7).tolist() == [codes.get(event.type, -7) for event in decoded]
    assert events.of_types(types[:1]) == [
        place for place, event in enumerate(decoded) if event.type == types[0]
    ]
    for source in sources:
        expected = plain.column(decoded, source)
        found = compiled.column(events, source)
        assert found == expected, source
        # 1, 1.0 and True are equal and not the same.
        assert [*map(type, found)] == [*map(type, expected)], source
        assert [*map(repr, found)] == [*map(repr, expected)], source
    if "event_id" in sources:
        assert unquoted(events.quoted("event_id")) == plain.column(decoded, "event_id")
    for position in (0, len(events) - 1):
        fields = plain.event_class.__struct_fields__
        one = events[position]
        assert all(getattr(one, f) == getattr(decoded[position], f) for f in fields if f[0] != "p")
    return True


def usual(number: int, **changes: Any) -> dict[str, Any]:
    """An event as clients send it."""
    return {
        "kind": "event",
        "event_id": f"e{number}",
        "type": ("view", "click", "purchase")[number % 3],
        "timestamp": START + number,
        "user_id": f"u{number % 7}",
        "device_id": None,
        "session_id": None if number % 4 else f"s{number}",
        "item_id": f"item-{number}",
        "recommendation_id": None,
        "properties": {"category": f"c{number % 5}", "price": number / 4},
        "context": {"page": "/p/1", "new": True},
        **changes,
    }


def encoded(fields: object) -> bytes:
    return msgspec.json.encode(fields)


def test_usual_events_are_read_whole() -> None:
    compiled, plain = both()
    payloads = [encoded(usual(number)) for number in range(300)]
    for _ in range(2):  # what was remembered of the first batch serves the second
        assert compare(compiled, plain, payloads, SOURCES)


def test_an_event_of_our_own_encoder_is_usual() -> None:
    compiled, plain = both(())
    events = [
        Event(event_id=str(n), type="view", timestamp=START, user_id="u", properties={"a": n})
        for n in range(9)
    ]
    payloads = [encode_entry(event, "json") for event in events]
    assert compare(compiled, plain, payloads, ())
    read = compiled.read(payloads)
    assert read is not None
    assert read.users.places.tolist() == [0] * 9


VALUES = [
    "null", "true", "false", "0", "-0", "-1", "7", "01", "1.", ".5", "1.5", "-2.50", "0.1", "1e3",
    "1E-2", "123456789012345678901234567890", "12345678901234567", "123456789012345678",
    "0.12345678901234567", "9007199254740993", "179769313486231570.5", "-", "+1", "NaN", "nul",
    "nulll", "tru", "truefalse", '""', '"x"', '"\\u0041"', '"a\\"b"', '"é"', '"x', "'x'", '"\t"',
    "[]", "[1,2]", '["a"]', "{}", '{"a":1}', '{"a":{"b":1}}', '{"a":1,}', '{"a"}', "{", "[", "",
    " 1", "1 ", '"\x7f"', '"a/b"', str(2**63), "1759999999852", "32503680000000", "32503680000001",
    "99999999999999", "100000000000000", "1759999999852.0", '"1759999999852"',
    # What looks like a digit by half of its bits, among those that are read eight at a time.
    *(f"{'1759999999852'[:place]}{near}{'1759999999852'[place + 1:]}"
      for near in "/:?" for place in (0, 3, 7, 8, 12)),
]  # fmt: skip


@pytest.mark.parametrize("name", [*usual(0), "category", "price", "unknown", "kindness"])
def test_every_kind_of_value_in_every_place(name: str) -> None:
    for value in VALUES:
        compiled, plain = both()
        raw = value.encode()
        fields = usual(1)
        if name in ("category", "price"):
            fields["properties"] = {**fields["properties"], name: "?"}
        else:
            fields[name] = "?"
        odd = encoded(fields).replace(b'"?"', raw)
        assert odd.count(raw) or not raw
        payloads = [encoded(usual(0)), odd, encoded(usual(2))]
        decoded = plain.decode(payloads)
        read = compare(compiled, plain, payloads, SOURCES)
        if read:
            assert type(decoded[1]) is plain.event_class, value
        else:
            # Refused or of nobody; but never because of its neighbours.
            of_somebody = type(decoded[1]) is plain.event_class and decoded[1].user_id is not None
            assert not of_somebody, value
            assert compare(compiled, plain, [payloads[0], payloads[2]], SOURCES)


ODD = [
    b"", b"{", b"{}", b"[]", b"null", b"{\n}", b'{"kind":"event"}', b"\x82\xa1a", b"\0", b"}\n{",
    encoded(usual(1)) + b" ", encoded(usual(1)) + b"\n", b" " + encoded(usual(1)),
    encoded(usual(1)) + encoded(usual(2)), encoded(usual(1)) + b"\n" + encoded(usual(2)),
    encoded(usual(1))[:-1], encoded(usual(1))[:-1] + b"\n}", encoded(usual(1)) + b"}",
    encoded(usual(1)).replace(b",", b", "), encoded(usual(1)).replace(b":", b" :"),
    encoded(usual(1)).replace(b'"type"', b'"\\u0074ype"'),
    encoded(usual(1))[:-1] + b',"user_id":"other"}', encoded(usual(1))[:-1] + b',"kind":"event"}',
    encoded(usual(1))[:-1] + b',"properties":{"price":1}}',
    encoded(usual(1))[:-1] + b',"context":{"price":7,"category":"no"}}',
    encoded({name: value for name, value in reversed(usual(1).items())}),
    encoded(usual(1, user_id=None, device_id="d")), encoded(usual(1, user_id=None)),
    encoded(usual(1, user_id="J\u00f6rg")), encoded(usual(1, user_id="u" * 17)),
    encoded(usual(1, user_id="")), encoded(usual(1, user_id="u\n1")),
    encoded(usual(1, context={"category": "context", "timestamp": 5, "user_id": "nobody"})),
    encoded(usual(1, properties={})), encoded(usual(1, properties={"price": 3, "price ": 4})),
    encoded(usual(1, properties={"price": [1, "a"], "other": {"deep": 1}})),
    encode_entry(Tick(timestamp=START), "json"),
    b'{"kind":"item","item_id":"i","timestamp":1}',
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_odd_records_among_usual_ones(odd: bytes, place: int) -> None:
    compiled, plain = both()
    payloads = [encoded(usual(0)), encoded(usual(2))]
    payloads.insert(place, odd)
    good = type(plain.decode([odd])[0]) is plain.event_class
    if not compare(compiled, plain, payloads, SOURCES):
        assert (
            not good
            or b"\n" in odd
            or place == 0
            or plain.column(plain.decode([odd]), "user_id") == [None]
        )
    assert compare(compiled, plain, [encoded(usual(n)) for n in range(3)], SOURCES)


def test_each_missing_member_is_noticed() -> None:
    for name in usual(1):
        compiled, plain = both()
        fields = usual(1)
        del fields[name]
        payloads = [encoded(usual(0)), encoded(fields)]
        sound = not isinstance(plain.decode(payloads)[1], Exception)
        of_somebody = name != "user_id"
        assert compare(compiled, plain, payloads, SOURCES) == (sound and of_somebody), name


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_text_is_never_read_as_something_else(data: st.DataObject) -> None:
    """Bytes of usual events are changed, taken out, doubled and put in anywhere."""
    compiled, plain = both()
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    payloads = []
    for number in range(12):
        raw = bytearray(encoded(usual(number)))
        for _ in range(rng.choice([0, 0, 1, 1, 2])):
            at = rng.randrange(len(raw))
            kind = rng.randrange(4)
            byte = rng.choice(b'{}[],:"\\ \n\t0123456789.-+eEntfu\x00\x1f\x7f\x80\xc3\xff')
            if kind == 0:
                raw[at] = byte
            elif kind == 1:
                del raw[at : at + rng.randrange(1, 9)]
            elif kind == 2:
                raw[at:at] = bytes([byte])
            else:
                raw[at:at] = raw[at : at + rng.randrange(1, 30)]
        payloads.append(bytes(raw))
    compare(compiled, plain, payloads, SOURCES)
    for payload in payloads:  # alone, it cannot hide behind another
        compare(compiled, plain, [encoded(usual(0)), payload], SOURCES)


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
)  # fmt: skip
texts = st.text(max_size=40) | st.text("abcdefgh0123456789-_", max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "kind": st.just("event"),
                "event_id": texts,
                "type": texts,
                "timestamp": st.integers(0, 32_503_680_000_000),
                "user_id": texts,
            },
            optional={
                "device_id": texts | st.none(),
                "session_id": texts | st.none(),
                "item_id": texts | st.none(),
                "properties": st.dictionaries(
                    texts | st.sampled_from(["category", "price"]), scalars, max_size=4
                ),
                "context": st.dictionaries(texts, scalars, max_size=4),
                "more": scalars,
            },
        ).flatmap(lambda fields: st.permutations([*fields.items()]).map(dict)),
        min_size=1,
        max_size=8,
    )
)
def test_any_event_that_can_be_written_is_read_the_same(events: list[dict[str, Any]]) -> None:
    compiled, plain = both()
    payloads = [encoded(event) for event in events]
    try:
        plain.event_class, msgspec.json.decode(payloads[0])
    except ENTRY_ERRORS:
        return
    sound = not any(isinstance(event, Exception) for event in plain.decode(payloads))
    assert compare(compiled, plain, payloads, SOURCES) == sound


def test_one_long_id_does_not_make_all_of_them_wide() -> None:
    """The server takes none of the kind, but others may write to the topic."""
    compiled, plain = both(["event_id"])
    for long in ("y" * 100_000, "\u00fc" * 100_000):
        payloads = [encoded(usual(n, event_id=long if n == 7 else f"e{n}")) for n in range(200)]
        assert compare(compiled, plain, payloads, ["event_id"])
        events = compiled.read(payloads)
        assert events is not None
        assert events.quoted("event_id").nbytes < len(long)
        some = [quoted(["a"]), events.quoted("event_id")[6:9], quoted(["b"])]
        assert unquoted(np.concatenate(some)) == ["a", "e6", long, "e8", "b"]


def test_no_byte_behind_the_padding_is_read() -> None:
    """The text ends at a page that cannot be read, and a text that ends too late kills."""
    script = str(Path(__file__).with_name("guarded_json.py"))
    for taken in (0, len(PADDING)):
        ended = subprocess.run(
            [sys.executable, script, str(taken)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if taken:
            assert ended.returncode in (-signal.SIGSEGV, -signal.SIGBUS), ended
        else:
            assert ended.returncode == 0, ended
            assert 500 < int(ended.stdout) < 4_000  # some are read, and some are not


def test_numbers_stay_when_there_are_many_and_begin_anew_when_there_are_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST_USERS", 64)
    compiled, plain = both(())
    for start in range(0, 400, 40):
        users = [f"{'long-' * (number % 5)}u{number}" for number in range(start, start + 40)]
        payloads = [encoded(usual(n, user_id=user)) for n, user in enumerate(users)]
        assert compare(compiled, plain, payloads, ())
    crowd = [encoded(usual(n, user_id=f"crowd {n}")) for n in range(65)]
    assert compiled.read(crowd) is None


def test_a_text_has_one_number_whoever_asks() -> None:
    numbers = Numbers(64)
    texts = ["", "a", "é", "x" * 16, "x" * 17, "x" * 30, "a\0", "\0"]
    given = [numbers.number(text) for text in texts]
    assert given == [*range(len(texts))]
    assert [numbers.number(text) for text in reversed(texts)] == given[::-1]
    assert numbers.texts == texts
    assert [numbers.place_of(text) for text in texts] == given
    assert numbers.place_of("unknown") is None


DEFINITIONS = """
- {name: views, entity: user, event: [view, click], aggregate: count, window: {size: 5m, slide: 1m}}
- {name: spent, entity: user, event: purchase, aggregate: sum, of: properties.price,
   window: {size: 1h, slide: 5m}}
- {name: kinds, entity: user, event: view, aggregate: count, group_by: category,
   window: {size: 5m, slide: 1m, decay: 0.8}}
- {name: seen, entity: item, event: view, aggregate: count, window: {size: 5m}}
- {name: visit, entity: session, event: view, aggregate: count, window: {size: 5m}}
- {name: bought, entity: user, sequence: [view, purchase], within: 5m, emit: coupon}
"""


def stream(seed: int, count: int) -> list[bytes]:
    """Disordered events of a few people, some of them unusual, some repeated."""
    rng = random.Random(seed)
    payloads: list[bytes] = []
    for number in range(count):
        odd = rng.random()
        changes: dict[str, Any] = {
            "timestamp": START + number * 900 - rng.randrange(60_000),
            "user_id": f"u{rng.randrange(30)}",
        }
        if odd < 0.01:
            changes |= {"user_id": None, "device_id": f"d{rng.randrange(5)}"}
        elif odd < 0.03:
            changes["user_id"] = f"ü{rng.randrange(3)}"
        elif odd < 0.04:
            changes |= {"type": "x.login", "device_id": f"d{rng.randrange(5)}"}
        fields = usual(number, **changes)
        payload = encoded(fields)
        if 0.04 < odd < 0.045:
            payload = payload[:-3]
        elif odd < 0.05 and payloads:
            payload = rng.choice(payloads)
        payloads.append(payload)
    return payloads


@pytest.mark.parametrize("dedupe_days", [0, 7])
@pytest.mark.parametrize("identity", [None, Identity(), Identity(logins=frozenset({"x.login"}))])
def test_an_engine_computes_and_stores_the_same(
    dedupe_days: int, identity: Identity | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0
    read: Callable[..., JsonEvents | None] = JsonReader.read

    def counted(reader: JsonReader, payloads: Sequence[bytes]) -> JsonEvents | None:
        nonlocal reads
        events = read(reader, payloads)
        reads += events is not None
        return events

    monkeypatch.setattr(JsonReader, "read", counted)
    for seed in range(2):
        payloads = stream(seed, 1500)
        fired: dict[bool, list[Any]] = {True: [], False: []}
        states = {}
        for compiled in (True, False):
            state = states[compiled] = MemoryState()
            engine = Engine(
                load_definitions(DEFINITIONS),
                state,
                dedupe_days=dedupe_days,
                watermark_delay_ms=20_000,
                allowed_lateness_ms=60_000,
                identity=identity,
                on_fired=fired[compiled].extend,
                on_match=fired[compiled].extend,
                compiled=compiled,
            )
            rng, start = random.Random(seed), 0
            while start < len(payloads):
                size = rng.choice([1, 7, 40, 200])
                engine.apply(list(enumerate(payloads[start : start + size], start)))
                start += size
                if rng.random() < 0.3:
                    engine.commit()
            engine.commit()
        assert fired[True] == fired[False]
        assert [*states[True].scan(b"")] == [*states[False].scan(b"")]
    assert reads > 10


def test_rows_of_partitions_are_found_by_number_while_they_come_and_go() -> None:
    """Whatever was looked up before, a number finds the row that its text has now."""
    sequence = load_definitions(DEFINITIONS).sequences[0]
    partitions = Partitions(
        Chains(compile_pattern(sequence), 1000, slots=2, most=1000, past_last=True)
    )
    numbers = Numbers(256)
    keys = [f"u{number}" for number in range(100)]
    rng = random.Random(11)
    for _ in range(60):
        some = rng.choices([*keys, None], k=30)
        places = np.array([-1 if key is None else numbers.number(key) for key in some])
        found = partitions.find(NumberedTexts(numbers, places))
        assert found.tolist() == [-1 if key is None else partitions.known(key) for key in some]
        assert all((row < 0) == (key is None) for row, key in zip(found, some, strict=True))
        assert len({*found.tolist()}) == len({*some})
        needed = np.array([row for row in found.tolist() if row >= 0 and rng.random() < 0.5])
        partitions.sweep(0, needed.astype(np.int64))
