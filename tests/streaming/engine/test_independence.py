"""No decision about one person looks at another, for consumers that ask for it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tactful_streaming.contract.log_entries import (
    BROWSER,
    SERVER,
    Entry,
    Event,
    Item,
    Tick,
    encode_entry,
    event_key,
    sender_of,
    subject_key,
)
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import CoCommittedConsumer, EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.rules.rules import load_rules
from tactful_streaming.state.store import MemoryState

NOON = 1_700_006_400_000
HOUR = 3_600_000
DAY = 24 * HOUR
FEATURES = load_definitions(
    "- {name: hot, entity: item, sequence: [view, purchase], within: 5m, emit: coupon}\n"
)
WRONG = "- {name: wrong, when: {properties.price: {below: 0}}, action: dead_letter}\n"
RULES = (
    WRONG,
    "- {name: unknown_order, event: refund, action: dead_letter,\n"
    "   unless: {earlier: {event: purchase, same: properties.order_id, within: 1d}}}\n" + WRONG,
    "- {name: again, when: {earlier: {same: [subject, type], within: 1h, most: 1}}, action: drop}\n"
    + WRONG,
    "- {name: fast, when: {rate: {by: item_id, above: 1, within: 1m, hold: 1d}}, action: drop}\n",
    "- {name: late, when: {rate: {by: subject, above: 1, within: 1d, most: 1}},\n"
    "   normalise: {timestamp: {set: 5}}}\n" + WRONG,
)


SENDERS = (("d", "ann"), ("d", "bob"), ("d", None), (None, "ann"), (None, "bob"))


class Probe(CoCommittedConsumer):
    """Records what it gets."""

    purpose = "measurement"
    independent = True

    def __init__(self) -> None:
        self.events: list[Event] = []

    def apply(self, event: Event, item: Item | None) -> None:
        self.events.append(event)

    def snapshot(self) -> bytes | None:
        return None

    def restore(self, state: bytes) -> None: ...


@st.composite
def logs(draw: st.DrawFn) -> list[tuple[Event, bool]]:
    """Draw events in order of receipt, each with whether the engine catches up before it."""
    events, now = [], NOON
    types = draw(st.sampled_from([["view"], ["refund", "purchase"]]))
    for _ in range(draw(st.integers(2, 8))):
        now += draw(st.sampled_from([0, HOUR, DAY, 2 * DAY]))
        device, user = draw(st.sampled_from(SENDERS))
        event = Event(
            event_id=draw(st.sampled_from("12")),
            type=draw(st.sampled_from(types)),
            timestamp=now + draw(st.sampled_from([0, HOUR // 12, -HOUR])),
            user_id=user,
            device_id=device,
            item_id="i",
            properties={"order_id": "o", "price": draw(st.sampled_from([1, 1, -1]))},
            received_at=now,
            sender=SERVER if user else draw(st.sampled_from([BROWSER, SERVER])),
        )
        events.append((event, draw(st.booleans())))
    return events


def counted(log: list[tuple[Event, bool]], rules: str) -> list[Event]:
    """Return what a consumer gets of events that pass intake, and then the engine."""
    cleaner, probe = load_rules(rules), Probe()
    options = EngineOptions(
        dedupe_days=1,
        consumers={"probe": probe},
        cleaner=cleaner,
        memoryless=cleaner.without_memory(),
        identity=Identity(),
    )
    engine, waiting = Engine(FEATURES, MemoryState(), options), list[bytes]()

    def catch_up() -> None:
        engine.apply([*enumerate(waiting, engine.offset)])
        engine.commit()
        waiting.clear()

    for event, applied in log:
        if applied:
            catch_up()
        if not engine.seen(event_key(event), event.received_at, former=event.event_id):
            waiting.append(encode_entry(event, "json" if len(waiting) % 2 else "msgpack"))
    catch_up()
    return probe.events


@settings(max_examples=200)
@given(logs(), st.sampled_from(RULES), st.sampled_from(["ann", "bob", "device:d"]))
def test_no_decision_about_one_person_looks_at_another(
    log: list[tuple[Event, bool]], rules: str, person: str
) -> None:
    """Without one person, the others count as before, with any ids, rules and lags."""
    others = [pair for pair in log if subject_key(pair[0]) != person]
    left = [event for event in counted(log, rules) if subject_key(event) != person]
    assert left == counted(others, rules)


texts = st.text("a1\x1f2b", max_size=4)


@given(*[st.tuples(st.sampled_from([BROWSER, SERVER]), texts, texts, texts)] * 2)
def test_keys_of_events_are_equal_for_one_sender_alone(
    one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    def key(sent: tuple[str, ...]) -> str:
        sender, device, user, id_ = sent
        fields: dict[str, Any] = {"device_id": device or None, "user_id": user or None}
        return event_key(Event(event_id=id_, type="view", timestamp=0, sender=sender, **fields))

    assert (key(one) == key(other)) == (one == other)
    assert sender_of(key(one)) == one[1:]


def test_ids_of_older_logs_have_one_namespace() -> None:
    """Events without a recorded sender count as before, and those with one beside them."""
    engine = Engine(FEATURES, MemoryState())
    fields: dict[str, Any] = {"event_id": "1", "type": "view", "timestamp": NOON}
    older = [Event(**fields, user_id=user) for user in ("ann", "bob")]
    newer = [Event(**fields, user_id=user, sender=SERVER) for user in ("ann", "bob", "ann")]
    applied = engine.apply([*enumerate(map(encode_entry, [*older, *newer]))])
    assert (applied.applied, applied.duplicates) == (3, 2)
    assert engine.seen("from a newer sender", former="1"), "a retry may come after an upgrade"
    assert not engine.seen("from a newer sender", former="2")


def test_a_forged_id_discards_no_action() -> None:
    """An action stays in the outbox though an event from outside carries its id."""
    engine = Engine(FEATURES, MemoryState())

    def apply(*events: Event) -> list[Event]:
        entries: list[Entry] = [*events, Tick(timestamp=max(engine.watermark, NOON) + HOUR)]
        engine.apply([*enumerate(map(encode_entry, entries), engine.offset)])
        engine.commit()
        return engine.outbox()

    def bought(user: str) -> list[Event]:
        fields: dict[str, Any] = {"user_id": user, "item_id": "i", "sender": SERVER}
        types, at = ("view", "purchase"), max(engine.watermark, NOON)
        return [Event(event_id=t, type=t, timestamp=at, **fields) for t in types]

    (action,) = apply(*bought("ann"))
    forged = Event(
        event_id=action.event_id, type="view", timestamp=NOON, device_id="d", sender=BROWSER
    )
    assert apply(forged) == [action]
    _, other = apply(*bought("bob"))
    assert other.event_id != action.event_id, "bob's events have the same ids"
    assert apply(action, other) == []
