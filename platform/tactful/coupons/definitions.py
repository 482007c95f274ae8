"""Coupon campaigns as data: on which action, to whom, how often, and out of which budget.

```yaml
- name: abandoned-cart
  action: coupon                  # the emit of a sequence, see features.yaml
  offer: {percent: 10}            # what the shop is told
  cost: 5                         # the most that one can cost
  budget: {amount: 1000, decisions: 5000}
  eligible: {coupons_30d: {$lt: 1}, spend_30d: {$gte: 20}}
  holdout: 0.1
```

`eligible` is a condition on the person's features in the language of experiments
(`tactful_bandits.matches`). A cap on how often somebody gets a coupon is such a condition, on a
feature that counts events of the type ``x.coupon_offer``.
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
"""Type of the event that promises a coupon; the shop is told of it."""

WITHHELD = "x.coupon_withheld"
"""Type of the event that says that somebody eligible gets none, for later comparison."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class CouponBudget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a campaign may cost.

    Attributes:
        amount: in all; a hard bound, in units of money.
        decisions: for how many decisions it should last, a forecast.
    """

    amount: Annotated[float, Meta(gt=0)]
    decisions: Annotated[int, Meta(ge=1)]


class CouponDefinition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One campaign.

    Attributes:
        name: small letters, digits, ``-`` and ``_``.
        action: of a sequence or join, its ``emit``.
        cost: the most that one coupon can cost, in units of money.
        budget: what all may cost.
        offer: what the shop is told of the coupon.
        valid_hours: how long it can be redeemed; what it was to cost then goes back to the budget.
        eligible: condition on features of the person.
        holdout: share of the people who never get one, always the same, to measure what all bring.
        explore: share of the others who get one whatever is expected, to learn from.
        gain: what a coupon is expected to bring, as weights of features; ``constant`` stands alone.
            Without any, everybody eligible gets one.
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
        """Type of the event that it waits for."""
        return f"x.{self.action}"


def load_coupons(path: Path, *, actions: Collection[str] | None = None) -> list[CouponDefinition]:
    """Read the campaigns of a YAML file.

    Args:
        path: the file.
        actions: types of the actions that there are; None does not check.

    Raises:
        ConfigError: if it cannot be read, or one of them is wrong; the message says which.
    """
    try:
        plain = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(plain, Sequence) or isinstance(plain, str):
        raise ConfigError(f"{path}: must be a list of campaigns")
    found = []
    for number, each in enumerate(plain, 1):
        where = f"{path}: campaign number {number}"
        try:
            campaign = msgspec.convert(each, CouponDefinition)
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
        found.append(campaign)
    names = [campaign.name for campaign in found]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{path}: written twice: {', '.join(repeated)}")
    return found
