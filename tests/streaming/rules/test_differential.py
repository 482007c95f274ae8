"""Rules against an interpreter without state that reads all of history each time."""

import operator
import random
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from tests.streaming.naive_rules import Naive

from tactful_streaming.contract.log_entries import Event, Item
from tactful_streaming.rules import conditions
from tactful_streaming.rules.conditions import ExpiringMap
from tactful_streaming.rules.rules import Dropped, Rules, load_rules

START = 1_700_000_000_000

CONDITIONS = (
    "properties.price: {below: 0}",
    "properties.price: {above: 50, at_most: 90}",
    "properties.price: {above: {of: item.price, times: 2}}",
    "properties.price: 7",
    "properties.price: [1, 2, true, x]",
    "properties.price: {kind: text}",
    "properties.flag: true",
    "properties.colour: {missing: true}",
    "properties.colour: {starts: r}",
    "properties.colour: {matches: '^(red|blue)$'}",
    "item_id: {missing: false}",
    "item.category: a",
    "item.available: false",
    "item.price: {at_least: 30}",
    "type: [view, refund]",
    "timestamp: {below: '2023-11-14T22:13:30Z'}",
    "age: {above: 3s}",
    "age: {below: -1s}",
    "subject: [u1, 'device:d1']",
    "user_agent: crawler",
    "rate: {by: user_id, above: 2, within: 2s}",
    "rate: {by: [subject, type], above: 1, within: 5s, hold: 10s}",
    "earlier: {event: purchase, same: [subject, item_id], within: 20s}",
    "earlier: {same: content, within: 10s}",
    "earlier: {event: [view, refund], same: [item_id, properties.price], within: 5s}",
)
CHANGES = (
    "properties.price: absolute",
    "properties.price: {clamp: [0, 60]}",
    "properties.price: [number, {times: 0.5}, {round: 1}]",
    "properties.price: text",
    "properties.colour: [strip, lower]",
    "properties.colour: {map: {red: rouge, ' Blue': bleu}}",
    "properties.colour: {default: none}",
    "properties.colour: {rename: properties.shade}",
    "properties.flag: remove",
    "context.channel: {set: web}",
    "properties.price: {convert: {currency: properties.currency, to: EUR, rates: {USD: 0.5}}}",
    "timestamp: {correct_clock: context.sent_at}",
    "item_id: [strip, lower]",
    "session_id: {set: s}",
)


def random_rules(rng: random.Random) -> str:
    lines = []
    for number in range(rng.randint(1, 6)):
        parts = [f"name: r{number}"]
        if rng.random() < 0.5:
            types = rng.sample(["view", "purchase", "refund"], rng.randint(1, 2))
            parts.append(f"event: [{', '.join(types)}]")
        kinds = rng.choice([("when",), ("when",), ("when", "unless"), ("unless",)])
        for kind in kinds:
            alternatives = []
            for _ in range(rng.choice([1, 1, 2])):
                picked = rng.sample(CONDITIONS, rng.choice([1, 1, 2]))
                by_field = {text.partition(":")[0]: text for text in picked}
                alternatives.append("{" + ", ".join(by_field.values()) + "}")
            parts.append(f"{kind}: [{', '.join(alternatives)}]")
        if rng.random() < 0.5:
            picked = rng.sample(CHANGES, rng.choice([1, 2]))
            by_field = {text.partition(":")[0]: text for text in picked}
            parts.append("normalise: {" + ", ".join(by_field.values()) + "}")
        else:
            parts.append(f"action: {rng.choice(['drop', 'dead_letter'])}")
        lines.append("- {" + ", ".join(parts) + "}\n")
    return "".join(lines)


def acceptable_rules(rng: random.Random) -> Rules:
    """Random rules that contradict themselves nowhere."""
    while True:
        try:
            return load_rules(random_rules(rng))
        except ValueError as error:
            assert "no event can meet" in str(error) or "never acts" in str(error), error


