"""Values of coupons that a bandit chooses: properties of the offer, such as ``{percent: 10}``.

A campaign with `bandit` offers the value of an arm, so each value must be a mapping for the shop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tactful.bandits.decisions import FEATURES, Decision
from tactful.bandits.definitions import BanditDefinition
from tactful.errors import ConfigError
from tactful_streaming.contract.log_entries import Event

Offer = dict[str, str | float | bool]
"""Properties of a coupon for the shop."""


@dataclass(frozen=True)
class ChosenValue:
    """Value of a coupon for one user.

    Attributes:
        value: its properties for the shop.
        logged: properties of the bandit's decision; empty: it was not asked, its default serves.
        features: features of the decision.
    """

    value: Offer
    logged: dict[str, Any] = field(default_factory=dict)
    features: list[float] = field(default_factory=list)


Values = Callable[[str, Event, Mapping[str, Any]], ChosenValue]
"""Chooses by the key of a bandit, the action, and the features of its user."""


def no_value(key: str, event: Event, known: Mapping[str, Any]) -> ChosenValue:
    """Choose nothing beyond the `offer` of the campaign."""
    return ChosenValue({})


def chosen_value(value: object, decision: Decision, rollouts: Mapping[str, Any]) -> ChosenValue:
    """Return the value of an arm with the decision for it; `rollouts` are further properties."""
    logged = {**decision.to_log_fields(), **rollouts}
    return ChosenValue(as_offer(value), logged, logged.pop(FEATURES, []))


def as_offer(value: object) -> Offer:
    """Return the value of an arm as properties of an offer; ConfigError if it is none."""
    try:
        return msgspec.convert(value, Offer)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{error}: the value of a coupon is a mapping of texts, numbers and booleans, "
            "such as {percent: 10}"
        ) from error


def require_values(definition: BanditDefinition, campaign: str) -> None:
    """Raise ConfigError if a bandit cannot choose the values of a campaign; it names the arm."""
    for arm in definition.arms:
        where = f"campaign {campaign!r} offers its values: arm {arm.name!r}"
        if definition.recommends:
            raise ConfigError(
                f"{where} shapes recommendations: give `value`, such as {{percent: 10}}, instead "
                "of `parameters`, or name another bandit in the campaign"
            )
        try:
            as_offer(arm.value)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
