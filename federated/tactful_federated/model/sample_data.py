"""Generated shoppers for tests and for `flwr run` without data.

Each visit has a lead category and a second one. With probability 0.8 the second one is determined
by the lead, and so is the lead of the next visit; otherwise each is drawn uniformly. A chain of
tokens can learn the pair inside a basket, but not the next lead, which depends on a category before
the basket boundary; a chain of categories can learn both.
"""

from __future__ import annotations

from typing import Final

import numpy as np

SAMPLE_CATALOGUE: Final = (
    *("bakery", "cheese", "coffee", "fish", "flowers", "fruit"),
    *("meat", "milk", "pasta", "soap", "soup", "vegetables"),
)
"""Categories of the generated shoppers."""

_KEEPS = 0.8


def sample_history(household: int, *, baskets: int = 40, seed: int = 0) -> list[list[str]]:
    """Generate the baskets of one household in time order, deterministically.

    The seed is that of the whole population; household and baskets are at least 0.
    """
    random = np.random.default_rng((seed, household))
    count = len(SAMPLE_CATALOGUE)
    lead = int(random.integers(count))
    out = []
    for _ in range(baskets):
        pair = (lead + 5) % count if random.random() < _KEEPS else int(random.integers(count))
        out.append([SAMPLE_CATALOGUE[i] for i in (lead, lead, pair)])
        lead = (lead + 1) % count if random.random() < _KEEPS else int(random.integers(count))
    return out
