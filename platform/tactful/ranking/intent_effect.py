"""Effect of a request's intent on scores: a mixture of the ranking and of the intended categories.

The user wants category c with probability ``trust * w_c``, and then takes one of its items with the
chances that the ranking gives them among each other; else the chances of the ranking hold:

    factor_c = 1 - trust * sum(w) + trust * w_c / share_c

``share_c`` is the share of the category in the scores of the candidates that do not depend on the
intent. So a larger weight never lowers an item of its category, and never raises another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from tactful.catalogue.catalogue import Catalogue
from tactful.recall.candidates import Candidates
from tactful.recall.index import CHANNELS
from tactful_privacy.decoding import DECODE_ERRORS

LEAST_TRUST = 0.03
"""Least trust in intents, however seldom they came true: an intent always counts."""

MOST_TRUST = 0.95
"""Most trust in intents: items of other categories keep their order and a chance."""

_LEAST_SHARE = 2e-3  # of a category with hardly any score: a factor of at most 500
_INTENT = CHANNELS.index("intent")

_Trust = Annotated[float, Meta(ge=LEAST_TRUST, le=MOST_TRUST)]


class Trust(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Probability that an intent comes true where the ranking alone would be wrong.

    The defaults serve until a training has measured both.
    """

    known: _Trust = 0.3  # of users with a history: the ranking follows from it, too
    unknown: _Trust = 0.5  # of users without one, whose ranking is the popularity


_Number = Annotated[float, Meta(ge=0.0)]


class LoggedIntent(msgspec.Struct, frozen=True):
    """Effect of an intent on the items of an impression, in their order; logged as JSON."""

    known: bool  # whether the user had a history
    trust: _Trust
    total: Annotated[float, Meta(ge=0.0, le=1.0)]
    ratios: list[_Number]
    chances: list[_Number]  # by the ranking alone; of the candidates they add up to 1

    @classmethod
    def read(cls, text: object) -> LoggedIntent | None:
        """Decode the property of an impression; None without one, or where it is damaged."""
        try:
            return msgspec.json.decode(text, type=cls) if isinstance(text, str) else None
        except DECODE_ERRORS:
            return None

    def write(self) -> str:
        """Encode the property of an impression."""
        return msgspec.json.encode(self).decode()

    @property
    def factors(self) -> list[float]:
        """Factors of the scores."""
        return [*map(float, factors_of(np.array(self.ratios), self.total, self.trust))]


@dataclass(frozen=True)
class IntentEffect:
    """Effect of an intent on each candidate.

    weights {3: .6, 7: .4}   shares {3: .2, 7: .1}   ratios [0, 3, 0, 4, ...]
    """

    total: float  # sum of the weights, at most 1
    ratios: NDArray[np.float32]  # weight by share of the candidate's category, else 0, shape (n,)
    chances: NDArray[np.float32]  # by the ranking alone, adding up to 1, shape (n,)
    trust: float
    known: bool

    @property
    def factors(self) -> NDArray[np.float32]:
        """Factor of the score of each candidate, above 0, shape (n,)."""
        return factors_of(self.ratios, self.total, self.trust).astype(np.float32)

    def logged(self, order: NDArray[np.int64]) -> LoggedIntent:
        """Return the effect on the candidates that are shown."""
        return LoggedIntent(
            known=self.known,
            trust=self.trust,
            total=min(self.total, 1.0),
            ratios=self.ratios[order].tolist(),
            chances=self.chances[order].tolist(),
        )


def factors_of(
    ratios: NDArray[np.floating], total: NDArray[np.floating] | float, trust: float
) -> NDArray[np.float64]:
    """Return the factors of scores, see the head of the module."""
    factors: NDArray[np.float64] = 1.0 - trust * total + trust * ratios.astype(np.float64)
    return factors


def intent_effect(
    candidates: Candidates,
    catalogue: Catalogue,
    chances: NDArray[np.float32],  # of the candidates by the ranking alone, any scale, shape (n,)
    trust: Trust,
    *,
    known: bool,  # whether the user has a history
) -> IntentEffect | None:
    """Compute the effect of an intent; None without one that names a category of a candidate."""
    if not candidates.intent or not len(candidates.rows):
        return None
    category = catalogue.category.take(candidates.rows)
    weights = _weights(candidates.intent, catalogue, category)
    if not weights:
        return None
    independent = np.where(candidates.channel != _INTENT, chances, np.float32(0.0))
    whole = float(independent.sum(dtype=np.float64))
    ratios = np.zeros(len(category), np.float32)
    for number, weight in weights.items():
        members = category == number
        share = float(independent[members].sum(dtype=np.float64)) / whole if whole > 0.0 else 0.0
        ratios[members] = weight / min(max(share, _LEAST_SHARE), 1.0)
    every = max(float(chances.sum(dtype=np.float64)), 1e-30)
    return IntentEffect(
        sum(weights.values()),
        ratios,
        (chances / every).astype(np.float32),
        trust.known if known else trust.unknown,
        known,
    )


def chances_of(margins: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the chances of candidates by their margins (softmax), shape (n,)."""
    chances: NDArray[np.float32] = np.exp(margins - margins.max(initial=-np.inf))
    return chances


def _weights(
    intent: Mapping[str, float], catalogue: Catalogue, category: NDArray[np.int32]
) -> dict[int, float]:
    """Return the weights by number of category; more than 1 in all is scaled to 1.

    Categories without a candidate are left out, and so is a weight that is no positive number.
    """
    present = set(category.tolist())
    numbers = catalogue.category_numbers
    weights = {
        numbers[name]: min(weight, 1.0)
        for name, weight in intent.items()
        if numbers.get(name) in present and 0.0 < weight < math.inf
    }
    whole = max(math.fsum(weights.values()), 1.0)
    return {number: weight / whole for number, weight in weights.items()}
