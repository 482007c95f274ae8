"""Composition of privacy losses over mechanisms and over the days of one person."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.budget import Loss, epsilon_of_zcdp
from tactful_privacy.mechanisms._exact import Exact, fraction

Method = Literal["pure", "approximate", "zcdp", "pld"]

DELTA = Fraction(1, 10**6)

_GRID = 1e-4
_FINEST = 200_000  # steps of the grid that a year's loss may take


@dataclass(frozen=True)
class Composed:
    """Composed loss of several mechanisms: together they are (epsilon, delta)-private."""

    epsilon: float  # composed epsilon, rounded up
    delta: float  # delta at which epsilon holds
    method: Method  # method of composition, see `compose`


def compose(
    losses: Iterable[tuple[Loss, int]], *, method: Method, delta: Exact = DELTA
) -> Composed:
    """Compose losses, each repeated a number of times, at a delta (which ``pure`` ignores).

    ``pure``: epsilons are added; every delta must be 0 (Dwork and Roth 2014, th. 3.16).
    ``approximate``: deltas are added as well. ``zcdp``: rhos are added (Bun and Steinke, TCC 2016).
    ``pld``: the distributions of the privacy loss are convolved numerically, rounded up (Koskela,
    Jälkö, Honkela, AISTATS 2020; by the library dp-accounting). Discrete Laplace noise is taken
    with the whole sensitivity in one cell, Gaussian noise at the sensitivity of its rho, any other
    mechanism as the worst mechanism of its (epsilon, delta) (Kairouz, Oh, Viswanath, ICML 2015).

    Raises:
        ParameterError: The method does not apply to one of the losses, delta is out of range, or
            the library is missing.
    """
    wanted = [(loss, times) for loss, times in losses if times]
    target = fraction(delta, "delta")
    if not 0 < target < 1:
        raise ParameterError(f"delta is {target}: it must lie between 0 and 1")
    added = sum((loss.delta * times for loss, times in wanted), Fraction(0))
    total = _rounded_up(sum((loss.epsilon * times for loss, times in wanted), Fraction(0)))
    if method == "pure":
        if added:
            raise ParameterError("a loss with a delta is not pure: compose by another method")
        return Composed(total, 0.0, method)
    if method == "approximate":
        return Composed(total, float(added), method)
    if method == "zcdp":
        rho = Fraction(0)
        for loss, times in wanted:
            if loss.zcdp is None:
                raise ParameterError(f"{loss} is not known to be zCDP: state its rho")
            rho += loss.zcdp * times
        return Composed(epsilon_of_zcdp(rho, target) if rho else 0.0, float(target), method)
    if method != "pld":
        raise ParameterError(f"method is {method!r}: give pure, approximate, zcdp or pld")
    return Composed(_by_distribution(tuple(wanted), float(target)), float(target), method)


def tightest(losses: Sequence[tuple[Loss, int]], *, delta: Exact = DELTA) -> Composed:
    """Return the smallest epsilon of all methods at this delta."""
    target = fraction(delta, "delta")
    candidates = []
    for method in ("approximate", "zcdp", "pld"):
        try:
            composed = compose(losses, method=method, delta=target)
        except ParameterError:
            continue
        if composed.delta <= float(target):
            candidates.append(composed)
    if not candidates:
        raise ParameterError(f"no epsilon holds at delta {float(target):g}: give a larger delta")
    return min(candidates, key=lambda composed: composed.epsilon)


def largest_belief(epsilon: float, prior: float = 0.5) -> float:
    """Return the largest posterior belief of an attacker about an action of a person.

    An attacker with the belief `prior`, between 0 and 1, who reads all releases reaches at most
    this belief: the odds grow by a factor of at most e^epsilon (Kasiviswanathan and Smith, JPC
    2014), up to delta.
    """
    if not 0 < prior < 1:
        raise ParameterError(f"prior is {prior}: it must lie between 0 and 1")
    return 1 / (1 + (1 - prior) / prior * math.exp(-epsilon))


def has_pld() -> bool:
    """Whether the library for ``pld`` is installed."""
    from importlib.util import find_spec

    return find_spec("dp_accounting") is not None


def _rounded_up(value: Fraction) -> float:
    nearest = float(value)
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


@lru_cache(maxsize=256)  # one convolution takes a tenth of a second or more
def _by_distribution(losses: tuple[tuple[Loss, int], ...], delta: float) -> float:
    try:
        from dp_accounting.pld import common, privacy_loss_distribution
    except ImportError as error:
        raise ParameterError(
            "composition by pld needs dp-accounting: pip install 'tactful[accounting]'"
        ) from error
    if not losses:
        return 0.0
    # The grid of losses is coarser for large totals, so that its length stays bounded.
    total = float(sum(loss.epsilon * times for loss, times in losses))
    grid = max(_GRID, total / _FINEST)
    composed: Any = None
    for loss, times in losses:
        if loss.sensitivity is not None:
            single = privacy_loss_distribution.from_discrete_laplace_mechanism(
                float(loss.epsilon / loss.sensitivity),
                sensitivity=loss.sensitivity,
                value_discretization_interval=grid,
            )
        elif loss.rho is not None:
            single = privacy_loss_distribution.from_gaussian_mechanism(
                1 / math.sqrt(2 * float(loss.rho)), value_discretization_interval=grid
            )
        else:
            single = privacy_loss_distribution.from_privacy_parameters(
                common.DifferentialPrivacyParameters(float(loss.epsilon), float(loss.delta)),
                value_discretization_interval=grid,
            )
        repeated = single.self_compose(times) if times > 1 else single
        composed = repeated if composed is None else composed.compose(repeated)
    return float(composed.get_epsilon_for_delta(delta))
