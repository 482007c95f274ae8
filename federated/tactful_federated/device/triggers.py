"""Triggers of foresights, for whom they act, and the event that a server is told.

    probability >= threshold -> quiet time, caps -> saved -> held out?  no: action on the device
                                                                       consent: event for a server

A foresight is open from its firing until one of its categories is visited or its time is over.
While it is open its trigger does not fire, and after a wrong one not before the probability fell
below `rearm`.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from tactful_federated.device.calibration import Calibration
from tactful_federated.device.event_store import Telling
from tactful_federated.errors import SettingsError, require
from tactful_privacy.decoding import DECODE_ERRORS

Action = Literal["prefetch", "remind", "offer"]
"""Kind of an action; people notice all but `prefetch`."""

WITHHELD: Final = "x.about_to_withheld"
"""Type of the event for a foresight of a held-out user, which no rule for an action names."""

EVENT_ID: Final = "foresight:"
"""Prefix of the event ids."""

MOST_UNTOLD: Final = 100
"""Largest number of foresights that wait for a server; the oldest are dropped."""

_MOST_CATEGORIES = 100


class Trigger(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trigger that fires if a user is likely to choose a category soon.

    Attributes:
        name: Unique name on the device.
        categories: Categories, any of which counts.
        steps: Number of categories to look ahead, 1 or more.
        days: Time to look ahead instead, in days; None looks ahead by steps.
        threshold: Calibrated probability from which the trigger fires, in (0, 1].
        rearm: Probability below which it can fire again, at most the threshold.
        action: Kind of the action.
        payload: Contents of the action for the app.
        group: Public, coarse name of what it is about, for a server; empty tells none.
        most_per_day: Largest number of foresights a day, held-out ones too.
        holdout: Share of the users for whom no action is taken, in [0, 1).
        holdout_name: Name of the holdout; `coupon:NAME` is that of a coupon campaign. Empty is
            `foresight:` and the name of the trigger.
        calibration: Map of the model's probability, fitted for this look-ahead; None keeps it.
        pace: Shares of 0, 1, ... categories within `days` among public histories.
    """

    name: str
    categories: tuple[str, ...]
    steps: int = 3
    days: float | None = None
    threshold: float = 0.5
    rearm: float = 0.25
    action: Action = "prefetch"
    payload: dict[str, Any] = {}
    group: str = ""
    most_per_day: int = 3
    holdout: float = 0.0
    holdout_name: str = ""
    calibration: Calibration | None = None
    pace: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        name = f"trigger {self.name!r}"
        require(bool(self.name.strip()), "a trigger has no name: give one")
        require(
            0 < len(self.categories) <= _MOST_CATEGORIES,
            f"{name} has {len(self.categories)} categories: give 1 to {_MOST_CATEGORIES}",
        )
        require(1 <= self.steps <= 1_000, f"{name}: steps is {self.steps}: give 1 to 1,000")
        require(
            self.days is None or 0 < self.days <= 365,
            f"{name}: days is {self.days}: give more than 0, at most 365",
        )
        require(
            0 <= self.rearm <= self.threshold <= 1 and self.threshold > 0,
            f"{name} needs 0 <= rearm <= threshold <= 1 and threshold > 0, not {self.rearm:g}"
            f" and {self.threshold:g}",
        )
        require(self.most_per_day >= 1, f"{name}: most_per_day is {self.most_per_day}: give 1")
        require(0 <= self.holdout < 1, f"{name}: holdout is {self.holdout:g}: give 0 to below 1")
        require(
            all(0 <= share <= 1 for share in self.pace) and sum(self.pace) < 1.001,
            f"{name}: pace must be shares whose sum is 1",
        )

    @property
    def is_noticed(self) -> bool:
        """Whether the user notices the action, so that it keeps quiet time and common caps."""
        return self.action != "prefetch"

    def holds_out(self, unit: str) -> bool:
        """Return whether no action is taken for a user: always the same, as on a server."""
        return (
            _bucket(f"__holdout:{self.holdout_name or EVENT_ID + self.name}", unit) < self.holdout
        )


class TriggerLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits on all actions that a user notices.

    Attributes:
        most_per_day: Largest number of them a day.
        gap_minutes: Least time between two.
        quiet: First hour of the day without any and the first hour after them; None has none.
    """

    most_per_day: int = 3
    gap_minutes: float = 60.0
    quiet: tuple[int, int] | None = (22, 8)

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a limit outside its range."""
        require(self.most_per_day >= 0, f"most_per_day is {self.most_per_day}: give 0 or more")
        require(0 <= self.gap_minutes < math.inf, "gap_minutes must be 0 or more")
        hours = self.quiet or (0, 0)
        require(all(0 <= hour <= 24 for hour in hours), f"quiet is {hours}: give hours, 0 to 24")

    def is_quiet(self, hour: float) -> bool:
        """Return whether an hour of the day, 0 to 24, lies in the quiet time."""
        if self.quiet is None:
            return False
        first, after = self.quiet
        return first <= hour < after if first <= after else hour >= first or hour < after


class TriggerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Triggers and limits that a shop gives to devices, as JSON."""

    triggers: tuple[Trigger, ...]
    limits: TriggerLimits = TriggerLimits()


def read_triggers(path: Path, categories: Collection[str]) -> TriggerFile:
    """Read a file of triggers.

    Args:
        path: JSON file.
        categories: Categories of the catalogue.

    Raises:
        SettingsError: The file has another form, two triggers have one name, or a category is not
            in the catalogue.
    """
    try:
        file = msgspec.json.decode(path.read_bytes(), type=TriggerFile)
    except (*DECODE_ERRORS, SettingsError) as error:
        raise SettingsError(f"{path}: {error}") from error
    seen = set[str]()
    for trigger in file.triggers:
        require(trigger.name not in seen, f"{path}: two triggers have the name {trigger.name!r}")
        seen.add(trigger.name)
        unknown = sorted({*trigger.categories} - {*categories})
        require(
            not unknown,
            f"{path}: trigger {trigger.name!r}: the catalogue lists no category"
            f" {', '.join(map(repr, unknown))}",
        )
    return file


class Foresight(msgspec.Struct, frozen=True):
    """Fired trigger.

    Attributes:
        id: Random id.
        trigger: Name of the trigger.
        action: Kind of the action.
        category: Likeliest category of the trigger.
        probability: Calibrated probability that one of its categories comes.
        steps: Number of categories within which it comes; None by time.
        days: Time within which it comes; None by steps.
        at: Time, seconds since the epoch.
        held_out: Whether no action is taken, to measure the effect of actions.
        group: Coarse name for a server.
        payload: Contents of the action for the app.
    """

    id: str
    trigger: str
    action: Action
    category: str
    probability: float
    steps: int | None
    days: float | None
    at: float
    held_out: bool
    group: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class Likely:
    """Calibrated probability of a trigger, and its likeliest category."""

    probability: float
    category: str


def foresight_of(trigger: Trigger, likely: Likely, now: float, *, held_out: bool) -> Foresight:
    """Return the foresight of a trigger that fires, with a new random id."""
    return Foresight(
        id=secrets.token_hex(8),
        trigger=trigger.name,
        action=trigger.action,
        category=likely.category,
        probability=likely.probability,
        steps=trigger.steps if trigger.days is None else None,
        days=trigger.days,
        at=now,
        held_out=held_out,
        group=trigger.group,
        payload=trigger.payload,
    )


def about_to_event(
    foresight: Foresight, telling: Telling, user_id: str | None
) -> dict[str, Any] | None:
    """Return the event for `POST /v1/events`; None if the user consents to none.

    With `moment` it has no property but the probability, cut to tenths; with `group` also the group
    of the trigger; with `category` also the trigger, the category and the look-ahead.
    """
    if telling == "nothing":
        return None
    properties: dict[str, Any] = {"probability": math.floor(10 * foresight.probability) / 10}
    if telling in ("group", "category") and foresight.group:
        properties["group"] = foresight.group
    if telling == "category":
        properties |= {"trigger": foresight.trigger, "category": foresight.category}
        ahead = {"steps": foresight.steps, "days": foresight.days}
        properties |= {name: value for name, value in ahead.items() if value is not None}
    event: dict[str, Any] = {
        "event_id": EVENT_ID + foresight.id,
        "type": WITHHELD if foresight.held_out else f"x.about_to_{foresight.action}",
        "timestamp": int(foresight.at * 1000),
        "properties": properties,
    }
    return event if user_id is None else event | {"user_id": user_id}


def _bucket(seed: str, unit: str) -> float:
    """Return the position of a unit in [0, 1), as `tactful_bandits` does on a server.

    Devices do not have that package. Hash version 2 of GrowthBook: FNV-1a over UTF-16 code units,
    and again over the decimal digits.
    """
    return _fnv1a(str(_fnv1a(seed + unit))) % 10_000 / 10_000


def _fnv1a(text: str) -> int:
    state, units = 0x811C9DC5, text.encode("utf-16-le", "surrogatepass")
    for at in range(0, len(units), 2):
        state = (state ^ int.from_bytes(units[at : at + 2], "little")) * 0x01000193 & 0xFFFFFFFF
    return state
