"""Fill the places of a recommendation from values, under rules, diversity and exploration.

Each place takes the item of the largest value, less its penalty for similarity, among those that
placement rules leave; or an item is drawn, where an arm explores. After the last place that a rule
or option concerns, the others follow by value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tactful.kernels.sparse_scores import descending
from tactful.rerank.diversity import Diversity, Likeness
from tactful.rerank.exploration import Exploration, draw


@dataclass(frozen=True)
class Group:
    """Items of a placement rule, and its bounds. Places count from 0."""

    name: str
    members: NDArray[np.bool_]  # whether each item belongs to it, shape (n,)
    within: int = 0  # number of first places that `least` and `most` count
    least: int = 0  # least number of members in these places
    most: int | None = None  # most members in these places; None for any number
    first: int = 0  # no member stands before this place
    # members that fulfil `least` where the values alone do not, shape (n,); None for all
    drawn: NDArray[np.bool_] | None = None

    @property
    def demanded(self) -> NDArray[np.bool_]:
        """Members that fulfil `least` where the values alone do not."""
        return self.members if self.drawn is None else self.drawn


@dataclass(frozen=True)
class Bounds:
    """Bounds of placement rules on the items of a request."""

    groups: Sequence[Group] = ()
    # rule and item by place, every item once
    pins: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    # names of rules that demand items which are not among the candidates
    missing: tuple[str, ...] = ()


_NO_BOUNDS, _NO_DIVERSITY, _NO_EXPLORATION = Bounds(), Diversity(), Exploration()


@dataclass(frozen=True)
class Arrangement:
    """An ordered recommendation."""

    order: NDArray[np.int64]  # items, best first, shape (k,)
    # probability of each at its place, given the items above it, shape (k,); None without
    # exploration
    propensities: NDArray[np.float64] | None = None
    short: tuple[str, ...] = ()  # names of rules that demanded more items than the candidates hold


def arrange(
    # of the items, finite; of equal values the first item is the better. Shape (n,).
    values: NDArray[np.float32],
    count: int,
    *,
    bounds: Bounds = _NO_BOUNDS,
    diversity: Diversity = _NO_DIVERSITY,
    likeness: Likeness | None = None,  # similarity of items; None for no penalty
    exploration: Exploration = _NO_EXPLORATION,
    generator: np.random.Generator | None = None,  # of the noise; None draws nothing
) -> Arrangement:
    """Order at most `count` items.

    Fewer if there are not as many, or if rules that forbid leave no item for a place.
    """
    order = descending(np.asarray(values, np.float32))
    spread = diversity.places if diversity.strength and likeness is not None else 0
    explored = exploration.places if exploration.temperature and generator is not None else 0
    if not (spread or explored or bounds.pins) and _holds(bounds.groups, order[:count]):
        return Arrangement(order[:count], None, bounds.missing)

    filling = _Filling(len(values), min(count, len(values)), bounds)
    worth = values.astype(np.float64)
    pool = np.zeros(len(values), np.bool_)
    pool[order[: exploration.pool]] = True
    chances: list[float] = []
    for place in range(min(max(spread, explored, filling.last_bound), filling.count)):
        usable, chance = filling.usable(place), 1.0
        item = filling.pinned(place, usable)
        if item is None:
            usable = filling.demanded(place, usable)
            if not usable.any():
                break
            net = worth
            if likeness is not None and place < spread:
                net = worth - diversity.strength * likeness.nearest
            items = np.flatnonzero(usable & pool) if place < explored else ()
            if generator is not None and len(items):
                drawn, chance = draw(net[items], exploration.temperature, generator)
                item = int(items[drawn])
            else:
                item = int(np.argmax(np.where(usable, net, -np.inf)))
        filling.take(item)
        chances.append(chance)
        if likeness is not None and spread:
            likeness.choose(item)
    else:
        filling.rest(order)
    chosen = np.array(filling.chosen, np.int64)
    chances += [1.0] * (len(chosen) - len(chances))
    return Arrangement(chosen, np.array(chances) if explored else None, filling.short())


class _Filling:
    """A recommendation while it is filled, and the demands that are still open."""

    def __init__(self, total: int, count: int, bounds: Bounds) -> None:
        self.count = count
        self.chosen: list[int] = []
        self._groups = bounds.groups
        self._open = np.ones(total, np.bool_)
        self._missing = list(bounds.missing)
        self._pins: dict[int, int] = {}
        for place, (name, item) in sorted(bounds.pins.items()):
            if place < count:
                self._pins[place] = item
            else:
                self._missing.append(name)
        self._pin_names = {place: name for place, (name, _) in bounds.pins.items()}

    @property
    def last_bound(self) -> int:
        """First place after those of all rules."""
        places = [place + 1 for place in self._pins]
        places += [max(group.within, group.first) for group in self._groups]
        return max(places, default=0)

    def usable(self, place: int) -> NDArray[np.bool_]:
        """Return the items that rules allow at a place; pinned items only at their own."""
        usable = self._open.copy()
        for later, item in self._pins.items():
            if later > place:
                usable[item] = False
        for group in self._groups:
            if place < group.first or (
                group.most is not None
                and place < group.within
                and self._members(group, after=place) >= group.most
            ):
                usable &= ~group.members
        return usable

    def pinned(self, place: int, usable: NDArray[np.bool_]) -> int | None:
        """Return the item that is pinned to a place, if it may stand there."""
        item = self._pins.pop(place, None)
        if item is None or usable[item]:
            return item
        self._missing.append(self._pin_names[place])
        return None

    def demanded(self, place: int, usable: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the usable items that have to come now, so that all demands fit in."""
        needs = [
            (group, need)
            for group in self._groups
            if place < group.within and (need := self._need(group, place)) > 0
        ]
        for within in sorted({group.within for group, _ in needs}):
            urgent = [(group, need) for group, need in needs if group.within <= within]
            end = min(within, self.count)
            free = end - place - sum(place <= pinned < end for pinned in self._pins)
            if sum(need for _, need in urgent) >= free:
                # An item may belong to several groups: items that fulfil most demands come first.
                demands = np.zeros(len(usable), np.int64)
                for group, _ in urgent:
                    demands += group.demanded
                most = demands[usable].max(initial=0)
                if most:
                    usable = usable & (demands == most)
                    break
        return usable

    def take(self, item: int) -> None:
        """Put an item at the next place."""
        self.chosen.append(item)
        self._open[item] = False

    def rest(self, order: NDArray[np.intp]) -> None:
        """Fill up by value."""
        left = order[self._open[order]]
        self.chosen += left[: self.count - len(self.chosen)].tolist()

    def short(self) -> tuple[str, ...]:
        """Return the names of the rules whose demands are not met."""
        lacking = [
            group.name
            for group in self._groups
            if group.members[self.chosen[: group.within]].sum() < group.least
        ]
        return tuple(dict.fromkeys([*self._missing, *lacking]))

    def _members(self, group: Group, *, after: int) -> int:
        """Return how many places of a group's rule are taken by members, or pinned to them."""
        promised = sum(
            after < place < group.within and bool(group.members[item])
            for place, item in self._pins.items()
        )
        return int(group.members[self.chosen[: group.within]].sum()) + promised

    def _need(self, group: Group, place: int) -> int:
        """Return how many members are still to come, as far as there are any."""
        wanted = group.least - self._members(group, after=place - 1)
        if wanted <= 0:
            return 0
        left = self._open & group.demanded
        left[list(self._pins.values())] = False
        return min(wanted, int(left.sum()))


def _holds(groups: Sequence[Group], order: NDArray[np.intp]) -> bool:
    """Return whether an order fulfils the bounds of all groups."""
    for group in groups:
        inside = group.members[order]
        seen = int(inside[: group.within].sum())
        if seen < group.least or (group.most is not None and seen > group.most):
            return False
        if inside[: group.first].any():
            return False
    return True
