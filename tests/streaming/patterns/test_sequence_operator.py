from collections.abc import Sequence as Rows

import pytest
from tests.streaming.patterns.test_sequences_oracle import E, feed, found, watermarks_of

from tactful_streaming.definitions.model import Definitions, Sequence, Step
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError, StateError
from tactful_streaming.patterns.automaton import compile_pattern
from tactful_streaming.patterns.factory import make_operators
from tactful_streaming.patterns.match import Match
from tactful_streaming.patterns.partial_match import MAX_EVENTS
from tactful_streaming.patterns.sequence_operator import SequenceOperator

MINUTE = 60_000
START = 1_700_000_000_000


def sequence(text: str) -> Sequence:
    (found,) = load_definitions(f"- {{name: s, entity: user, {text}}}").sequences
    return found


def operator(text: str, **more: int) -> SequenceOperator:
    return SequenceOperator(sequence(text), **more)


def stream(text: str, key: str = "u", every: int = 1000) -> list[E]:
    """Events named by their places, a second apart."""
    return [
        E(f"{key}{number}", type_, START + every * number, key)
        for number, type_ in enumerate(text.split())
    ]


def matches(text: str, events: Rows[E]) -> list[str]:
    """Numbers of the events of each match of one user."""
    found = operator(text)
    feed(found, events, watermarks_of(events, 0))
    found.advance(START + 10_000 * MINUTE)
    return [" ".join(event_id[1:] for event_id in match.events) for match in found.take()]


EXAMPLES = """
[view, add_to_cart] | view view add_to_cart | 0 2
[view, add_to_cart], contiguity: strict | view view add_to_cart | 1 2
[view, add_to_cart], contiguity: strict | view click add_to_cart | 0 2
[{event: view, times: 3}, leave] | view view leave |
[{event: view, times: [2, 3]}, leave] | view view view view leave | 0 1 2 4
[{event: view, times: [1, null]}, leave] | view click view view leave | 0 2 3 4
[view, {event: click, optional: true}, leave] | view leave view click leave | 0 1, 2 3 4
[view, {not: purchase}, leave] | view purchase leave |
[view, {not: purchase}, leave] | view purchase view leave purchase | 2 3
[view, {not: any}, leave] | view rating leave view leave | 3 4
[view, view] | view view view view | 0 1, 2 3
[view, view], skip: to_next | view view view view | 0 1, 1 2, 2 3
[[view, click], any] | rating click rating | 1 2
"""
"""Types that are not named do not disturb strict contiguity; relaxed passes over all others."""


@pytest.mark.parametrize("example", EXAMPLES.strip().splitlines())
def test_by_example(example: str) -> None:
    steps, events, expected = example.split(" |")
    numbers = [part.strip() for part in expected.split(",") if part.strip()]
    assert matches(f"sequence: {steps}, within: 5m", stream(events)) == numbers


@pytest.mark.parametrize(("gap", "count"), [(4 * MINUTE, 1), (5 * MINUTE - 1, 1), (5 * MINUTE, 0)])
def test_the_last_event_comes_less_than_within_after_the_first(gap: int, count: int) -> None:
    events = stream("view leave", every=gap)
    assert len(matches("sequence: [view, leave], within: 5m", events)) == count


ABANDONED = (
    "sequence: [view, add_to_cart, leave, {not: purchase, for: 10m}], within: 5m, emit: coupon"
)


def test_a_coupon_is_emitted_when_only_the_clock_moves() -> None:
    shop = operator(ABANDONED)
    events = stream("view add_to_cart leave")
    feed(shop, events, watermarks_of(events, 0))
    shop.advance(START + 2001)  # everything is behind the watermark
    left = START + 2000
    assert shop.next_timer() == left + 10 * MINUTE, "the runner has to know when to tick"
    shop.advance(left + 10 * MINUTE - 1)
    assert shop.take() == []
    shop.advance(left + 10 * MINUTE)
    (match,) = shop.take()
    assert (match.start, match.end, match.decided) == (START, left, left + 10 * MINUTE)
    assert match.subject == "u"
    assert shop.read("u", left + 11 * MINUTE) == left
    assert shop.next_timer() is None
    shop.advance(left + 100 * MINUTE)
    assert shop.take() == [], "once"


@pytest.mark.parametrize(
    ("after", "who", "fires"),
    [(0, "u", 0), (10 * MINUTE - 1, "u", 0), (10 * MINUTE, "u", 1), (1000, "v", 1)],
)
def test_a_purchase_in_time_prevents_the_coupon(after: int, who: str, fires: int) -> None:
    events = [*stream("view add_to_cart leave"), E("p", "purchase", START + 2000 + after, who)]
    assert len(matches(ABANDONED, events)) == fires


