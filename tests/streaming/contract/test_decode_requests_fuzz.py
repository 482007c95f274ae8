"""Any body is answered: no exception but PayloadError, no valid neighbour lost."""

import contextlib
import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.contract.decode_requests import decode_events, decode_items
from tactful_streaming.contract.log_entries import decode_entry, encode_entry
from tactful_streaming.errors import PayloadError

NOW = 1_750_000_000_000

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
ids = st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=30).filter(
    lambda text: not text.startswith("device:")
)
names = st.text(min_size=1, max_size=10).filter(
    lambda name: name not in {"price", "quantity", "dwell_ms", "category"}
)
good_events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["view", "purchase", "x.like"]),
        "timestamp": st.integers(NOW - 10**11, NOW),
        "user_id": ids,
    },
    optional={
        "event_id": ids,
        "item_id": ids | st.none(),
        "properties": st.dictionaries(names, scalars | finite | st.lists(scalars, max_size=3)),
        "context": st.dictionaries(names, scalars | finite, max_size=5),
    },
)
junk = st.recursive(
    scalars | st.floats(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(st.binary(max_size=300))
def test_random_bytes(body: bytes) -> None:
    for content_type in (None, "application/x-ndjson"):
        try:
            accepted, rejected = decode_events(body, now=NOW, content_type=content_type)
        except PayloadError:
            continue
        indices = sorted([i for i, _ in accepted] + [r.index for r in rejected])
        assert list(range(len(indices))) == indices


@given(good_events, st.booleans())
def test_good_events_survive_the_way_into_the_log(sent: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps([sent], ensure_ascii=ascii_only).encode()
    [(_, event)], rejected = decode_events(body, now=NOW)
    assert rejected == []
    assert event == decode_entry(encode_entry(event))
    for name, value in sent.items():
        assert value == (getattr(event, name))


@given(st.lists(good_events | junk, max_size=8), st.booleans(), st.booleans())
def test_junk_spares_good_neighbours(batch: list[Any], lines: bool, ascii_only: bool) -> None:
    def is_good(element: Any) -> bool:
        return isinstance(element, dict) and {"type", "timestamp", "user_id"} <= element.keys()

    texts = [json.dumps(element, ensure_ascii=ascii_only) for element in batch]
    body = ("\n".join(texts) if lines else "[" + ",".join(texts) + "]").encode()
    content_type = "application/x-ndjson" if lines else None
    accepted, rejected = decode_events(body, now=NOW, content_type=content_type)
    assert [i for i, element in enumerate(batch) if is_good(element)] == [i for i, _ in accepted]
    assert len(batch) == len(accepted) + len(rejected)


@given(good_events, st.randoms(use_true_random=False), st.integers(1, 6))
@settings(max_examples=300)
def test_mutated_events(sent: dict[str, Any], rng: random.Random, edits: int) -> None:
    bad = bytearray(json.dumps(sent).encode())
    for _ in range(edits):
        where = rng.randrange(len(bad))
        if rng.random() < 0.5:
            bad[where] = rng.randrange(256)
        elif rng.random() < 0.5:
            bad.insert(where, rng.choice(b'"\\{}[],:0eE-.n\xff'))
        elif len(bad) > 1:
            del bad[where]
    good = json.dumps(sent).encode()
    mutant = bytes(bad).replace(b"\n", b" ").replace(b"\r", b" ")
    body = good + b"\n" + mutant + b"\n" + good
    accepted, rejected = decode_events(body, now=NOW, content_type="application/x-ndjson")
    indices = [i for i, _ in accepted]
    last = 2 if mutant.strip() else 1
    assert {0, last} <= set(indices)
    assert last + 1 == len(accepted) + len(rejected)
    for decode in (decode_events, decode_items):
        with contextlib.suppress(PayloadError):
            decode(b"[" + good + b"," + mutant + b"]", now=NOW)


@given(good_events, st.data())
def test_a_duplicate_key_is_found_wherever_it_is(sent: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(sent, ensure_ascii=data.draw(st.booleans()))
    spots = [("{", sent)]
    for part in ("properties", "context"):
        if sent.get(part):
            spots.append((f'"{part}": {{', sent[part]))
    opening, target = data.draw(st.sampled_from(spots))
    key = data.draw(st.sampled_from(sorted(target)))
    value = data.draw(st.sampled_from([target[key], "", '"', "\\", 'a"b']))
    if key in {"properties", "context"}:
        value = target[key]
    pair = f"{json.dumps(key)}: {json.dumps(value)}, "
    body = text.replace(opening, opening + pair, 1)
    accepted, rejected = decode_events(f"[{text},{body}]".encode(), now=NOW)
    assert [i for i, _ in accepted] == [0]
    assert [r.index for r in rejected] == [1]
