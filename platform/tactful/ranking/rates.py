"""Smoothed rates of items and categories: clicks for impressions, takes for views.

A rate of few impressions is mostly chance, so it is drawn to a prior rate *p*::

    rate = (clicks + a) / (impressions + a / p)

This is the mean of a rate after the observations, with the prior distribution Beta(a, a / p − a):
Gelman et al., "Bayesian Data Analysis", 3rd edition, section 2.4. The prior rate of an item is that
of its category, and of a category a constant.

Items that were never shown have no rate of clicks: the impressions of a shop that has just begun to
serve would else lower the rates that its model knows from the time before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RATES: tuple[str, ...] = ("click_rate", "take_rate", "category_click_rate", "category_take_rate")
"""Columns of rates: of the item, and of its category."""

CLICKS: tuple[str, ...] = ("clicked_28d", "shown_28d")
"""Features of an item that its rate of clicks is computed from."""

OF_CATEGORIES: tuple[str, ...] = ("category_clicked_28d", "category_shown_28d")
"""The same of a category."""

_PRIOR = 0.05
_OF_CATEGORY = 5.0  # `a`: as much as a hundred impressions of the prior rate
_OF_ITEM = 1.0


def rates_of(
    # clicked, shown, taken and seen in 28 days, each of shape (n,)
    item: Sequence[NDArray[np.float32]],
    # taken, seen, clicked and shown of the category, NaN without one, shape (4, n)
    category: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return the columns `RATES`, shape (4, n).

    NaN for the category without one, and for clicks without an impression.
    """
    clicked, shown, taken, seen = item
    category_taken, category_seen, category_clicked, category_shown = category
    clicks = smoothed(category_clicked, category_shown, _OF_CATEGORY, _PRIOR)
    clicks[category_shown == 0] = np.nan
    takes = smoothed(category_taken, category_seen, _OF_CATEGORY, _PRIOR)
    of_item = smoothed(clicked, shown, _OF_ITEM, np.where(np.isnan(clicks), _PRIOR, clicks))
    return np.array(
        [
            np.where(shown > 0, of_item, np.nan),
            smoothed(taken, seen, _OF_ITEM, np.where(np.isnan(takes), _PRIOR, takes)),
            clicks,
            takes,
        ],
        np.float32,
    )


def smoothed(
    successes: NDArray[np.float32],
    trials: NDArray[np.float32],
    strength: float,  # `a`
    prior: NDArray[np.float32] | float,  # `p`, above 0
) -> NDArray[np.float32]:
    """Return smoothed rates; a success counts as a trial where fewer trials are known."""
    rate: NDArray[np.float32] = (successes + strength) / (
        np.maximum(trials, successes) + strength / prior
    )
    return rate.astype(np.float32)
