"""Records that are skipped undecoded would have changed nothing."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest
from tests.platform.experiment_metrics.naive import BEGIN, DAY, HOUR, METRICS, random_log

from tactful.event_log.impressions import DECISION, DECISION_ID, OFFER, OFFER_ID
from tactful.experiment_metrics.columns import LogColumns, ReadSpan
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.outcomes import unit_outcomes
from tactful.experiment_metrics.record_filter import RecordFilter
from tactful_streaming.contract.log_entries import Entry, Event, Restricted, encode_entry
from tactful_streaming.log.segment import BLANK

_KEY = '结账 "two"\\1'  # JSON escapes a part of it
_SET = load_metrics(METRICS)
_METRICS = {name: _SET.metrics[name] for name in ("buyers", "clicks", "spend")}


def shown(number: int, rng: random.Random) -> Event:
    """Return a recommendation or a decision of some experiment or rollout."""
    kind, prefix = rng.choice(
        [("impression", "impression:"), (DECISION, DECISION_ID), (OFFER, OFFER_ID)]
    )
    others: dict[str, Any] = {"items": ["i1"], "features": "AAAA", "scores": [0.5]}
    named: dict[str, Any] = rng.choice(
        [{"experiment": _KEY}, {"experiment": "other"}, {"experiment": 3}, {}]
    )
    drawn = rng.choice([[f"{_KEY}:new", "b:old"], ["b:old"], "x", [f"{_KEY}2:new"], [7], None])
    properties = {**others, **named, "arm": rng.choice(["old", "new"]), "rollouts": drawn}
    properties |= {"bandit": "b"} if rng.random() < 0.5 else {}
    identity = f"{prefix}{number}"
    return Event(
        event_id=rng.choice([identity, identity, f"e{number}"]),
        type=kind,
        timestamp=BEGIN + rng.randrange(6 * DAY),
        user_id=f"u{rng.randrange(6)}",
        recommendation_id=f"r{number}",
        properties=properties,
    )


def entries_of(seed: int) -> list[Entry]:
    rng = random.Random(seed)
    made = [shown(number, rng) for number in range(30)]
    held: list[Entry] = [
        Restricted(timestamp=it.timestamp, purposes=("measurement",), event=it)
        if rng.random() < 0.3
        else it
        for it in made
    ]
    return sorted([*held, *random_log(seed)], key=lambda entry: entry.timestamp)


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_records_that_are_skipped_change_nothing(
    format: Literal["msgpack", "json"], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(payloads: list[bytes]) -> list[Any]:
        span = ReadSpan(BEGIN + DAY, None, BEGIN + 5 * DAY, HOUR)
        columns = LogColumns(_KEY, _METRICS, span, attributes=("context", "user"))
        columns.read(enumerate(payloads))
        counted = unit_outcomes(columns, ("old", "new"), _METRICS, now=span.now)
        values = [it.values.tolist() for it in counted.metrics.values()]
        return [columns.exposures, columns.links, columns.described, counted.people(), values]

    payloads = [
        [encode_entry(entry, format) for entry in entries_of(seed)]
        + [b"", b"{", b"\xc1", BLANK, b'{"kind":"event","type":3}', b"[" * 5_000]
        for seed in range(20)
    ]
    filtered = [read(each) for each in payloads]
    skipped = RecordFilter(_KEY, ("purchase",), users=False)
    flat = [payload for each in payloads for payload in each]
    assert 0.1 < sum(map(skipped.selects, flat)) / len(flat) < 0.9
    monkeypatch.setattr(RecordFilter, "selects", lambda self, payload, early=False: True)
    assert filtered == [read(each) for each in payloads]
    assert any(found[0] for found in filtered)


def test_before_the_span_logins_and_users_alone_are_read() -> None:
    login = Event(event_id="e", type="x.login", timestamp=1, user_id="ada", device_id="d")
    bought = Event(event_id="f", type="purchase", timestamp=1, user_id="x.login")
    exposed = Event(event_id="exposure:1", type="exposure", timestamp=1, user_id="ada")
    of_types = RecordFilter(_KEY, ("purchase",), users=False)
    known = [of_types.selects(encode_entry(it), early=True) for it in (login, bought, exposed)]
    assert known == [True, False, False]
