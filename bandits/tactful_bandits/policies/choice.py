"""Choice of an arm from scores or posterior draws, with its propensity.

A decision is only worth logging with its propensity: the probability, given the policy's state,
that this arm would be chosen. An upper confidence bound is deterministic, so its propensity is 1
unless a share of decisions explores uniformly. Thompson sampling is random, but the probability
that an arm's draw is the largest has no closed form. Several joint draws are therefore made, and
the winner of the first is chosen. Unconditionally this *is* Thompson sampling; given the set of
draws without their order, each draw is equally likely to be the first, so the probability of each
arm is exactly its share of winners.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_bandits.errors import PolicyError


class Choice(NamedTuple):
    """One decision, as it should be logged."""

    arm: int  # index of the arm
    propensity: float  # probability with which it was chosen
    # ``exact``: every allowed arm had a positive probability, and this is the probability of the
    # chosen arm, so off-policy estimates are unbiased. ``estimated``: the share of winners among
    # the draws, without exploration: arms without a winner had no chance. ``deterministic``: no
    # chance was involved, and the log holds nothing about other arms.
    propensity_kind: Literal["exact", "estimated", "deterministic"]


class UpperConfidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="ucb"):
    """Rule: choose the arm with the largest upper confidence bound.

    Attributes:
        width: Standard deviations above the mean, from 0.
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        """Validate the width."""
        if not 0 <= self.width < float("inf"):
            raise PolicyError(f"width is {self.width}: it must be finite and at least 0")


class Thompson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="thompson"):
    """Rule: choose an arm with the probability that it is the best.

    Attributes:
        scale: Factor of the posterior's standard deviation, from 0: for a linear
            model, the standard deviation of the rewards around it.
        draws: Joint draws from the posterior, from 1 to 4,096. More draws make propensities
            smoother and off-policy estimates less variable; the policy stays the same.
    """

    scale: float = 1.0
    draws: int = 64

    def __post_init__(self) -> None:
        """Validate scale and draws."""
        if not 0 <= self.scale < float("inf"):
            raise PolicyError(f"scale is {self.scale}: it must be finite and at least 0")
        if not 1 <= self.draws <= 4096:
            raise PolicyError(f"draws is {self.draws}: it must lie between 1 and 4,096")


Rule = UpperConfidence | Thompson
"""Rule that maps estimates with their uncertainty to an arm."""


def require_share(explore: float) -> float:
    """Check the share of decisions that explore, and return it as a float."""
    if not 0 <= explore <= 1:
        raise PolicyError(f"explore is {explore}: it must lie between 0 and 1")
    return float(explore)


def choose_best(
    scores: NDArray[np.float64],
    explore: float,
    rng: np.random.Generator,
    allowed: NDArray[np.bool_] | None = None,
) -> Choice:
    """Choose the largest score, or with probability `explore` any allowed arm.

    Scores and the mask are ``[arms]``; the first of equal scores wins.
    """
    arms = _allowed_arms(allowed, len(scores))
    if allowed is not None:
        scores = np.where(allowed, scores, -np.inf)
    best = int(scores.argmax())
    if not explore:
        return Choice(best, 1.0, "deterministic")
    arm = _any(arms, rng) if rng.random() < explore else best
    floor = explore / len(arms)
    return Choice(arm, floor + (1 - explore if arm == best else 0.0), "exact")


def choose_winner(
    draws: NDArray[np.float64],
    explore: float,
    rng: np.random.Generator,
    allowed: NDArray[np.bool_] | None = None,
) -> Choice:
    """Choose the first draw's winner, or with probability `explore` any allowed arm.

    Draws ``[draws, arms]`` are scores from the posterior, independent and identically drawn.
    """
    arms = _allowed_arms(allowed, draws.shape[1])
    if allowed is not None:
        draws = np.where(allowed, draws, -np.inf)
    winners = draws.argmax(axis=1)
    arm = _any(arms, rng) if explore and rng.random() < explore else int(winners[0])
    share = np.count_nonzero(winners == arm) / len(winners)
    propensity = (1 - explore) * share + explore / len(arms)
    return Choice(arm, propensity, "exact" if explore else "estimated")


def winner_shares(draws: NDArray[np.float64], explore: float) -> NDArray[np.float64]:
    """Compute the probability of each arm under `choose_winner`, ``[arms]``.

    A choice by these probabilities is one of Thompson sampling, and the logged probability of every
    arm, chosen or not, is known.
    """
    arms = draws.shape[1]
    wins = np.bincount(draws.argmax(axis=1), minlength=arms)
    shares: NDArray[np.float64] = wins * ((1 - explore) / len(draws)) + explore / arms
    return shares


def best_shares(scores: NDArray[np.float64], explore: float) -> NDArray[np.float64]:
    """Compute the probability of each arm under `choose_best`, ``[arms]``.

    Arms with equal scores share it, so that a policy without data tries all of them.
    """
    best = scores == scores.max()
    shares: NDArray[np.float64] = best * ((1 - explore) / best.sum()) + explore / len(scores)
    return shares


def _allowed_arms(allowed: NDArray[np.bool_] | None, arms: int) -> NDArray[np.intp]:
    if allowed is None:
        return np.arange(arms)
    if allowed.shape != (arms,):
        raise PolicyError(f"`allowed` has shape {allowed.shape}, not [{arms}]")
    indices = np.flatnonzero(allowed)
    if not len(indices):
        raise PolicyError("no arm is allowed: keep one that always is, such as doing nothing")
    return indices


def _any(arms: NDArray[np.intp], rng: np.random.Generator) -> int:
    return int(arms[rng.integers(len(arms))])
