"""What a list is ordered by: the ranking model's score and what else an arm wants it to weigh.

Every wish is a signal between -1 and 1 that is added to the model's score with its weight. The
score of a ranking forest is on the scale of log-odds, and so is the sum: with weight ``w`` an item
with the full signal counts as if its odds were e^w times what the model says. Adding, and never
multiplying or dividing, keeps the order right whatever the sign of the scores: a larger weight can
only move items with a larger signal up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.errors import ConfigError
from tactful.recall.candidates import Popularity
from tactful.util.scalars import is_number

MOST_WEIGHT = 10.0
"""The largest weight. With it the full signal counts e^10, some 22,000, times the odds."""

_DAY_MS = 86_400_000.0
_FRESH_DAYS = 30.0
_FULL_PRICE = 4.0


@dataclass(frozen=True)
class Objective:
    """Weights of what a list is ordered by, each from 0 to `MOST_WEIGHT`; one of 0 costs nothing.

    Attributes:
        relevance: of the score of the model, or of the heuristic.
        price: of being cheaper than what the person looks at: 1 for a quarter of their usual price
            or less, 0 for the same or an unknown price, -1 for four times as much or more,
            logarithmic between them.
        margin: of what the shop earns: the item's property ``margin``, a share of its price.
        novelty: of being little known: 0 for the most popular item, 1 for one nobody takes,
            logarithmic in the place between them.
        freshness: of being new: 1 at the moment of the item's property ``released`` (epoch
            milliseconds or ISO 8601) or before it, half as much every 30 days; 0 where unknown.
        campaign: of being in a campaign: 1 for items with the property ``campaign``.
    """

    relevance: float = 1.0
    price: float = 0.0
    margin: float = 0.0
    novelty: float = 0.0
    freshness: float = 0.0
    campaign: float = 0.0

    @classmethod
    def of(cls, weights: object, *, where: str) -> Objective:
        """The defaults with some changes.

        Args:
            weights: weight by name, as read from a file.
            where: what to call their place in a message.

        Raises:
            ConfigError: if it is no mapping, a name is unknown, a value is not from 0 to
                `MOST_WEIGHT`, or all are 0.
        """
        if not isinstance(weights, Mapping):
            raise ConfigError(f"{where}: must be weights by name")
        known = [each.name for each in fields(cls)]
        for name, value in weights.items():
            if name not in known:
                raise ConfigError(
                    f"{where}: there is no weight {name!r}; there are {', '.join(known)}"
                )
            if not is_number(value) or not 0.0 <= value <= MOST_WEIGHT:
                raise ConfigError(f"{where}.{name}: must be a number from 0 to {MOST_WEIGHT:g}")
        made = cls(**{name: float(value) for name, value in weights.items()})
        if not made.nonzero_weights():
            raise ConfigError(f"{where}: all weights are 0: lists would have no order")
        return made

    @cached_property
    def plain(self) -> bool:
        """Whether a list is ordered by the score alone."""
        return self == _PLAIN

    def nonzero_weights(self) -> dict[str, float]:
        """The weights that are not 0, by name."""
        weights = {each.name: float(getattr(self, each.name)) for each in fields(self)}
        return {name: weight for name, weight in weights.items() if weight}

    def value(
        self,
        scores: NDArray[np.float32],
        rows: NDArray[np.int64],
        *,
        catalogue: Catalogue,
        context: RequestContext,
        popular: Popularity,
    ) -> NDArray[np.float32]:
        """What items are worth in all.

        Args:
            scores: of the model or the heuristic, finite, shape (n,).
            rows: of the items in the catalogue, shape (n,).
            catalogue: the items.
            context: who asks, and when.
            popular: what everybody takes.

        Returns:
            Shape (n,); `scores` itself when it alone counts.
        """
        if self.plain:
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


_PLAIN = Objective()


def cheapness(
    catalogue: Catalogue, context: RequestContext, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """How much cheaper items are than what the person looks at, from -1 to 1; 0 where unknown.

    The usual price is the median of the visit, else of the history, else of the items themselves.

    Args:
        catalogue: the items.
        context: who asks.
        rows: of the items, shape (n,).
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
    found: NDArray[np.float32] = np.clip(signal, -1.0, 1.0).astype(np.float32, copy=False)
    return found


def novelty(popular: Popularity, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """How little known items are, from 0 to 1, by their place among the popular ones.

    The logarithm of the place stands for the self-information of an item (Vargas and Castells,
    "Rank and relevance in novelty and diversity metrics for recommender systems", RecSys 2011),
    since popularity falls about like a power of the place.

    Args:
        popular: what everybody takes.
        rows: of the items, shape (n,).
    """
    places = popular.places_of(rows).astype(np.float32)
    last = np.float32(np.log1p(max(len(popular.rows), 1)))
    found: NDArray[np.float32] = (np.log1p(places) / last).astype(np.float32, copy=False)
    return found


def freshness(catalogue: Catalogue, at: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """How new items are, from 0 to 1: half as much every 30 days since their release.

    Args:
        catalogue: the items.
        at: the moment, epoch milliseconds.
        rows: of the items, shape (n,).
    """
    days = np.maximum(np.float32(at / _DAY_MS) - catalogue.released[rows], np.float32(0.0))
    found: NDArray[np.float32] = np.nan_to_num(np.exp2(-days / np.float32(_FRESH_DAYS)), nan=0.0)
    return found
