"""Coupon campaigns as data: their action, eligible users, frequency and budget.

```yaml
- name: abandoned-cart
  action: coupon                  # the emit of a sequence, see features.yaml
  offer: {percent: 10}            # sent to the shop
  cost: 5                         # the most that one can cost
  budget: {amount: 1000, decisions: 5000}
  eligible: {coupons_30d: {$lt: 1}, spend_28d: {$gte: 20}}
  holdout: 0.1
```

`eligible` is a condition on the user's features in the language of experiments
(`tactful_bandits.matches`). A cap on a user's coupons is such a condition, on a feature that counts
events of the type `x.coupon_offer`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tactful.bandits.definitions import BanditDefinition
from tactful.coupons.values import Offer, require_values
from tactful.errors import ConfigError
from tactful.experiments.definitions import read_entries, require_distinct
from tactful.lifecycle.profile import DAYS, NAME
from tactful_bandits.assignment.conditions import attribute_names, require_condition
from tactful_bandits.assignment.yaml_source import YamlSource
from tactful_bandits.errors import DefinitionError
from tactful_streaming.definitions.model import Definitions, emitted_types
from tactful_streaming.definitions.yaml_nodes import suggestion

WITHHELD = "x.coupon_withheld"
"""Type of the event for an eligible user who gets no coupon, for later comparison."""

PROPENSITY = "propensity"
"""Property of both, offers and withheld ones: chance of an offer at that time among the explored
and the held out."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class CouponBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Budget of a campaign."""

    amount: Annotated[float, Meta(gt=0)]  # hard bound on the total cost, in units of money
    decisions: Annotated[int, Meta(ge=1)]  # expected number of decisions


class CouponDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One campaign."""

    name: str  # small letters, digits, `-` and `_`
    action: str  # the `emit` of a sequence or join
    cost: Annotated[float, Meta(gt=0)]  # the most that one coupon can cost, in units of money
    budget: CouponBudget  # bound on the cost of all coupons
    offer: Offer = {}  # properties of the coupon for the shop
    # Time to redeem it; its cost is then refunded to the budget
    valid_hours: Annotated[float, Meta(gt=0)] = 48.0
    eligible: dict[str, Any] = {}  # condition on features of the user
    # Share of the users who never get one, always the same, to measure the effect
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    # Share of the other users who get one at any expected gain, to learn from
    explore: Annotated[float, Meta(ge=0, le=1)] = 0.2
    # Expected gain of a coupon, as weights of features; `constant` stands alone. Without any, all
    # eligible users get one.
    gain: dict[str, float] = {}
    # Names of the features that are logged with a decision, to learn `gain` from
    features: tuple[str, ...] = ()
    # Key of the bandit that chooses the value, which is added to `offer`; `cost` bounds all values
    bandit: str = ""

    @property
    def trigger(self) -> str:
        """Type of the event that is decided."""
        return f"x.{self.action}"


def load_coupons(
    path: Path,
    *,
    definitions: Definitions | None = None,
    bandits: Mapping[str, BanditDefinition] | None = None,
) -> list[CouponDefinition]:
    """Read the campaigns of a YAML file; raise ConfigError that names the line of the wrong one.

    Their actions and features must be among those of `definitions`, if given, and their values
    those of one of the `bandits`, by key.
    """
    campaigns: list[CouponDefinition] = []
    for number, entry in enumerate(read_entries(path, "campaigns"), 1):
        where = partial(_located, path, number)
        try:
            campaign = msgspec.convert(entry, CouponDefinition)
            require_condition("eligible", campaign.eligible)
        except (msgspec.ValidationError, UnicodeError, DefinitionError) as error:
            raise ConfigError(f"{where()}: {error}") from error
        if not _NAME.fullmatch(campaign.name):
            raise ConfigError(f"{where()}: name must be small letters, digits, '-' and '_'")
        if campaign.cost > campaign.budget.amount:
            raise ConfigError(f"{where()}: one coupon costs more than the whole budget")
        if definitions is not None and (wrong := _unknown_name(campaign, definitions)):
            raise ConfigError(f"{where()}: {wrong}")
        if bandits is not None and (wrong := _unfit_bandit(campaign, bandits)):
            raise ConfigError(f"{where('bandit')}: {wrong}")
        campaigns.append(campaign)
    require_distinct(path, [campaign.name for campaign in campaigns])
    return campaigns


def require_offered(definition: BanditDefinition, campaigns: Iterable[CouponDefinition]) -> None:
    """Raise ConfigError if a campaign offers the values of a bandit that are no offers."""
    for campaign in campaigns:
        if campaign.bandit == definition.key:
            require_values(definition, campaign.name)


def _located(path: Path, number: int, *field: str) -> str:
    try:
        lines = YamlSource.read(path, "").lines
    except (OSError, DefinitionError):  # it has aliases, which campaigns may have
        lines = {}
    line = lines.get((number - 1, *field))
    return f"{path}{'' if line is None else f':{line}'}: campaign number {number}"


def _unfit_bandit(campaign: CouponDefinition, bandits: Mapping[str, BanditDefinition]) -> str:
    """Return why a campaign's bandit cannot choose its values; empty if it can."""
    if not campaign.bandit:
        return ""
    definition = bandits.get(campaign.bandit)
    if definition is None:
        there = f"there are {', '.join(sorted(bandits))}" if bandits else "there are none"
        return (
            f"bandit: there is no bandit {campaign.bandit!r}; {there}: write it in the file of "
            "`bandits.definitions`, or apply it by `tactful bandit apply`"
        )
    try:
        require_values(definition, campaign.name)
    except ConfigError as error:
        return f"bandit: {definition.key!r}: {error}"
    return ""


def _unknown_name(campaign: CouponDefinition, definitions: Definitions) -> str:
    """Return what is wrong with the first action or feature that is not defined; empty if none."""
    actions = sorted(it.removeprefix("x.") for it in emitted_types(definitions).values())
    if campaign.action not in actions:
        there = f"there are {', '.join(actions)}" if actions else "there are no actions"
        return f"nothing emits {campaign.action!r}; {there}"
    known = sorted(each.name for each in definitions.all if each.entity == "user")
    derived = [NAME] if DAYS in known else []
    for field, names in (
        ("eligible", attribute_names(campaign.eligible)),
        ("gain", campaign.gain.keys() - {"constant"}),
        ("features", campaign.features),
    ):
        for name in sorted({*names} - {*known, *(derived if field == "eligible" else ())}):
            near = suggestion(name, known) or f"; there are {', '.join(known) or 'none'}"
            return f"{field}: users have no feature {name!r}{near}"
    return ""
