"""Details of items for operators: facets of a search, neighbours with reasons, trends."""

from __future__ import annotations

import msgspec

from tactful.schemas.statistics import StatisticCell


class FacetCount(msgspec.Struct, kw_only=True, frozen=True):
    """Number of items with one value.

    Attributes:
        value: the value; empty for items without one.
        items: number of items.
    """

    value: str
    items: int


class PriceRange(msgspec.Struct, kw_only=True, frozen=True):
    """Number of items with a price in a range.

    Attributes:
        low: lowest price of the range, which belongs to it.
        high: upper end, which belongs to the last range only.
        items: number of items.
    """

    low: float
    high: float
    items: int


class Facets(msgspec.Struct, kw_only=True, frozen=True):
    """Counts of all items that match a search, of each field without its own filter.

    Attributes:
        total: number of items that match with all filters.
        categories: by category, the most frequent first, 50 at most.
        prices: ranges of the known prices, about equally full.
        available: by availability: ``true`` and ``false``.
    """

    total: int
    categories: list[FacetCount]
    prices: list[PriceRange]
    available: list[FacetCount]


class Neighbour(msgspec.Struct, kw_only=True, frozen=True):
    """An item near another one, and the reason.

    Attributes:
        item_id: the item.
        title: its name, if it has one.
        score: of visits the learned weight, otherwise the cosine: 1 at most.
        people: people who took both in one visit, or one right after the other; None for fewer
            than `minimum_people`, and where people are not counted.
        words: words that both titles have; of neighbours by description only.
    """

    item_id: str
    title: str | None = None
    score: float
    people: int | None = None
    words: list[str] = []


class ItemNeighbours(msgspec.Struct, kw_only=True, frozen=True):
    """Neighbours of an item, of each kind the nearest first, available or not.

    Attributes:
        item_id: the item.
        people: people who took the item; None for fewer than `minimum_people`.
        minimum_people: people from whom on an item or a pair is counted.
        vectors: near in the vectors that were learned from visits and descriptions.
        together: of the same visits.
        following: came right after it.
        described: with words of the title or the category in common, where rare ones weigh more.
        meaning: whose words mean alike to the encoder of texts; None without an encoder.
        pictures: whose pictures are alike to the encoder of pictures; None without an encoder.
    """

    item_id: str
    people: int | None = None
    minimum_people: int
    vectors: list[Neighbour]
    together: list[Neighbour]
    following: list[Neighbour]
    described: list[Neighbour]
    meaning: list[Neighbour] | None = None
    pictures: list[Neighbour] | None = None


class ItemTrend(msgspec.Struct, kw_only=True, frozen=True):
    """Released numbers of one statistic about an item or its category.

    Attributes:
        statistic: name of the statistic.
        title: its description.
        by: field of the item that the statistic counts by: ``item_id`` or ``category``.
        key: value of this field.
        epsilon: privacy loss of one user per unit.
        pane_ms: length of a pane, milliseconds.
        growth: factor by which the share of the key grew, at the cautious end; None for no rise.
        cells: the numbers, oldest first, each with its interval.
    """

    statistic: str
    title: str = ""
    by: str
    key: str
    epsilon: float
    pane_ms: int
    growth: float | None = None
    cells: list[StatisticCell]


class ItemTrends(msgspec.Struct, kw_only=True, frozen=True):
    """Trends of one item.

    Attributes:
        item_id: the item.
        trends: one for each statistic that counts by item or category.
    """

    item_id: str
    trends: list[ItemTrend]
