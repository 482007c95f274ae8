"""Count the outcomes of users with personal recommendations, and of those without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tactful.event_log.impressions import Impression
from tactful.event_log.recipients import Recipients
from tactful.experiments.definitions import HOLDOUT
from tactful.experiments.metrics import number_of, spent_in
from tactful.experiments.timed_tally import TimedTally
from tactful_bandits.analysis.samples import Mean, Ratio, Sample
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.log_entries import (
    Event,
    decode_entry,
    event_for,
    event_key,
    subject_key,
)
from tactful_streaming.errors import StreamingError

_PURCHASE = "purchase"


@dataclass(frozen=True)
class UserWorth:
    """Actions of one user since their first recommendation in the span."""

    shown: int  # recommendations whose outcome time is over
    clicked: int  # of them, those with a click
    orders: int
    spent: float  # before discounts
    discount: float


class WorthTally(TimedTally):
    """Counts recommendations like `TimedTally`, and all orders after the first of them."""

    def __init__(
        self,
        *,
        since: int,
        until: int | None,
        lasts: int,
        step: int,
        allows: Callable[[Event], bool] = lambda event: True,
        recipients: Recipients | None = None,
    ) -> None:
        """Start empty; arguments as of `Tally`. Orders count until `until`, too."""
        super().__init__(
            HOLDOUT,
            step=step,
            since=since,
            until=until,
            types=("click",),
            lasts=lasts,
            allows=allows,
            recipients=recipients,
        )
        self._from, self._to, self._may = since, until, allows
        self._begun: dict[str, int] = {}
        self._orders: dict[str, tuple[str, int, float, float]] = {}  # by the key of the event

    def read(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Count records of the log, given as offset and payload."""
        records = list(records)
        super().read(records)
        mark = _PURCHASE.encode()
        for _, payload in records:
            if mark in payload:
                self._order(payload)

    def users(self) -> dict[str, list[UserWorth]]:
        """Return the users by arm; those who were shown several arms are left out."""
        orders: dict[str, list[tuple[float, float]]] = {}
        for person, at, spent, discount in self._orders.values():
            if at >= self._begun.get(person, at + 1):
                orders.setdefault(person, []).append((spent, discount))
        found: dict[str, list[UserWorth]] = {}
        for person, arm in self._arms.items():
            if arm is None:
                continue
            done, bought = self._people.get(person), orders.get(person, [])
            user = UserWorth(
                shown=0 if done is None else done.shown,
                clicked=0 if done is None else done.took,
                orders=len(bought),
                spent=sum(spent for spent, _ in bought),
                discount=sum(discount for _, discount in bought),
            )
            found.setdefault(arm, []).append(user)
        return found

    def _show(self, shown: Impression) -> None:
        super()._show(shown)
        arm, person = self._placed(shown)
        at = shown.event.timestamp
        late = self._to is not None and at > self._to
        if arm is not None and person is not None and at >= self._from and not late:
            self._begun[person] = min(at, self._begun.get(person, at))

    def _order(self, payload: bytes) -> None:
        try:
            event = event_for(decode_entry(payload), Purpose.MEASUREMENT)
        except StreamingError:
            return
        if event is None or event.type != _PURCHASE or not self._may(event):
            return
        person, at = subject_key(event), event.timestamp
        if person is None or at < self._from or (self._to is not None and at > self._to):
            return
        spent = spent_in(event)
        discount = min(max(number_of(event, "discount"), 0.0), spent)
        self._orders.setdefault(event_key(event), (person, at, spent, discount))


def worth_samples(users: Mapping[str, list[UserWorth]]) -> dict[str, dict[str, Sample]]:
    """Return the exact outcomes by arm and metric; arms with fewer than two users are left out."""
    found: dict[str, dict[str, Sample]] = {}
    for arm, people in users.items():
        if len(people) < 2:
            continue
        table: NDArray[np.float64] = np.array(
            [(it.shown, it.clicked, it.orders, it.spent, it.discount) for it in people], np.float64
        )
        shown, clicked, orders, spent, discount = table.T
        samples: dict[str, Sample] = {"orders": Mean.from_units(orders)}
        over = shown > 0
        if over.sum() >= 2:
            samples["ctr"] = Ratio.from_units(clicked[over], shown[over])
        if spent.sum() > 0:
            samples["marketing_cost_share"] = Ratio.from_units(discount, spent)
        found[arm] = samples
    return found
