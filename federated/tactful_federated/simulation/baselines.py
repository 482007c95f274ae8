"""Baselines of the intent model: a Markov chain over pooled histories, and popularity."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tactful_federated.model.scores import Score
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, PAD, Windows

_LONGEST = 5

PSEUDO_COUNT: Final = 30
"""Weight of the chain of last tokens in that of last categories, as a number of observations.
Chosen by the questions of `completejourney` and `online_retail`, so in favour of the chain."""

State = tuple[int, int]
"""Last category (`BOUNDARY` before the first) and last token, which is it or a reserved one."""


@dataclass(frozen=True)
class Markov:
    """Ranking of the next category by how often it followed the last category.

    A state that was not observed has the ranking of its last token, an unknown token that of
    popularity. A chain without `followers` and `tokens` is the popularity baseline.
    """

    followers: Mapping[State, tuple[int, ...]]
    tokens: Mapping[int, tuple[int, ...]]
    popular: tuple[int, ...]

    def rank(self, state: State) -> tuple[int, ...]:
        """Return up to five categories that are likeliest after `state`, best first."""
        first = self.followers.get(state) or self.tokens.get(state[1], ())
        return (first + tuple(t for t in self.popular if t not in first))[:_LONGEST]

    def evaluate(self, questions: Windows) -> Score:
        """Score the chain on the same questions as a model, with the same tokens before them."""
        scored = questions.answers != PAD
        tokens, categories = questions.inputs[scored], _last_categories(questions.inputs)[scored]
        steps = top1 = top5 = 0
        for category, token, answer in zip(
            categories.tolist(), tokens.tolist(), questions.answers[scored].tolist(), strict=True
        ):
            ranked = self.rank((category, token))
            steps += 1
            top1 += ranked[:1] == (answer,)
            top5 += answer in ranked
        return Score(steps, top1, top5)


def fit_markov(sequences: Iterable[NDArray[np.int64]]) -> Markov:
    """Fit a first-order chain of categories; ties are ranked in catalogue order.

    The next category depends on the last one, also across the boundary of a visit, and on whether a
    token without a category stands between. Counts of such a state are few, so `PSEUDO_COUNT`
    observations of the chain of last tokens are added to them (Dirichlet prior; MacKay & Peto,
    "A hierarchical Dirichlet language model", Natural Language Engineering 1, 1995).
    """
    states: defaultdict[State, Counter[int]] = defaultdict(Counter)
    tokens: defaultdict[int, Counter[int]] = defaultdict(Counter)
    popularity: Counter[int] = Counter()
    for sequence in sequences:
        categories = _last_categories(sequence).tolist()
        for category, (before, after) in zip(categories, pairwise(sequence.tolist()), strict=False):
            if after >= FIRST_CATEGORY:
                states[category, before][after] += 1
                tokens[before][after] += 1
                popularity[after] += 1
    return Markov(
        {state: _best(_smoothed(counts, tokens[state[1]])) for state, counts in states.items()},
        {token: _best(counts) for token, counts in tokens.items()},
        _best(popularity),
    )


def fit_popularity(sequences: Iterable[NDArray[np.int64]]) -> Markov:
    """Fit the popularity baseline: the same five categories after every token."""
    return Markov({}, {}, fit_markov(sequences).popular)


def _last_categories(tokens: NDArray[np.signedinteger]) -> NDArray[np.signedinteger]:
    """Return the latest category up to each position of the last axis, `BOUNDARY` before any."""
    positions = np.where(tokens >= FIRST_CATEGORY, np.arange(tokens.shape[-1]), -1)
    latest = np.maximum.accumulate(positions, axis=-1)
    categories = np.take_along_axis(tokens, latest.clip(0), axis=-1)
    return np.where(latest >= 0, categories, BOUNDARY)


def _smoothed(counts: Counter[int], prior: Counter[int]) -> dict[int, int]:
    # Counts plus PSEUDO_COUNT times the shares of the prior, times its total: exact integers.
    total = prior.total()
    return {token: counts[token] * total + PSEUDO_COUNT * prior[token] for token in prior}


def _best(counts: Mapping[int, int]) -> tuple[int, ...]:
    return tuple(sorted(counts, key=lambda token: (-counts[token], token))[:_LONGEST])
