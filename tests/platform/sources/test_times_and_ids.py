"""Times by the server's clock, and ids that stay the same when a request is sent again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.sources.mapped import NOON, NOW, of_ga4, of_plain, of_segment, packaged

from tactful.sources.mapping import Mappings
from tactful.sources.segment import read_calls
from tactful.sources.translate import event_id

MINUTE = 60_000


@pytest.fixture(scope="module")
def mappings() -> Mappings:
    return packaged()


def stamp(milliseconds: int) -> str:
    import datetime as dt

    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC).isoformat()


def time_of(message: dict[str, Any], **batch: Any) -> int | None:
    (read,) = read_calls(json.dumps({"batch": [message], **batch}).encode(), "batch", received=NOW)
    assert read.problem is None
    return read.time


@given(st.integers(-(10**9), 10**9), st.integers(0, 10**8), st.integers(0, 10**4))
def test_a_clock_that_is_wrong_is_corrected(skew: int, waited: int, underway: int) -> None:
    """As Segment documents: receivedAt - (sentAt - originalTimestamp)."""
    happened = NOW - underway - waited
    message = {"type": "track", "originalTimestamp": stamp(happened + skew)}
    found = time_of(message, sentAt=stamp(happened + waited + skew))
    assert found == pytest.approx(happened + underway, abs=2)
    assert found is not None
    assert found <= NOW, "nothing is received before it happens"


def test_which_of_the_times_count() -> None:
    noon = NOW - 5000
    assert time_of({"type": "track"}) is None
    assert time_of({"type": "track", "timestamp": NOON}) == noon
    assert (
        time_of({"type": "track", "timestamp": NOON}, sentAt=stamp(noon + MINUTE)) == NOW - MINUTE
    )
    assert time_of({"type": "track", "timestamp": NOON}, sentAt="odd") == noon
    own = {"type": "track", "timestamp": NOON, "sentAt": stamp(noon + MINUTE)}
    assert time_of(own, sentAt=stamp(noon)) == NOW - MINUTE, "its own counts more than the batch's"
    both = {"type": "track", "originalTimestamp": stamp(noon - MINUTE), "timestamp": NOON}
    assert time_of(both, sentAt=stamp(noon + 1)) == noon, "corrected before, or chosen"
    passed_on = {"type": "track", "receivedAt": stamp(noon), "timestamp": NOON}
    assert time_of(passed_on, sentAt=stamp(noon + 1)) == noon


def test_what_is_no_time_is_refused(mappings: Mappings) -> None:
    made = of_segment(
        mappings,
        {"type": "alias", "userId": "u", "previousId": "d", "timestamp": "noon"},
        {"type": "alias", "userId": "u", "previousId": "d", "timestamp": "1970-01-02T00:00:00Z"},
        {"type": "alias", "userId": "u", "previousId": "d", "timestamp": "2999-01-01T00:00:00Z"},
    )
    assert [it.problems[0].code for it in made] == ["bad_timestamp", "too_old", "in_future"]


def ids_of(*requests: list[Any]) -> list[str]:
    return [event.event_id for made in requests for it in made for event in it.events]


def test_messages_without_an_id_get_one_from_their_content(mappings: Mappings) -> None:
    message = {"type": "alias", "userId": "u", "previousId": "d", "timestamp": NOON}
    other = {**message, "userId": "v"}

    def sent(at: int) -> list[Any]:
        return of_segment(
            mappings, message, message, other, {**message, "sentAt": stamp(at)}, sentAt=stamp(at)
        )

    first, again = ids_of(sent(NOW)), ids_of(sent(NOW + MINUTE))
    assert first == again
    assert len({*first}) == 4, "what is sent twice at once happened twice"
    event = {"event": "view", "user": "u", "item": "a", "ts": 1630000000}
    assert ids_of(of_plain(mappings, event)) == ids_of(of_plain(mappings, event))
    login = {"name": "login"}
    stamped = {"user_id": "u", "timestamp_micros": NOW * 1000}
    assert ids_of(of_ga4(mappings, login, **stamped)) == ids_of(of_ga4(mappings, login, **stamped))


def test_without_a_time_a_repetition_cannot_be_known(mappings: Mappings) -> None:
    message = {"type": "alias", "userId": "u", "previousId": "d"}
    assert ids_of(of_segment(mappings, message)) != ids_of(of_segment(mappings, message))


def test_an_order_of_ga4_counts_once(mappings: Mappings) -> None:
    order = {
        "name": "purchase",
        "params": {"transaction_id": "T1", "items": [{"item_id": "a"}] * 2},
    }
    refund = {**order, "name": "refund"}
    ids = ids_of(of_ga4(mappings, order), of_ga4(mappings, order, timestamp_micros=NOW * 1000))
    assert ids == ["purchase:T1#0", "purchase:T1#1"] * 2
    assert not {*ids} & {*ids_of(of_ga4(mappings, refund, timestamp_micros=NOW * 1000))}


@given(st.text(min_size=1, max_size=600), st.none() | st.integers(0, 249))
def test_ids_fit(identity: str, number: int | None) -> None:
    made = event_id(identity, number)
    assert 1 <= len(made) <= 256
    assert made == event_id(identity, number)
    if len(identity) <= 250:
        assert made.startswith(identity)
