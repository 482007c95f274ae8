"""Which of several options scores best, told once and privately."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from tactful_privacy._exact import Exact
from tactful_privacy._exact_random import bernoulli_exp, uniform_below
from tactful_privacy._table import Entropy
from tactful_privacy.errors import ParameterError
from tactful_privacy.laplace import MAX_SCALE, DiscreteLaplace, checked_scale
from tactful_privacy.wide_laplace import MAX_WIDE_SCALE, WideLaplace


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what it cost.

    Attributes:
        index: Position of the chosen option. Nothing else about the scores is told.
        epsilon: Privacy loss of this one choice.
        delta: Computed; 0 where the probabilities are exact.
    """

    index: int
    epsilon: Fraction
    delta: Fraction


def report_noisy_max(
    scores: Sequence[int],
    sensitivity: int,
    epsilon: Exact,
    *,
    monotone: bool = False,
    entropy: Entropy = os.urandom,
) -> Choice:
    """Add discrete Laplace noise to every score and tell which is largest, the first among equals.

    Guarantee: (epsilon, delta) for data sets between which no score moves by more than
    `sensitivity` (Dwork and Roth 2014, claim 3.9), delta from the noise's table. Why it holds for
    integers and ties: let everybody's noise but that of option i be fixed. Then i wins from some
    smallest noise on, and on a neighbouring data set at the latest from 2 sensitivity further on.
    Hence noise of scale 2 sensitivity / epsilon.

    Args:
        scores: One integer for each option; the options themselves are public.
        sensitivity: Most that one score moves between neighbouring data sets.
        epsilon: Exact; floats are refused.
        monotone: One person's data move all scores in the same direction, as with counts. Half the
            noise is then enough.
        entropy: See `DiscreteLaplace`.

    Raises:
        ParameterError: There is no option, a score is no integer, or a parameter is out of range.
    """
    _check(scores)
    moved = sensitivity if monotone else 2 * sensitivity
    scale = checked_scale(moved, epsilon, largest=MAX_WIDE_SCALE)
    noise = (DiscreteLaplace if scale <= MAX_SCALE else WideLaplace)(
        moved, epsilon, entropy=entropy
    )
    noisy = [score + z for score, z in zip(scores, noise.sample(len(scores)).tolist(), strict=True)]
    return Choice(noisy.index(max(noisy)), noise.epsilon, noise.delta(noise.epsilon))


def permute_and_flip(
    scores: Sequence[int],
    sensitivity: int,
    epsilon: Exact,
    *,
    monotone: bool = False,
    entropy: Entropy = os.urandom,
) -> Choice:
    """Go through the options in random order and take each with e^(-epsilon gap / 2 sensitivity).

    Guarantee: pure epsilon; the gap is to the best score, which is therefore taken when it is met.
    Never worse in expectation than the exponential mechanism, and up to twice as good (McKenna and
    Sheldon, NeurIPS 2020). Every probability is exact, so delta is 0. How long it takes depends on
    the scores: let nobody outside measure it.

    Args:
        scores: As of `report_noisy_max`.
        sensitivity: As of `report_noisy_max`.
        epsilon: Exact; floats are refused.
        monotone: As of `report_noisy_max`: the factor 2 goes.
        entropy: See `DiscreteLaplace`.

    Raises:
        ParameterError: As `report_noisy_max`.
    """
    gaps, loss = _gaps(scores, sensitivity, epsilon, monotone)
    left = list(range(len(gaps)))
    while True:
        index = left.pop(uniform_below(len(left), entropy))
        if bernoulli_exp(gaps[index], entropy):
            return Choice(index, loss, Fraction(0))


def exponential_mechanism(
    scores: Sequence[int],
    sensitivity: int,
    epsilon: Exact,
    *,
    monotone: bool = False,
    entropy: Entropy = os.urandom,
) -> Choice:
    """Choose with probabilities proportional to e^(epsilon score / 2 sensitivity).

    Guarantee: pure epsilon (McSherry and Talwar, FOCS 2007). Options are proposed uniformly and
    taken with e^(-epsilon gap / 2 sensitivity), until one is: exact, so delta is 0. Prefer
    `permute_and_flip`, unless the very distribution is wanted. How long it takes depends on the
    scores: let nobody outside measure it.

    Args:
        scores: As of `report_noisy_max`.
        sensitivity: As of `report_noisy_max`.
        epsilon: Exact; floats are refused.
        monotone: As of `report_noisy_max`: the factor 2 goes.
        entropy: See `DiscreteLaplace`.

    Raises:
        ParameterError: As `report_noisy_max`.
    """
    gaps, loss = _gaps(scores, sensitivity, epsilon, monotone)
    while True:
        index = uniform_below(len(gaps), entropy)
        if bernoulli_exp(gaps[index], entropy):
            return Choice(index, loss, Fraction(0))


def _check(scores: Sequence[int]) -> None:
    if not len(scores):
        raise ParameterError("there is nothing to choose from: give one score or more")
    for index, score in enumerate(scores):
        if isinstance(score, bool) or not isinstance(score, int | np.integer):
            raise ParameterError(f"score {index} is {score!r}: give integers")


def _gaps(
    scores: Sequence[int], sensitivity: int, epsilon: Exact, monotone: bool
) -> tuple[list[Fraction], Fraction]:
    """Return how far each score lies below the best, in units of loss, and the loss."""
    _check(scores)
    moved = sensitivity if monotone else 2 * sensitivity
    scale = checked_scale(moved, epsilon, largest=MAX_WIDE_SCALE)
    best = max(scores)
    return [int(best - score) / scale for score in scores], moved / scale
