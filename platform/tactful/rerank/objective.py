"""Objective of the order: the ranking model's score plus weighted signals of an arm.

Every signal lies between -1 and 1 and is added to the model's score with its weight. The score of a
ranking forest is on the scale of log-odds, and so is the sum: with weight `w` an item with the full
signal counts as if its odds were e^w times those of the model. Adding, and never multiplying or
dividing, keeps the order right whatever the sign of the scores: a larger weight can only move items
with a larger signal up.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.recall.popularity import Popularity

MOST_WEIGHT = 10.0
"""The largest weight. With it the full signal counts e^10, some 22,000, times the odds."""

_DAY_MS = 86_400_000.0
_FRESH_DAYS = 30.0
_FULL_PRICE = 4.0


Weight = Annotated[float, Meta(ge=0, le=MOST_WEIGHT)]


class Objective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights of the signals, each from 0 to `MOST_WEIGHT`; a weight of 0 costs nothing."""

    relevance: Weight = 1.0  # the score of the model, or of the heuristic
    # cheapness beside the items the user looks at: 1 for a quarter of their usual price or less, 0
    # for the same or an unknown price, -1 for four times as much or more, logarithmic between them
    price: Weight = 0.0
    margin: Weight = 0.0  # the item's property `margin`, a share of its price
    # 0 for the most popular item, 1 for an item that no user takes, logarithmic in the place
    # between them
    novelty: Weight = 0.0
    # 1 at the moment of the item's property `released` (epoch milliseconds or ISO 8601) or before
    # it, half as much every 30 days; 0 where unknown
    freshness: Weight = 0.0
    campaign: Weight = 0.0  # 1 for items with the property `campaign`

    def nonzero_weights(self) -> dict[str, float]:
        """Return the weights that are not 0, by name."""
        weights = msgspec.structs.asdict(self)
        return {name: weight for name, weight in weights.items() if weight}

    def value(
        self,
        scores: NDArray[np.float32],  # of the model or the heuristic, finite, shape (n,)
        rows: NDArray[np.int64],  # of the items in the catalogue, shape (n,)
        catalogue: Catalogue,
        context: RequestContext,
        popular: Popularity,
    ) -> NDArray[np.float32]:
        """Add the weighted signals to the scores, shape (n,)."""
        if self == PLAIN:
            return scores
        total = np.float32(self.relevance) * scores
        if self.price:
            total += np.float32(self.price) * cheapness(catalogue, context, rows)
        if self.margin:
            total += np.float32(self.margin) * catalogue.margin[rows]
        if self.novelty:
            total += np.float32(self.novelty) * novelty(popular, rows)
        if self.freshness:
            total += np.float32(self.freshness) * freshness(catalogue, context.at, rows)
        if self.campaign:
            total += np.float32(self.campaign) * (catalogue.campaign[rows] >= 0)
        return total


PLAIN = Objective()
"""The order by score alone."""


def cheapness(
    catalogue: Catalogue, context: RequestContext, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return how much cheaper items are than those the user looks at, from -1 to 1.

    The usual price is the median of the visit, else of the history, else of the items themselves.
    The signal is 0 where a price is unknown.
    """
    prices = catalogue.price[rows]
    usual = np.float32("nan")
    for seen in (catalogue.price[context.session or context.history], prices):
        known = seen[seen > 0.0]
        if len(known):
            usual = np.median(known)
            break
    with np.errstate(divide="ignore", invalid="ignore"):
        signal = np.log(usual / prices) / np.float32(np.log(_FULL_PRICE))
    signal = np.nan_to_num(signal, nan=0.0, posinf=1.0, neginf=-1.0)
    clipped: NDArray[np.float32] = np.clip(signal, -1.0, 1.0).astype(np.float32, copy=False)
    return clipped


def novelty(popular: Popularity, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the novelty of items, from 0 to 1, by their place among the popular ones.

    The logarithm of the place stands for the self-information of an item (Vargas and Castells,
    "Rank and relevance in novelty and diversity metrics for recommender systems", RecSys 2011),
    since popularity falls about like a power of the place.
    """
    places = popular.places_of(rows).astype(np.float32)
    last = np.float32(np.log1p(max(len(popular.rows), 1)))
    signal: NDArray[np.float32] = (np.log1p(places) / last).astype(np.float32, copy=False)
    return signal


def freshness(catalogue: Catalogue, at: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the freshness of items, from 0 to 1: halved every 30 days since their release."""
    days = np.maximum(np.float32(at / _DAY_MS) - catalogue.released[rows], np.float32(0.0))
    signal: NDArray[np.float32] = np.nan_to_num(np.exp2(-days / np.float32(_FRESH_DAYS)), nan=0.0)
    return signal
