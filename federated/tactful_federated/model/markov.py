"""The baselines: a first-order Markov chain and plain popularity.

Both are fitted on the pooled training sequences of all households, which a federated server does
not have: they serve for comparison, not for deployment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tactful_federated.model.scores import Score
from tactful_federated.model.tokens import FIRST_CATEGORY, PAD, Windows

_LONGEST = 5


@dataclass(frozen=True)
class Markov:
    """Ranking of the next category by how often it followed the current token.

    After a rare or unknown token the most popular categories fill the remaining places. A chain
    without `followers` is the popularity baseline.
    """

    followers: Mapping[int, tuple[int, ...]]
    popular: tuple[int, ...]

    def rank(self, token: int) -> tuple[int, ...]:
        """Return up to five categories that are likeliest after `token`, best first."""
        first = self.followers.get(token, ())
        return (first + tuple(t for t in self.popular if t not in first))[:_LONGEST]

    def evaluate(self, questions: Windows) -> Score:
        """Score the chain on the same questions as a model; it reads only the last token."""
        scored = questions.answers != PAD
        steps = top1 = top5 = 0
        for token, answer in zip(
            questions.inputs[scored].tolist(), questions.answers[scored].tolist(), strict=True
        ):
            ranked = self.rank(token)
            steps += 1
            top1 += ranked[:1] == (answer,)
            top5 += answer in ranked
        return Score(steps, top1, top5)


def fit_markov(sequences: Iterable[NDArray[np.int64]]) -> Markov:
    """Fit a first-order chain; ties are ranked in catalogue order."""
    follows: defaultdict[int, Counter[int]] = defaultdict(Counter)
    popularity: Counter[int] = Counter()
    for sequence in sequences:
        tokens = sequence.tolist()
        for before, after in pairwise(tokens):
            if after >= FIRST_CATEGORY:
                follows[before][after] += 1
                popularity[after] += 1
    return Markov({token: _best(counts) for token, counts in follows.items()}, _best(popularity))


def fit_popularity(sequences: Iterable[NDArray[np.int64]]) -> Markov:
    """Fit the popularity baseline: the same five categories after every token."""
    return Markov({}, fit_markov(sequences).popular)


def _best(counts: Counter[int]) -> tuple[int, ...]:
    return tuple(sorted(counts, key=lambda token: (-counts[token], token))[:_LONGEST])
