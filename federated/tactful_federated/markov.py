"""The baselines: a first-order Markov chain and plain popularity.

Both are fitted on the pooled training sequences of all households, which is more than a
federated server ever sees: they are yardsticks for the model, not something to deploy.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tactful_federated.scores import Score
from tactful_federated.tokens import FIRST_CATEGORY, PAD, Windows

_LONGEST = 5


@dataclass(frozen=True)
class Markov:
    """Ranks the next category by how often it followed the current token.

    Places the chain cannot fill, because the token was rare or never seen, go to the most
    popular categories. A chain without `followers` is the popularity baseline.
    """

    followers: Mapping[int, tuple[int, ...]]
    popular: tuple[int, ...]

    def rank(self, token: int) -> tuple[int, ...]:
        """The (up to) five likeliest categories after `token`, best first."""
        first = self.followers.get(token, ())
        return (first + tuple(t for t in self.popular if t not in first))[:_LONGEST]

    def evaluate(self, questions: Windows) -> Score:
        """Score the chain on the very steps a model is asked; it reads one token of each."""
        asked = questions.answers != PAD
        steps = top1 = top5 = 0
        for token, answer in zip(
            questions.inputs[asked].tolist(), questions.answers[asked].tolist(), strict=True
        ):
            ranked = self.rank(token)
            steps += 1
            top1 += ranked[:1] == (answer,)
            top5 += answer in ranked
        return Score(steps, top1, top5)


def fit_markov(sequences: Iterable[NDArray[np.int64]]) -> Markov:
    """Count which category follows which token; equal counts rank in catalogue order."""
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
    """The same five categories whatever came before."""
    return Markov({}, fit_markov(sequences).popular)


def _best(counts: Counter[int]) -> tuple[int, ...]:
    return tuple(sorted(counts, key=lambda token: (-counts[token], token))[:_LONGEST])
