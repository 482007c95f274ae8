"""A log in memory, and decisions and rewards in it."""

from __future__ import annotations

from typing import Any

import numpy as np

from tactful.bandits.decisions import Decision, encode_decision
from tactful.bandits.definitions import BanditDefinition, read_bandit
from tactful_streaming.contract.log_entries import SERVER, Event, encode_entry

HOUR = 3_600_000
NOW = 1_800_000_000_000

BANNER: dict[str, Any] = {
    "key": "banner",
    "arms": [{"name": name, "value": f"{name}.jpg"} for name in ("a", "b", "c")],
    "reward": {"event": "click", "within_hours": 1},
    "memory": {"period_hours": 1, "periods": 5, "discount": 0.5},
}
FEATURES: list[dict[str, Any]] = [
    {"user": "visits", "scale": 10},
    {"context": "device", "values": ["phone", "desktop"]},
]


def banner(**changes: Any) -> BanditDefinition:
    """Return the definition of a bandit with three arms."""
    return read_bandit({**BANNER, **changes})


def decided(number: int, arm: str, at: int, user: str = "ada", **more: Any) -> bytes:
    """Return the record of a decision."""
    features = more.pop("features", [])
    decision = Decision(
        key=more.pop("key", "banner"),
        arm=arm,
        index=0,
        propensity=more.pop("propensity", 0.5),
        probability=more.pop("probability", 0.4),
        floor=more.pop("floor", 0.1),
        choice=arm,
        live=more.pop("live", True),
        features=np.array(features, np.float64),
        layout=more.pop("layout", ""),
    )
    return encode_decision(
        decision, f"d{number}", at=at, user_id=user, device_id=None, session_id=None, more=more
    )


def clicked(number: int, at: int, user: str = "ada", **more: Any) -> bytes:
    """Return the record of a click."""
    event = {"event_id": f"c{number}", "type": "click", "user_id": user, "timestamp": at}
    return encode_entry(Event(**{**event, "received_at": at, "sender": SERVER, **more}))