def test_a_last_not_without_time_waits_until_within_is_over() -> None:
    shop = operator("sequence: [view, {not: purchase}], within: 5m")
    events = stream("view")
    feed(shop, events, [0])
    shop.advance(START + 5 * MINUTE - 1)
    assert shop.take() == []
    assert shop.next_timer() == START + 5 * MINUTE
    shop.advance(START + 5 * MINUTE)
    assert [match.decided for match in shop.take()] == [START + 5 * MINUTE]


def test_a_match_waits_until_an_earlier_partial_match_failed() -> None:
    steps = "[view, {event: rating, optional: true, times: 2}, click]"
    definition = f"sequence: {steps}, within: 1m, skip: to_next"
    shop = operator(definition)
    # The first beginning waits for its second rating; the second one is complete.
    events = stream("view rating view click")
    feed(shop, events, watermarks_of(events, 0))
    shop.advance(START + MINUTE - 1)
    assert shop.take() == []
    assert shop.next_timer() == START + MINUTE
    shop.advance(START + MINUTE)
    (match,) = shop.take()
    assert (match.events, match.decided) == (("u2", "u3"), START + MINUTE)
    assert matches(definition, stream("view rating view click rating click")) == ["0 1 4 5", "2 3"]
    past_last = definition.replace("to_next", "past_last")
    assert matches(past_last, stream("view rating view click rating click")) == ["0 1 4 5"]


def test_events_in_disorder_are_put_in_order() -> None:
    first, second, third = stream("view add_to_cart leave")
    shop = operator("sequence: [view, add_to_cart, leave], within: 5m")
    feed(shop, [third, first, second], watermarks_of([third, first, second], 5000))
    assert shop.take() == []
    shop.advance(START + 2001)
    assert [match.events for match in shop.take()] == [("u0", "u1", "u2")]
    assert shop.late == 0


def test_events_before_the_watermark_are_late() -> None:
    shop = operator("sequence: [view, leave], within: 5m")
    events = [E("1", "view", START), E("2", "rating", START - 9), E("3", "leave", START - 1)]
    feed(shop, events, [START, START, START])
    assert shop.late == 1, "a type that is not named is nobody's"
    feed(shop, [E("4", "leave", START)], [START])
    shop.advance(START + 1)
    assert [match.events for match in shop.take()] == [("1", "4")]


def test_same_needs_a_value_in_common() -> None:
    shop = operator("sequence: [view, add_to_cart], within: 5m, same: item_id")
    events = [
        E("1", "view", START, same="a"),
        E("2", "view", START + 1, same="b"),
        E("3", "add_to_cart", START + 2, same="b"),
        E("4", "add_to_cart", START + 3),
    ]
    feed(shop, events, [0] * 4)
    shop.advance(START + 10)
    assert found(shop.take()) == [("u", "b", START + 1, START + 2, ("2", "3"))]


def test_the_last_match_is_remembered_for_some_time() -> None:
    shop = operator("sequence: [view, leave], within: 5m", remembered_ms=10 * MINUTE)
    events = stream("view leave")
    feed(shop, events, watermarks_of(events, 0))
    shop.advance(START + 1001)
    assert shop.read("u", START + 2000) == START + 1000
    assert shop.read("u", START + 1000 + 10 * MINUTE) == 0.0
    assert shop.read("nobody", START) == 0.0
    assert shop.pack_changes()["u"] is not None
    shop.advance(START + 20 * MINUTE)
    assert shop.pack_changes() == {"u": None}, "nothing of them is kept"


def test_users_without_partial_matches_cost_nothing() -> None:
    shop = operator("sequence: [view, leave], within: 5m")
    for number in range(300):
        events = stream("view view", key=f"k{number}")
        feed(shop, events, [0, 0])
    shop.advance(START + 1001)
    stored = shop.pack_changes()
    assert len(stored) == 300 and None not in stored.values()
    shop.advance(START + 10 * MINUTE)
    assert shop.pack_changes() == dict.fromkeys(stored)


def test_beginnings_are_bounded_and_the_oldest_give_way() -> None:
    shop = operator("sequence: [view, leave], within: 5h", max_partial_matches=3)
    events = stream("view view view view view leave")
    feed(shop, events, watermarks_of(events, 0))
    shop.advance(START + MINUTE)
    assert shop.evicted == 2
    assert [match.events for match in shop.take()] == [("u2", "u5")]


