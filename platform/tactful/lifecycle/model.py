"""Probability that a user returns: the MBG/NBD model of visits, and its calibration.

A user visits at an own rate λ, and after each visit is lost with an own probability p. The rates of
all users follow a gamma distribution (shape r, scale 1/α), the probabilities a beta distribution
(a, b). This is the model of Batislam, Denizel and Filiztekin, "Empirical validation and comparison
of models for customer base analysis" (International Journal of Research in Marketing, 2007): that
of Fader, Hardie and Lee, "Counting your customers the easy way" (Marketing Science, 2005), in which
a user may be lost after the first visit, too. A day counts as one visit.

One user is three numbers: visits after the first x, the days from the first to the last t, and the
days from the first until now T::

    x = 2, t = 30, T = 39        # three days with events, the last one nine days ago
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_LEAST = 1e-9


class Visits(NamedTuple):
    """Visits of users, as arrays of shape (users,)."""

    repeats: Floats  # days with events after the first
    recency: Floats  # days from the first to the last
    age: Floats  # days from the first until now


class ReturnModel(msgspec.Struct, frozen=True, kw_only=True):
    """Fitted parameters.

    Attributes:
        r: shape of the rates.
        alpha: inverse scale of the rates, days.
        a: first parameter of the probabilities to be lost.
        b: second parameter of them.
        intercept: added to the logit of a probability, so that it is calibrated.
        slope: factor of the logit before that.
    """

    r: float
    alpha: float
    a: float
    b: float
    intercept: float = 0.0
    slope: float = 1.0

    def returns(self, visits: Visits, days: float) -> Floats:
        """Return the calibrated probabilities of a visit within a number of days.

        A user who is not lost has a rate with the gamma distribution (r + x, α + T), so the
        uncalibrated probability is P(not lost) (1 − ((α + T) / (α + T + days)) ^ (r + x)).
        """
        shape, scale = self.r + visits.repeats, self.alpha + visits.age
        raw = self.alive(visits) * -np.expm1(shape * np.log(scale / (scale + days)))
        raw = np.clip(raw, _LEAST, 1 - _LEAST)
        logit = self.intercept + self.slope * np.log(raw / (1 - raw))
        return np.asarray(1 / (1 + np.exp(-logit)), np.float64)

    def alive(self, visits: Visits) -> Floats:
        """Return the probabilities that users are not lost.

        1 / (1 + a / (b + x) ((α + T) / (α + t)) ^ (r + x)).
        """
        shape = self.r + visits.repeats
        silence = np.log((self.alpha + visits.age) / (self.alpha + visits.recency))
        with np.errstate(over="ignore"):
            odds = self.a / (self.b + visits.repeats) * np.exp(shape * silence)
        return np.asarray(1 / (1 + odds), np.float64)
