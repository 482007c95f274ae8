from dataclasses import replace
from typing import Any

import msgspec
import pytest

from tactful_streaming.contract.decode_requests import decode_events
from tactful_streaming.contract.log_entries import decode_entry, encode_entry
from tactful_streaming.definitions.model import emitted_types
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.patterns.match import Match, action_of

START = 1_700_000_000_000
TIMES = (START, START + 500, START + 600_500)
MATCH = Match("abandoned", "user", "u", None, *TIMES, events=("e1", "e2"), subject="u")


def test_the_types_of_actions_are_read_from_the_definitions() -> None:
    definitions = load_definitions("""
- {name: a, entity: user, sequence: [view, leave], within: 5m, emit: coupon}
- {name: b, entity: user, sequence: [view, leave], within: 5m}
- {name: c, entity: user, join: {event: view, with: item_updates}, emit: changed}
- {name: d, entity: user, event: view, aggregate: count, window: {size: 5m}}
""")
    assert emitted_types(definitions) == {"a": "x.coupon", "c": "x.changed"}


def test_an_action_is_an_event_of_the_user_of_the_match() -> None:
    action = action_of(MATCH, "x.coupon")
    assert action is not None
    assert (action.type, action.user_id, action.device_id) == ("x.coupon", "u", None)
    assert action.timestamp == MATCH.decided, "when it was certain, not when it began"
    assert action.properties["sequence"] == "abandoned"
    assert action.properties["events"] == ["e1", "e2"]
    assert decode_entry(encode_entry(action)) == action


def test_a_device_stays_a_device() -> None:
    action = action_of(replace(MATCH, key="device:d", subject="device:d"), "x.coupon")
    assert action is not None
    assert (action.user_id, action.device_id) == (None, "d")


def test_a_match_of_an_item_names_the_item_and_the_person() -> None:
    action = action_of(replace(MATCH, entity="item", key="i", subject="u"), "x.coupon")
    assert action is not None
    assert (action.user_id, action.item_id) == ("u", "i")
    assert action.properties["events"] == ["e2"], "the others are not known to be theirs"
    assert action_of(replace(MATCH, entity="item", key="i", subject=None), "x.coupon") is None


def test_the_id_is_that_of_the_match_and_of_no_other() -> None:
    first = action_of(MATCH, "x.coupon")
    again = action_of(replace(MATCH), "x.coupon")
    assert first == again
    fields: list[tuple[str, Any]] = [("name", "other"), ("key", "v"), ("same", "i"), ("same", "5")]
    fields += [("item_timestamp", 5), ("events", ("e1", "e3")), ("events", ("e1e2",))]
    others = [replace(MATCH, **{name: value}) for name, value in fields]
    ids = {action.event_id for m in [MATCH, *others] if (action := action_of(m, "x.coupon"))}
    assert len(ids) == 8


@pytest.mark.parametrize("length", [1, 1000])
def test_an_action_passes_the_door_of_events(length: int) -> None:
    ids = tuple(f"{n:0256}" for n in range(length))
    action = action_of(replace(MATCH, events=ids, same="i", item_timestamp=7), "x.coupon")
    assert action is not None
    data = msgspec.to_builtins(action)
    sent = {key: value for key, value in data.items() if value is not None and key != "kind"}
    accepted, rejected = decode_events(msgspec.json.encode(sent), now=action.timestamp)
    assert not rejected
    assert accepted == [(0, action)]