@pytest.mark.slow
def test_a_match_without_bound_ends_somewhere() -> None:
    shop = operator("sequence: [{event: view, times: [1, null]}, leave], within: 300d")
    events = [E(str(n), "view", START + n) for n in range(MAX_EVENTS + 50)]
    events.append(E("end", "leave", START + len(events)))
    feed(shop, events, watermarks_of(events, 0))
    shop.advance(START + MINUTE)
    (match,) = shop.take()
    assert len(match.events) == MAX_EVENTS
    assert shop.evicted > 0


def test_merged_people_have_the_past_of_both() -> None:
    for restart in (False, True):
        shop = operator("sequence: [view, add_to_cart, leave], within: 5m")
        device = [E("1", "view", START, "device:d"), E("2", "add_to_cart", START + 1, "device:d")]
        feed(shop, device, [START - 5, START - 5])
        feed(shop, [E("3", "view", START + 2, "device:d")], [START + 2])
        shop.merge("device:d", "u")
        assert shop.read("device:d", START) == 0
        if restart:
            stored = {key: blob for key, blob in shop.pack_changes().items() if blob is not None}
            assert stored.keys() == {"u"}
            shop = operator("sequence: [view, add_to_cart, leave], within: 5m")
            shop.unpack("u", stored["u"])
        feed(shop, [E("4", "leave", START + 3, "u")], [START + 2])
        shop.advance(START + 4)
        assert found(shop.take()) == [("u", None, START, START + 3, ("1", "2", "4"))]
        assert shop.read("u", START + 4) == START + 3


def test_merged_timers_still_expire() -> None:
    shop = operator("sequence: [view, {not: purchase, for: 1m}], within: 5m, same: item_id")
    feed(shop, [E("1", "view", START, "a", "i")], [START])
    shop.advance(START + 1)
    shop.merge("a", "b")
    assert shop.next_timer() == START + MINUTE
    shop.advance(START + MINUTE)
    assert found(shop.take()) == [("b", "i", START, START, ("1",))]


def test_damaged_or_foreign_state_is_refused() -> None:
    with pytest.raises(StateError, match="damaged"):
        operator("sequence: [view, leave], within: 5m").unpack("u", b"\xc1")
    other = operator("sequence: [view, click, rating, leave, purchase], within: 5m")
    events = stream("view click rating leave")
    feed(other, events, [0] * 4)
    other.advance(START + MINUTE)
    blob = other.pack_changes()["u"]
    assert blob is not None
    with pytest.raises(StateError, match="another sequence"):
        operator("sequence: [view, leave], within: 5m").unpack("u", blob)


def test_a_pattern_of_too_many_states_is_refused() -> None:
    steps = tuple(Step(("view",), least=1, most=10_000) for _ in range(3))
    with pytest.raises(DefinitionError, match="repeat less often"):
        compile_pattern(Sequence("long", "user", steps, within_ms=1))


@pytest.mark.parametrize(
    "definitions",
    [
        "- {name: a, entity: user, sequence: [x.a, view], within: 5m, emit: a}",
        "- {name: a, entity: user, sequence: [any, view], within: 5m, emit: a}",
        """
- {name: a, entity: user, sequence: [view, x.b], within: 5m, emit: a}
- {name: b, entity: user, join: {event: x.a, with: item_updates}, emit: b}
""",
    ],
)
def test_actions_that_cause_each_other_are_refused(definitions: str) -> None:
    with pytest.raises(DefinitionError, match=r"^features:[12]: emit: .*without end"):
        load_definitions(definitions)
    # Definitions that were not read from text have no lines.
    endless = Sequence("a", "user", (Step(("x.a",)), Step(("view",))), within_ms=1, emit="a")
    with pytest.raises(DefinitionError, match=r"^emit: .*without end"):
        make_operators(Definitions((), (endless,)))


def test_actions_may_follow_from_actions() -> None:
    operators = make_operators(
        load_definitions("""
- {name: a, entity: user, sequence: [view, {not: x.a}, leave], within: 5m, emit: a}
- {name: b, entity: user, sequence: [x.a, purchase], within: 5m, emit: b}
- {name: c, entity: item, join: {event: [x.b, view], with: item_updates}}
""")
    )
    assert [(o.name, o.entity) for o in operators] == [("a", "user"), ("b", "user"), ("c", "item")]


def test_the_published_form_of_a_match() -> None:
    match = Match("s", "user", "u", None, 1, 2, 2, ("a", "b"))
    data = {"sequence": "s", "entity_key": "u", "start": 1, "end": 2, "events": ["a", "b"]}
    assert match.as_data() == data
    assert Match("s", "user", "u", "i", 1, 2, 2, ("a", "b")).as_data()["same"] == "i"
