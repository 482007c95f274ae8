"""A recount of the outcomes of units, event by event, and random logs to recount.

It shares no code with the platform but the entries of the log and the conditions.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tactful.schemas.experiments.metrics import MetricDefinition
from tactful_bandits.assignment.conditions import matches
from tactful_streaming.contract.log_entries import (
    Entry,
    Event,
    Property,
    Restricted,
    User,
    event_key,
)

BEGIN = 1_700_006_400_000  # a midnight
HOUR = 3_600_000
DAY = 24 * HOUR
KEY = "checkout"
ARMS = ("old", "new")

METRICS = """
metrics:
  - {name: buyers, kind: binary, event: purchase, window: 2d}
  - {name: clicks, kind: count, event: [click, x.tap], window: 1d, cap: 3}
  - {name: late_clicks, kind: count, event: click, delay: 6h, window: 1d}
  - {name: spend, kind: sum, event: purchase, minus: refund, value: properties.price,
     times: properties.quantity, window: 2d, cap: 40}
  - {name: loss, kind: sum, event: refund, value: properties.price, window: 2d, direction: lower}
  - {name: shoes, kind: count, event: purchase, window: 2d,
     filter: {properties.category: {$in: [鞋, shoes]}}}
  - {name: orders, kind: count, event: purchase, window: 2d}
  - {name: spend_per_order, kind: ratio, numerator: spend, denominator: orders}
  - {name: prices, kind: quantile, event: purchase, value: properties.price, level: 0.5,
     window: 2d}
  - {name: back, kind: retention, event: [click, purchase], delay: 1d, window: 1d}
experiments:
  - experiment: checkout
    goals: [buyers, spend]
    secondary: [clicks, late_clicks, loss, shoes, spend_per_order, prices, back]
    cuped: 1d
    segments:
      - {name: phones, condition: {context.device: phone}}
      - {name: 会员, condition: {user.member: true}}
