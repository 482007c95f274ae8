"""A shop with a full funnel, whose best possible recommendations are known.

A visit is about one group of items. The user views some of its items, puts some of these into the
cart at once, and buys those at the end::

    view a -> cart a -> view b -> view c -> cart c -> purchase a -> purchase c

The group of a visit is the user's favourite one with the probability `LOYAL`, else any. The next
item is drawn by Zipf's law within the group, without those that were viewed. No user, item or
property says more, so the probability of each next item is known exactly, and with it the best hit
rate that any recommender can reach; see `Funnel.best`.

Three leaks are planted, each useless at the moment of a request:

- `sold`, a property of an item, is set after each purchase;
- some views arrive after the purchase, with the time at which they happened;
- one click lies a year in the future.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.dataset import DAY, Dataset, from_events

LOYAL = 0.7
CART = 0.5
"""Probability that a viewed item is put into the cart."""

_BEGIN = 1_704_067_200_000
_MINUTE = 60_000
_LATE = 0.1
_VIEWS = 4
"""Mean number of viewed items of a visit beyond the first."""


@dataclass(frozen=True)
class Funnel:
    """The shop, and what is known of it.

    Attributes:
        dataset: its events.
        groups: items of each group, the most likely first.
        favourite: group of each user.
    """

    dataset: Dataset
    groups: Sequence[Sequence[str]]
    favourite: dict[str, int]

    def best(self, person: str, seen: Collection[str], count: int = 20) -> dict[str, float]:
        """Return the most likely next items of a visit and their probabilities, best first.

        Args:
            person: user id.
            seen: the items that the visit viewed so far.
            count: number of items.
        """
        weights = _zipf(len(self.groups[0]))
        chances: dict[str, float] = {}
        for number, group in enumerate(self.groups):
            share = (1.0 - LOYAL) / len(self.groups)
            share += LOYAL if number == self.favourite[person] else 0.0
            if seen:
                share = float(not set(group).isdisjoint(seen))
            left = {i: w for i, w in zip(group, weights.tolist(), strict=True) if i not in seen}
            total = sum(left.values())
            chances.update({item: share * weight / total for item, weight in left.items()})
        order = sorted(chances, key=lambda item: -chances[item])[:count]
        return {item: chances[item] for item in order}


def make_funnel(
    seed: int = 0,
    *,
    people: int = 60,
    groups: int = 6,
    size: int = 40,
    days: int = 60,
    visits: int = 600,
    leaks: bool = True,
) -> Funnel:
    """Generate a shop; the defaults fit a test.

    Args:
        seed: of all draws.
        people: number of users.
        groups: number of groups.
        size: items of each group; more than twenty, else every list is right.
        days: length.
        visits: number of visits.
        leaks: whether the leaks are planted.
    """
    generator = np.random.default_rng(seed)
    names = [[f"g{group}-{item:03d}" for item in range(size)] for group in range(groups)]
    for group in names:
        generator.shuffle(group)  # the id says nothing of the probability
    favourite = {f"u{it}": int(generator.integers(groups)) for it in range(people)}
    shop = _Shop(generator, names, favourite)
    starts = np.sort(generator.integers(0, days * DAY, visits)) + _BEGIN
    for number, start in enumerate(starts.tolist()):
        # Visits do not overlap: the order of the events is the order of their times.
        end = int(starts[number + 1]) if number + 1 < visits else start + DAY
        shop.visit(f"s{number}", start, (end - start) // 64, leaks)
    if leaks:
        shop.future_click(_BEGIN + (days + 365) * DAY)
    items = [
        {"item_id": name, "category": f"g{group}", "properties": {"sold": 0}}
        for group, members in enumerate(names)
        for name in sorted(members)
    ]
    dataset = from_events(
        "funnel",
        shop.events,
        items=items,
        users=[{"user_id": person} for person in favourite],
        updates=shop.updates,
        note="generated: view, cart and purchase of the same item",
    )
    funnel = Funnel(dataset, names, favourite)
    return replace(funnel, dataset=replace(dataset, best=funnel.best))


class _Shop:
    """Events so far, in the order of arrival."""

    def __init__(
        self,
        generator: np.random.Generator,
        groups: Sequence[Sequence[str]],
        favourite: dict[str, int],
    ) -> None:
        self._generator, self._groups, self._favourite = generator, groups, favourite
        self._people = list(favourite)
        self._sold: dict[str, int] = {}
        self.events: list[dict[str, Any]] = []
        self.updates: list[tuple[int, dict[str, Any]]] = []

    def visit(self, session: str, start: int, step: int, leaks: bool) -> None:
        """Add one visit."""
        draw = self._generator
        person = self._people[int(draw.integers(len(self._people)))]
        loyal = draw.random() < LOYAL
        number = self._favourite[person] if loyal else int(draw.integers(len(self._groups)))
        group = self._groups[number]
        count = min(1 + int(draw.poisson(_VIEWS)), 12, len(group) - 1)
        viewed = draw.choice(len(group), count, replace=False, p=_zipf(len(group))).tolist()
        at, taken, late = start, [], []
        step = max(1, min(step, _MINUTE))
        base = {"user_id": person, "session_id": session}
        for place in viewed:
            view = {"type": "view", "timestamp": at, "item_id": group[place], **base}
            in_cart = draw.random() < CART
            # A view is late only where a purchase says the same.
            if leaks and in_cart and draw.random() < _LATE:
                late.append(view)
            else:
                self.events.append(view)
            if in_cart:
                taken.append(group[place])
                self.events.append({**view, "type": "add_to_cart", "timestamp": at + step // 2})
            at += step
        for item in taken:
            bought = {"type": "purchase", "timestamp": at, "item_id": item, **base}
            self.events.append(bought)
            self._sold[item] = self._sold.get(item, 0) + 1
            at += max(1, step // 2)
        for item in taken if leaks else ():
            upsert = {"item_id": item, "category": item.partition("-")[0], "timestamp": at}
            properties = {"sold": self._sold[item]}
            self.updates.append((len(self.events), {**upsert, "properties": properties}))
        self.events += late

    def future_click(self, at: int) -> None:
        """Insert a click with a stray date into the middle of what is trained on."""
        middle = len(self.events) // 2
        base = self.events[middle]
        click = {**base, "type": "click", "timestamp": at, "session_id": "stray"}
        self.events.insert(middle, click)
        self.updates = [(n + (n > middle), item) for n, item in self.updates]


def _zipf(count: int) -> NDArray[np.float64]:
    weights = 1.0 / np.arange(1, count + 1)
    return np.asarray(weights / weights.sum())
