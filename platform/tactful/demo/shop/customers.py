"""Made-up customers of the web shop and their visits: the same for the same seed.

A customer prefers two categories and a colour. Each item has companions, which follow it in a
visit, so that pairs of items are worth finding.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from tactful.demo.datasets import Replay
from tactful.demo.shop.goods import CATEGORIES, COLOURS, DAY, Good

NAMES = ("Ada", "Ben", "Chloe", "Dev", "Eva")
"""Names of the first customers, to log in as."""

DAYS = 21
_KINDS = ("view", "add_to_cart", "purchase")
_COMPANIONS = 2
_FOLLOWS = 0.5  # probability that a companion of the last item comes next
_TAKES = 0.3  # probability that an item that was viewed goes into the cart
_STEP = 40_000  # milliseconds between two events of a visit


@dataclass(frozen=True)
class Customer:
    """A customer and their taste."""

    user_id: str
    favourites: tuple[str, str]  # categories
    colour: str


@dataclass(frozen=True)
class _Event:
    at: int
    kind: str
    person: str
    session: str
    good: Good | None  # None for the purchase that ends a visit


def make_customers(*, seed: int = 27, count: int = 600) -> list[Customer]:
    """Make customers; the first ones are those of `NAMES`."""
    draw = random.Random(seed)
    ids = [name.lower() for name in NAMES] + [f"customer-{n:03d}" for n in range(count)]
    names = [category.name for category in CATEGORIES]
    colours = sorted(COLOURS)
    customers = []
    for number, user_id in enumerate(ids[:count]):
        first = names[number % len(names)]
        second = draw.choice([name for name in names if name != first])
        customers.append(Customer(user_id, (first, second), draw.choice(colours)))
    return customers


def make_history(
    goods: Sequence[Good], customers: Sequence[Customer], *, now: int, seed: int = 27
) -> Replay:
    """Let the customers visit the shop in the `DAYS` days before `now` (epoch milliseconds)."""
    draw = random.Random(seed)
    shelves = _Shelves(goods, draw)
    events: list[_Event] = []
    for customer in customers:
        for visit in range(draw.randint(3, 8)):
            begin = now - DAY // 24 - round(draw.random() * (DAYS - 1) * DAY)
            session = f"{customer.user_id}-{visit}"
            events += _visit(customer, session, begin, shelves, draw)
    events.sort(key=lambda event: event.at)
    return Replay(
        name="shop",
        title=f"{len(goods)} made-up items, {len(customers)} made-up customers, "
        f"{len(events):,} events of {DAYS} days",
        protocol="",
        notes=("Everything is made up: items, prices, customers and visits.",),
        items=[good.upsert() for good in goods],
        users=[{"user_id": customer.user_id} for customer in customers],
        timestamp=np.array([event.at for event in events], np.int64),
        kind=np.array([_KINDS.index(event.kind) for event in events], np.int8),
        kinds=_KINDS,
        person=[event.person for event in events],
        session=[event.session for event in events],
        item=[event.good.item_id if event.good else None for event in events],
        price=np.array([event.good.price if event.good else np.nan for event in events]),
        quantity=np.array([event.kind == "add_to_cart" for event in events], np.int64),
        cut=len(events),
        asks=[],
        category_property="colour",
    )


class _Shelves:
    """Goods by category, the popular ones first, and the companions of each."""

    def __init__(self, goods: Sequence[Good], draw: random.Random) -> None:
        self._goods: dict[str, list[Good]] = defaultdict(list)
        for good in draw.sample(goods, len(goods)):
            self._goods[good.category].append(good)
        # Popularity falls about like a power of the place.
        self._popularity = {
            category: [*accumulate((place + 3) ** -0.8 for place in range(len(shelf)))]
            for category, shelf in self._goods.items()
        }
        self.companions = {
            good.item_id: [
                self._popular(other, draw)
                for other in draw.sample(sorted(self._goods), min(_COMPANIONS, len(self._goods)))
            ]
            for good in goods
        }

    def _popular(self, category: str, draw: random.Random) -> Good:
        return draw.choices(self._goods[category], cum_weights=self._popularity[category])[0]

    def next(self, customer: Customer, last: Good | None, draw: random.Random) -> Good:
        """Draw the item that a customer looks at next."""
        if last is not None and draw.random() < _FOLLOWS:
            return draw.choice(self.companions[last.item_id])
        category = draw.choices(
            [*customer.favourites, draw.choice(sorted(self._goods))], weights=[5, 3, 2]
        )[0]
        good = self._popular(category, draw)
        # A second look, for the colour that this customer likes.
        return good if good.colour == customer.colour else self._popular(category, draw)


def _visit(
    customer: Customer, session: str, begin: int, shelves: _Shelves, draw: random.Random
) -> list[_Event]:
    events, at, took, last = [], begin, False, None
    for _ in range(draw.randint(2, 8)):
        last = shelves.next(customer, last, draw)
        events.append(_Event(at, "view", customer.user_id, session, last))
        at += _STEP
        if draw.random() < _TAKES:
            took = True
            events.append(_Event(at, "add_to_cart", customer.user_id, session, last))
            at += _STEP
    if took:
        events.append(_Event(at, "purchase", customer.user_id, session, None))
    return events