def random_events(rng: random.Random, count: int) -> Iterator[tuple[Event, int | None]]:
    now = START
    sent: list[tuple[Event, int | None]] = []
    for number in range(count):
        now += rng.choice([0, 100, 700, 3000])
        if sent and rng.random() < 0.15:
            event, received = rng.choice(sent[-20:])
            yield Event(**{**as_fields(event), "event_id": f"again{number}"}), received
            continue
        properties: dict[str, Any] = {}
        if rng.random() < 0.8:
            prices = [-3, 0.5, 7, 7.0, 50, 55.5, 80, 120, "12", "x", True, 1e300]
            properties["price"] = rng.choice(prices)
        if rng.random() < 0.5:
            properties["colour"] = rng.choice(["red", " Blue", "green ", "", " "])
        if rng.random() < 0.4:
            properties["flag"] = rng.choice([True, False])
        if rng.random() < 0.4:
            properties["currency"] = rng.choice(["EUR", "USD", 1])
        context: dict[str, Any] = {}
        if rng.random() < 0.3:
            context["sent_at"] = now - rng.choice([0, 4000, -4000])
        if rng.random() < 0.3:
            context["user_agent"] = rng.choice(["Googlebot/2.1", "Mozilla/5.0 Firefox/120.0"])
        known = rng.random() < 0.7
        event = Event(
            event_id=str(number),
            type=rng.choice(["view", "view", "purchase", "refund"]),
            timestamp=now - rng.choice([0, 0, 0, 900, 2500, 15_000]),
            user_id=rng.choice(["u1", "u2"]) if known else None,
            device_id=rng.choice(["d1", "d2"]),
            item_id=rng.choice(["a", "b", " A", None]),
            properties=properties,
            context=context,
        )
        if rng.random() < 0.3:  # of these some have a fast clock
            ahead = rng.choice([0, 240_000])
            event = replace(event, timestamp=event.timestamp + ahead, received_at=now)
        received = now if rng.random() < 0.5 else None
        sent.append((event, received))
        yield event, received


def as_fields(event: Event) -> dict[str, Any]:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return {name: value for name, value in fields.items() if value is not UNSET}


ITEMS = {
    "a": Item(item_id="a", timestamp=START, category="a", price=25.0),
    "b": Item(item_id="b", timestamp=START, category="b", price=31.0, available=False),
}


def disagreements(seed: int, count: int, *, restart_every: int = 0) -> tuple[int, int]:
    """Count events with different results, and events that were not passed unchanged."""
    rng = random.Random(seed)
    rules = acceptable_rules(rng)
    naive = Naive(rules.rules)
    stored: dict[str, bytes] = {}
    different = acted = 0
    for number, (event, received) in enumerate(random_events(rng, count)):
        if restart_every and number % restart_every == restart_every - 1:
            for key, blob in rules.pack_changes().items():
                stored.pop(key, None)
                if blob is not None:
                    stored[key] = blob
            shuffled = list(stored.items())
            rng.shuffle(shuffled)
            rules = Rules(rules.rules)
            rules.restore(shuffled)
        item = ITEMS.get(event.item_id or "")
        result = rules.clean(event, item, ITEMS, received)
        expected = naive.clean(event, item, ITEMS, received)
        got = (result.rule, result.action) if isinstance(result, Dropped) else result
        different += got != expected
        acted += result is not event
        if not isinstance(result, Dropped) and result == event:
            assert result is event, "an event that no rule changes is passed on as it is"
    return different, acted


@pytest.mark.parametrize("seed", range(150))
def test_rules_agree_with_the_interpreter(seed: int) -> None:
    different, _ = disagreements(seed, 150)
    assert different == 0


def test_the_comparison_covers_all_actions() -> None:
    acted = [disagreements(seed, 100)[1] for seed in range(30)]
    assert sum(count > 0 for count in acted) > 20


@pytest.mark.parametrize("seed", range(60))
def test_a_restart_at_any_point_changes_nothing(seed: int) -> None:
    assert disagreements(seed, 150, restart_every=seed % 7 + 1)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1000, 1040))
def test_rules_agree_with_the_interpreter_for_long(seed: int) -> None:
    for inner in range(25):
        assert disagreements(seed * 100 + inner, 300, restart_every=inner)[0] == 0


def _caught(count: int = 60, restart_every: int = 5) -> bool:
    return any(
        disagreements(seed, 150, restart_every=restart_every)[0] > 0 for seed in range(count)
    )


@pytest.mark.slow
def test_planted_bugs_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    get = ExpiringMap.get
    planted: list[tuple[Any, str, Any]] = [
        (ExpiringMap, "get", lambda self, key, now: get(self, key, 0)),  # never expires
        (ExpiringMap, "get", lambda self, key, now: get(self, key, now + 1)),  # too early
        (ExpiringMap, "pack_changes", lambda self: {}),
        (conditions.State, "store_pending", lambda self: self.pending.clear()),
        (conditions, "classify", lambda text: None),
    ]
    for owner, name, bug in planted:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, bug)
            assert _caught(), f"{name} broken went unnoticed"
    with monkeypatch.context() as patch:
        patch.setitem(conditions._COMPARISONS, "above", operator.ge)
        assert _caught(), "above broken by at least went unnoticed"
    assert not _caught(10)
