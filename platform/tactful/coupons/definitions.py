"""Coupon campaigns as data: their action, eligible users, frequency and budget.

```yaml
- name: abandoned-cart
  action: coupon                  # the emit of a sequence, see features.yaml
  offer: {percent: 10}            # sent to the shop
  cost: 5                         # the most that one can cost
  budget: {amount: 1000, decisions: 5000}
  eligible: {coupons_30d: {$lt: 1}, spend_30d: {$gte: 20}}
  holdout: 0.1
```

`eligible` is a condition on the user's features in the language of experiments
(`tactful_bandits.matches`). A cap on a user's coupons is such a condition, on a feature that counts
events of the type `x.coupon_offer`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from msgspec import Meta

from tactful.errors import ConfigError
from tactful_bandits.assignment.conditions import require_condition
from tactful_bandits.errors import DefinitionError

OFFER = "x.coupon_offer"
"""Type of the event that promises a coupon; it is sent to the shop."""

WITHHELD = "x.coupon_withheld"
"""Type of the event for an eligible user who gets no coupon, for later comparison."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class CouponBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Budget of a campaign.

    Attributes:
        amount: hard bound on the total cost, in units of money.
        decisions: expected number of decisions.
    """

    amount: Annotated[float, Meta(gt=0)]
    decisions: Annotated[int, Meta(ge=1)]


class CouponDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One campaign.

    Attributes:
        name: small letters, digits, `-` and `_`.
        action: the `emit` of a sequence or join.
        cost: the most that one coupon can cost, in units of money.
        budget: bound on the cost of all coupons.
        offer: properties of the coupon for the shop.
        valid_hours: time to redeem it; its cost is then refunded to the budget.
        eligible: condition on features of the user.
        holdout: share of the users who never get one, always the same, to measure the effect.
        explore: share of the other users who get one at any expected gain, to learn from.
        gain: expected gain of a coupon, as weights of features; `constant` stands alone. Without
            any, all eligible users get one.
        features: names of the features that are logged with a decision, to learn `gain` from.
    """

    name: str
    action: str
    cost: Annotated[float, Meta(gt=0)]
    budget: CouponBudget
    offer: dict[str, str | float | bool] = {}
    valid_hours: Annotated[float, Meta(gt=0)] = 48.0
    eligible: dict[str, Any] = {}
    holdout: Annotated[float, Meta(gt=0, lt=1)] = 0.1
    explore: Annotated[float, Meta(ge=0, le=1)] = 0.2
    gain: dict[str, float] = {}
    features: tuple[str, ...] = ()

    @property
    def trigger(self) -> str:
        """Type of the event that is decided."""
        return f"x.{self.action}"


def load_coupons(path: Path, *, actions: Collection[str] | None = None) -> list[CouponDefinition]:
    """Read the campaigns of a YAML file; their actions must be among `actions`, if given.

    Raises:
        ConfigError: if the file cannot be read, or a campaign is wrong; the message names it.
    """
    try:
        plain = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise ConfigError(f"{path}: must be a list of campaigns")
    campaigns: list[CouponDefinition] = []
    for number, entry in enumerate(plain, 1):
        where = f"{path}: campaign number {number}"
        try:
            campaign = msgspec.convert(entry, CouponDefinition)
            require_condition("eligible", campaign.eligible)
        except (msgspec.ValidationError, DefinitionError) as error:
            raise ConfigError(f"{where}: {error}") from error
        if not _NAME.fullmatch(campaign.name):
            raise ConfigError(f"{where}: name must be small letters, digits, '-' and '_'")
        if campaign.cost > campaign.budget.amount:
            raise ConfigError(f"{where}: one coupon costs more than the whole budget")
        if actions is not None and campaign.trigger not in actions:
            raise ConfigError(
                f"{where}: nothing emits {campaign.action!r}; there are "
                f"{', '.join(sorted(it.removeprefix('x.') for it in actions)) or 'no actions'}"
            )
        campaigns.append(campaign)
    names = [campaign.name for campaign in campaigns]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: written twice: {', '.join(repeated)}")
    return campaigns