"""


@dataclass
class Unit:
    """What the recount knows of a unit."""

    arms: set[str]
    at: int
    context: Mapping[str, Any]
    outcomes: dict[str, float]
    before: dict[str, float]
    prices: dict[str, list[float]]


def random_log(seed: int) -> list[Entry]:
    """Return some days of a small shop, in the order of time."""
    rng = random.Random(seed)
    people = [f"u{number}" for number in range(rng.randint(2, 6))]
    devices = [f"d{number}" for number in range(rng.randint(1, 5))]
    entries: list[Entry] = []
    for number in range(rng.randint(10, 90)):
        at = BEGIN + rng.randrange(0, 6 * DAY, HOUR // 2)
        user = rng.choice([*people, None])
        device = rng.choice([*devices, None, None])
        if user is None and device is None:
            device = devices[0]
        about: dict[str, Any] = {"user_id": user, "device_id": device, "timestamp": at}
        about["event_id"] = f"e{number}"
        about["sender"] = rng.choice([None, "server", "browser"])
        about["context"] = {"device": rng.choice(["phone", "desk"])}
        entries.append(_entry(rng, number, about))
        if rng.random() < 0.1:  # a client that got no answer sends it again
            entries.append(entries[-1])
    return sorted(entries, key=lambda entry: entry.timestamp)


def _entry(rng: random.Random, number: int, about: dict[str, Any]) -> Entry:
    kind = rng.choice(["exposure", "exposure", "shown", "click", "x.tap", "purchase", "purchase",
                       "refund", "x.login", "user", "claim"])  # fmt: skip
    arm = rng.choice([*ARMS, "old", "new", "old", "new", "gone"])
    if kind in ("exposure", "claim"):
        key = KEY if rng.random() < 0.9 else "other"
        properties: dict[str, Any] = {"experiment": key, "arm": arm, "flag": "f", "version": 1}
        about |= {"properties": properties}
        if kind == "exposure":
            about |= {"event_id": f"exposure:{number}", "sender": None}
        event = Event(type="exposure", **about)
    elif kind == "shown":
        properties = {"items": ["i1"], "experiment": KEY, "arm": arm}
        properties["forced"] = rng.random() < 0.2
        about |= {"event_id": f"impression:{number}", "sender": rng.choice([None, None, "server"])}
        event = Event(type="impression", recommendation_id=f"{number}", properties=properties,
                      **about)  # fmt: skip
    elif kind == "user":
        member: dict[str, Property] = {"member": rng.random() < 0.5}
        return User(user_id=about["user_id"] or "u0", timestamp=about["timestamp"],
                    properties=member)  # fmt: skip
    else:
        price = rng.choice([1, 2, 5, 30, -4, 0, "9", None, True, 2e9, float(10**9)])
        properties = {"price": price, "category": rng.choice(["鞋", "shoes", "hat"])}
        if rng.random() < 0.5:
            properties["quantity"] = rng.choice([1, 2, 3, "many"])
        event = Event(type=kind, item_id="i1", properties=properties, **about)
    if rng.random() < 0.1:
        purposes = rng.choice([("service",), ("service", "measurement")])
        return Restricted(timestamp=event.timestamp, purposes=purposes, event=event)
    return event


@dataclass
class Recount:
    """Result of a recount."""

    units: dict[str, Unit]  # those in one known arm
    crossed: int
    unknown: int
    segments: dict[str, set[str]]


def recount(
    entries: Sequence[Entry],
    metrics: Mapping[str, MetricDefinition],
    *,
    since: int,
    now: int,
    cuped_ms: int,
) -> Recount:
    """Recount a log, event by event."""
    read_from = next((n for n, it in enumerate(entries) if it.timestamp >= since - cuped_ms),
                     len(entries))  # fmt: skip
    events = []
    for place, entry in enumerate(entries):
        if isinstance(entry, Restricted):
            if "measurement" not in entry.purposes:
                continue
            entry = entry.event
        if isinstance(entry, Event):
            events.append((place, entry))
    owners: dict[str, set[str]] = {}
    for place, event in events:
        wanted = place >= read_from and event.type != "impression"
        if event.user_id and event.device_id and (wanted or event.type == "x.login"):
            owners.setdefault(f"device:{event.device_id}", set()).add(event.user_id)

    def unit_of(key: str) -> str:
        users = owners.get(key, set())
        return next(iter(users)) if len(users) == 1 else key

    units: dict[str, Unit] = {}
    for place, event in events:
        if place < read_from or not since <= event.timestamp <= now or not _counts(event):
            continue
        name = unit_of(event.user_id or f"device:{event.device_id}")
        arm = event.properties["arm"]
        assert isinstance(arm, str)
        known = units.get(name)
        if known is None:
            units[name] = Unit({arm}, event.timestamp, event.context, {}, {}, {})
            continue
        known.arms.add(arm)
        if event.timestamp < known.at:
            known.at, known.context = event.timestamp, event.context
    crossed = sum(len(unit.arms) > 1 for unit in units.values())
    units = {key: unit for key, unit in units.items() if len(unit.arms) == 1}
    unknown = sum(unit.arms == {"gone"} for unit in units.values())
    units = {key: unit for key, unit in units.items() if unit.arms != {"gone"}}
    seen: set[str] = set()
    once = []
    for place, event in events:
        if place >= read_from and event.timestamp <= now and event_key(event) not in seen:
            seen.add(event_key(event))
            once.append(event)
    for key, unit in units.items():
        own = [event for event in once if key in _names(event, unit_of)]
        for name, metric in metrics.items():
            if metric.kind == "ratio":
                continue
            lasts = metric.delay_ms + metric.window_ms
            within = [it for it in own if metric.delay_ms <= it.timestamp - unit.at < lasts]
            earlier = [it for it in own if -cuped_ms <= it.timestamp - unit.at < 0]
            unit.outcomes[name] = _outcome(metric, within)
            unit.before[name] = _outcome(metric, earlier)
            unit.prices[name] = _values(metric, within)
    return Recount(units, crossed, unknown, _segments(entries, units))


def _names(event: Event, unit_of: Any) -> set[str]:
    names = set()
    if event.user_id:
        names.add(event.user_id)
    if event.device_id:
        names.add(unit_of(f"device:{event.device_id}"))
    return names


def _counts(event: Event) -> bool:
    if event.properties.get("experiment") != KEY or event.sender is not None:
        return False
    if event.type == "exposure":
        return event.event_id.startswith("exposure:")
    return event.type == "impression" and not event.properties["forced"]


def _values(metric: MetricDefinition, events: Sequence[Event]) -> list[float]:
    found = []
    for event in events:
        if event.type not in (*metric.events, *metric.minus):
            continue
        if metric.filter and not matches(metric.filter, {"properties": event.properties}):
            continue
        value: float = 1.0
        if metric.value:
            price: Any = event.properties.get("price")
            if type(price) not in (int, float):
                continue
            quantity: Any = event.properties.get("quantity") if metric.times else None
            value = price * (quantity if type(quantity) is int else 1)
            if abs(value) > 1e9:
                continue
        found.append(-value if event.type in metric.minus else value)
    return found


def _outcome(metric: MetricDefinition, events: Sequence[Event]) -> float:
    values = _values(metric, events)
    if metric.kind in ("binary", "retention"):
        return float(len(values) > 0)
    if metric.kind == "quantile":
        return float(len(values))
    total = float(sum(values))
    return total if metric.cap is None else max(-metric.cap, min(metric.cap, total))


def _segments(entries: Sequence[Entry], units: Mapping[str, Unit]) -> dict[str, set[str]]:
    phones = {key for key, unit in units.items() if unit.context.get("device") == "phone"}
    members = set()
    for key, unit in units.items():
        member = None
        for entry in entries:
            if isinstance(entry, User) and entry.user_id == key and entry.timestamp <= unit.at:
                member = entry.properties["member"]
        if member is True:
            members.add(key)
    return {"phones": phones, "会员": members}
