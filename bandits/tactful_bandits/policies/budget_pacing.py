"""Budget pacing: spend a coupon budget evenly and effectively.

Every arm has a cost. The *price* of money, λ, turns it into a penalty on the arm's score: an arm is
chosen only if its gain exceeds ``λ cost``. After each decision λ moves by ``step * (spent -
budget / horizon)``, never below 0: it rises if too much is spent and falls if too little is.
For bandits this is the primal-dual method for knapsacks (Agrawal, Devanur, NeurIPS 2016, arXiv
1507.06738), for auctions adaptive pacing (Balseiro, Gur, Management Science 2019). The budget
itself is a hard bound: arms that cost more than the rest of it are not allowed.
"""

from __future__ import annotations

from typing import Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.codec import pack_policy, unpack


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="pacing"):
    budget: float
    horizon: int
    step: float
    largest_price: float
    price: float
    spent: float
    decisions: int


class BudgetPacing:
    """Price of money for decisions that share a budget.

    Attributes:
        budget: Total budget, above 0.
        horizon: Number of decisions that the budget should last for; a forecast, at least 1.
        step: Step of the price, in units of reward per squared unit of money.
        largest_price: Upper bound of the price, in reward per unit of money.
        price: λ, in reward per unit of money.
        spent: Money spent so far.
        decisions: Number of decisions so far.
    """

    def __init__(
        self, budget: float, horizon: int, *, step: float, largest_price: float = 100.0
    ) -> None:
        """Create a budget with price 0."""
        for name, value in (("budget", budget), ("step", step), ("largest_price", largest_price)):
            if not 0 < value < float("inf"):
                raise PolicyError(f"{name} is {value}: it must be finite and above 0")
        if horizon < 1:
            raise PolicyError(f"horizon is {horizon}: it must be at least 1")
        self.budget, self.horizon = float(budget), int(horizon)
        self.step, self.largest_price = float(step), float(largest_price)
        self.price = 0.0
        self.spent = 0.0
        self.decisions = 0

    @property
    def left(self) -> float:
        """Rest of the budget."""
        return max(0.0, self.budget - self.spent)

    def terms(self, costs: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Compute each arm's penalty, and whether the rest of the budget covers it.

        Costs are the largest possible ones, ``[arms]``, finite and from 0.
        """
        money = np.asarray(costs, dtype=np.float64)
        if not ((money >= 0) & np.isfinite(money)).all():
            raise PolicyError("costs must be finite and at least 0")
        return self.price * money, money <= self.left

    def spend(self, cost: float) -> None:
        """Book a cost up to the rest of the budget, 0 included, and update the price."""
        if not 0 <= cost <= self.left:
            raise PolicyError(f"a cost of {cost} exceeds the {self.left:g} left in the budget")
        self.spent = min(self.spent + cost, self.budget)  # the last bit may be rounded up
        self.decisions += 1
        moved = self.price + self.step * (cost - self.budget / self.horizon)
        self.price = min(max(0.0, moved), self.largest_price)

    def refund(self, cost: float) -> None:
        """Return money that a decision did not cost, such as that of an unused coupon."""
        if not 0 <= cost <= self.spent:
            raise PolicyError(f"cannot refund {cost}: only {self.spent:g} were spent")
        self.spent -= cost
        self.price = min(max(0.0, self.price - self.step * cost), self.largest_price)

    def to_bytes(self) -> bytes:
        """Serialise the state."""
        return pack_policy(_State, self)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Restore the state of `to_bytes`; raise PolicyError if it is damaged."""
        state = unpack(data, _State)
        if not (0 <= state.price <= state.largest_price and 0 <= state.spent <= state.budget):
            raise PolicyError("the state of this pacing is inconsistent")
        pacing = cls(
            state.budget, state.horizon, step=state.step, largest_price=state.largest_price
        )
        pacing.price, pacing.spent, pacing.decisions = state.price, state.spent, state.decisions
        return pacing
