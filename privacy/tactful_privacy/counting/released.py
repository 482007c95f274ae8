"""Released numbers with the properties of their noise, free to show."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.counting.daily_caps import chosen_caps
from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.amounts import Amounts
from tactful_privacy.ledger.ledger import Ledger, Release
from tactful_privacy.ledger.rows import MAX_PAGE, found_values
from tactful_privacy.ledger.statistic import (
    DAY_MS,
    FOUND_KEYS,
    GAUSSIAN_PANES,
    GAUSSIAN_TOTALS,
    PANES,
    RUNNING_TOTALS,
    TOTALS,
    UNIT,
    Statistic,
)
from tactful_privacy.mechanisms._exact import Exact, fraction
from tactful_privacy.mechanisms.counting_tree import best_tree
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_privacy.mechanisms.matrix_factorisation import GaussianTotals

CONFIDENCE = Fraction(95, 100)
"""Default confidence of intervals."""

# Half width in standard deviations of weighted sums of discrete Gaussian noise at 95 %. With an
# added fiftieth of a deviation they lie within 1.96 deviations as often as normal noise, up to
# 2e-9: smoothed by normal noise of a 300th of a deviation, as in `mixtures`, their characteristic
# function is the normal one, because with sigma >= 1,000 units the next periods of each term lie
# beyond the range of the smoothing.
_WITHIN = NormalDist().inv_cdf(1 - (1 - 0.95 - 1e-8) / 2) * (1 + 1e-5) + 6 / 300

_METHODS = {
    PANES: "discrete Laplace, exact 64-bit table",
    GAUSSIAN_PANES: "discrete Gaussian, exact 64-bit table",
    RUNNING_TOTALS: "signed nodes of a tree, each with discrete Laplace, exact 64-bit table",
    GAUSSIAN_TOTALS: "square root of summing, discrete Gaussian, exact 64-bit table",
    FOUND_KEYS: "discrete Laplace, exact 64-bit table, keys shown from",
}


@dataclass(frozen=True)
class ReleasedPane:
    """Noisy counts of one pane with their uncertainty.

    Guarantee: all released panes of a UTC day together, every key, are (epsilon, delta)-private
    for one user's contributions of that day (see `Statistic`). Computing with released panes costs
    nothing more (post-processing). A user who contributes on several days loses at most epsilon on
    each.

    Attributes:
        statistic: Name of the statistic.
        start: First millisecond of the pane (epoch).
        end: First millisecond after it.
        values: Noisy count of every key of the catalogue; unbiased, so it may be negative. For
            ``found_keys`` the keys that reached the threshold, largest first: keys near the
            threshold appear only with positive noise.
        half_width: Each true bounded count lies within value ± half_width with at least
            `confidence`. It covers the noise, not the contributions cut off by the cap.
        confidence: 0.95.
        epsilon: Privacy loss of one user and one UTC day.
        delta: Computed bound, far below one in the number of people alive.
        cap: Most contributions of one user and one UTC day.
        sensitivity: L1 sensitivity of the counts before noise; with epsilon it determines the
            noise. For ``gaussian_panes`` the squared L2 sensitivity, which determines it with
            `rho`.
        unit: The unit of privacy.
        method: The mechanism.
        kind: Kind of the statistic; totals count from `counted_from` on.
        noise_terms: Number of independent draws in each value.
        rho: Privacy loss under zCDP of ``gaussian_panes``; None for other kinds.
        amounts: Range and step of summed amounts: values and half widths are in steps. None:
            contributions are counted.
    """

    statistic: str
    start: int
    end: int
    values: dict[str, int]
    half_width: int
    confidence: float
    epsilon: Fraction
    delta: float
    cap: int
    sensitivity: int
    unit: str = UNIT
    method: str = _METHODS[PANES]
    kind: str = PANES
    noise_terms: int = 1
    rho: Fraction | None = None
    amounts: Amounts | None = None

    def interval(self, key: str) -> tuple[int, int]:
        """Return the confidence interval of a key."""
        value = self.values[key]
        return value - self.half_width, value + self.half_width

    @property
    def counted_from(self) -> int:
        """First counted millisecond: start of the pane, or midnight for totals."""
        return self.start - self.start % DAY_MS if self.kind in TOTALS else self.start

    def scaled(self, number: float) -> float:
        """Return a number in steps as an amount; a count as it is."""
        if self.amounts is None:
            return number
        amount = Fraction(number) * self.amounts.step
        return amount.numerator if amount.denominator == 1 else float(amount)


@dataclass(frozen=True)
class ReleasedSum:
    """Sum of released counts."""

    value: int
    # the true bounded sum lies within value ± half_width with at least `confidence`
    half_width: int
    confidence: float
    cells: int  # number of added counts, each with its own noise


@dataclass(frozen=True)
class ReleasedPage:
    """Released panes in time order, and the cursor of the next page."""

    panes: tuple[ReleasedPane, ...]
    cursor: str | None


def read_released(
    ledger: Ledger,
    name: str,
    *,
    start: int | None = None,
    end: int | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> ReleasedPage:
    """Return published panes; see `Ledger.read` for arguments and errors."""
    page = ledger.read(name, start=start, end=end, cursor=cursor, limit=limit)
    statistic = ledger.statistic(name)
    if statistic.kind == GAUSSIAN_TOTALS:
        panes = _decode(ledger, statistic, page.releases)
    elif (statistic.cap_choice or statistic.cap_of) and page.releases:
        panes = _with_chosen_caps(ledger, statistic, page.releases)
    else:
        panes = [describe(statistic, release) for release in page.releases]
    return ReleasedPage(tuple(panes), page.cursor)


def released_panes(
    ledger: Ledger, name: str, *, start: int | None, end: int | None, limit: int = MAX_PAGE
) -> Iterator[ReleasedPane]:
    """Yield published panes in time order, which are read in pages of `limit` panes."""
    cursor: str | None = None
    while True:
        page = read_released(ledger, name, start=start, end=end, cursor=cursor, limit=limit)
        yield from page.panes
        if (cursor := page.cursor) is None:
            return


def _with_chosen_caps(
    ledger: Ledger, statistic: Statistic, releases: Sequence[Release]
) -> list[ReleasedPane]:
    first, last = releases[0].start // DAY_MS, releases[-1].start // DAY_MS
    chooses = statistic if statistic.cap_of is None else ledger.statistic(statistic.cap_of)
    caps = chosen_caps(ledger, chooses, first, last)
    on_day = {
        day: statistic.with_cap(caps.get(day, statistic.cap)) for day in range(first, last + 1)
    }
    return [describe(on_day[release.start // DAY_MS], release) for release in releases]


def sum_released(
    panes: Sequence[ReleasedPane],
    keys: str | Collection[str] | None = None,
    confidence: Exact = CONFIDENCE,
) -> ReleasedSum:
    """Add released counts over panes and keys, with the exact interval of their noise.

    Args:
        panes: Panes of one statistic, each once.
        keys: One key, several, or None for the whole catalogue.
        confidence: Confidence of the interval, exact (``"0.95"``).

    Raises:
        ParameterError: No pane, a pane twice (its noise would not be independent of itself), panes
            of different statistics, running totals (they overlap), or a key outside the catalogue.
    """
    first = check_addable(panes, of_other_caps=True)
    wanted = [keys] if isinstance(keys, str) else list(first.values if keys is None else keys)
    check_keys(first, wanted)
    cells = len(panes) * len(wanted)
    share = fraction(confidence, "confidence")
    return ReleasedSum(
        value=sum(pane.values[key] for pane in panes for key in wanted),
        half_width=_half_width_of_sum(panes, len(wanted), share),
        confidence=float(share),
        cells=cells,
    )


def _half_width_of_sum(panes: Sequence[ReleasedPane], keys: int, confidence: Fraction) -> int:
    terms: dict[int, int] = {}
    for pane in panes:
        terms[pane.sensitivity] = terms.get(pane.sensitivity, 0) + keys * pane.noise_terms
    epsilon = panes[0].epsilon
    if len(terms) == 1:
        ((sensitivity, count),) = terms.items()
        return half_width(sensitivity, epsilon, count, confidence, panes[0].rho)
    from tactful_privacy.counting.mixtures import NoiseTerms, half_width_of_mixture

    parts = [NoiseTerms(1, count, sensitivity, epsilon) for sensitivity, count in terms.items()]
    return math.ceil(half_width_of_mixture(parts, confidence))


def check_addable(panes: Sequence[ReleasedPane], *, of_other_caps: bool = False) -> ReleasedPane:
    """Check that the noise of all panes is independent; return the first pane.

    Panes of days with different chosen caps differ in noise and are refused unless `of_other_caps`.
    """
    if not panes:
        raise ParameterError("there is no pane to add")
    first = panes[0]
    if len({(pane.statistic, pane.epsilon) for pane in panes}) > 1:
        raise ParameterError("panes of different statistics cannot be added")
    if len({pane.sensitivity for pane in panes}) > 1 and not of_other_caps:
        raise ParameterError("the panes are of days with different caps: use each day alone")
    if first.kind == FOUND_KEYS:
        raise ParameterError(
            f"{first.statistic!r} shows keys from a threshold on: the counts of the other keys are"
            " not known, so its panes cannot be combined"
        )
    if first.kind == GAUSSIAN_TOTALS:
        raise ParameterError(
            f"{first.statistic!r} publishes totals with Gaussian noise: their panes cannot be"
            " combined, use each with its own interval"
        )
    if first.kind in TOTALS and len(panes) > 1:
        raise ParameterError(
            f"{first.statistic!r} publishes running totals, which overlap: read the last one"
            " instead of adding them"
        )
    if len({pane.start for pane in panes}) < len(panes):
        raise ParameterError("a pane is given twice: its noise would be counted as independent")
    return first


def check_keys(pane: ReleasedPane, keys: Sequence[str]) -> None:
    """Check that one or more keys are in the catalogue, each given once."""
    unknown = [key for key in keys if key not in pane.values]
    if unknown or not keys or len(set(keys)) < len(keys):
        raise ParameterError(
            f"keys must be of the catalogue of {pane.statistic!r}, each once;"
            f" unknown: {unknown or 'none'}"
        )


def describe(statistic: Statistic, release: Release) -> ReleasedPane:
    """Return a stored release with its uncertainty; not for ``gaussian_totals``."""
    terms = _noise_terms(statistic, release.start)
    sensitivity, rho = _noise_of(statistic)
    half = half_width(sensitivity, statistic.epsilon, terms, CONFIDENCE, rho)
    return _pane(statistic, release.start, release.noisy_counts, half, terms)


def _decode(ledger: Ledger, statistic: Statistic, wanted: Sequence[Release]) -> list[ReleasedPane]:
    """Estimate ``gaussian_totals`` from all releases since midnight."""
    if not wanted:
        return []
    first, last = wanted[0].start, wanted[-1].start
    midnight = first - first % DAY_MS
    before: list[Release] = []
    cursor: str | None = None
    while True:
        page = ledger.read(statistic.name, start=midnight, end=first, cursor=cursor, limit=MAX_PAGE)
        before += page.releases
        if (cursor := page.cursor) is None:
            break
    releases = [*before, *wanted]
    weights = statistic.gaussian.root.decoder
    sigma = float(statistic.gaussian.sigma_squared) ** 0.5
    panes = []
    for day in range(midnight, last + 1, DAY_MS):
        of_day = [release for release in releases if day <= release.start < day + DAY_MS]
        indices = np.array([(r.start - day) // statistic.pane_ms for r in of_day], dtype=np.int64)
        released = np.array([release.noisy_counts for release in of_day])
        for n, release in enumerate(of_day):
            if release.start < first:
                continue
            # The weight of a release depends on its distance in panes; missing panes count as 0.
            row = weights[indices[n] - indices[: n + 1]]
            deviation = sigma * float(np.sqrt(row @ row))
            estimate = np.rint(row @ released[: n + 1]).astype(np.int64)
            half = math.ceil(_WITHIN * deviation + 0.5)
            panes.append(_pane(statistic, release.start, estimate, half, n + 1))
    return panes


def _pane(
    statistic: Statistic, start: int, values: NDArray[np.int64], half: int, terms: int
) -> ReleasedPane:
    if statistic.kind == FOUND_KEYS:
        counts = found_values(values, f"{statistic.name!r}, pane {start}")
    else:
        counts = dict(zip(statistic.keys, values.tolist(), strict=True))
    sensitivity, rho = _noise_of(statistic)
    return ReleasedPane(
        statistic=statistic.name,
        start=start,
        end=statistic.end_of(start),
        values=counts,
        half_width=half,
        confidence=float(CONFIDENCE),
        epsilon=statistic.epsilon,
        delta=float(delta_of(statistic)),
        cap=statistic.cap,
        sensitivity=sensitivity,
        method=method_of(statistic),
        kind=statistic.kind,
        noise_terms=terms,
        rho=rho,
        amounts=statistic.amounts,
    )


def _noise_of(statistic: Statistic) -> tuple[int, Fraction | None]:
    """Return the parameters of `noise_table` beside epsilon: sensitivity and rho."""
    if statistic.kind == GAUSSIAN_PANES:
        return statistic.gaussian.sensitivity_squared, statistic.gaussian.rho
    return statistic.sensitivity, None


def method_of(statistic: Statistic) -> str:
    """Describe the mechanism of a statistic in words."""
    method = _METHODS[statistic.kind]
    return f"{method} {statistic.threshold} on" if statistic.kind == FOUND_KEYS else method


def delta_of(statistic: Statistic) -> Fraction:
    """Return the delta of a whole day of a statistic's releases.

    For panes it is the delta of the noise table. Running totals show the noise of a node before its
    panes are counted, so a user who reacts to totals could choose nodes whose noise lies at the end
    of the table: the union bound over all nodes and keys covers this.
    """
    if statistic.kind in (GAUSSIAN_PANES, GAUSSIAN_TOTALS):
        return _delta_of_gaussian(statistic.gaussian, statistic.epsilon)
    if statistic.kind == FOUND_KEYS:
        return statistic.delta or Fraction(0)
    delta = _delta(statistic.sensitivity, statistic.epsilon)
    if statistic.kind == PANES:
        return delta
    return delta * best_tree(DAY_MS // statistic.pane_ms).size * len(statistic.keys)


def _noise_terms(statistic: Statistic, start: int) -> int:
    if statistic.kind not in TOTALS:
        return 1
    tree = best_tree(DAY_MS // statistic.pane_ms)
    return len(tree.nodes(start % DAY_MS // statistic.pane_ms + 1))


@lru_cache(maxsize=64)
def _delta(sensitivity: int, epsilon: Fraction) -> Fraction:
    return noise_table(sensitivity, epsilon).delta(epsilon)


@lru_cache(maxsize=64)
def _delta_of_gaussian(totals: GaussianTotals, epsilon: Fraction) -> Fraction:
    return totals.delta(epsilon)


@lru_cache(maxsize=1024)
def half_width(
    sensitivity: int,
    epsilon: Fraction,
    terms: int,
    confidence: Fraction,
    rho: Fraction | None = None,
) -> int:
    """Return h with P(|sum of that many independent draws| <= h) >= confidence."""
    return noise_table(sensitivity, epsilon, rho).interval_of_sum(terms, confidence)


@lru_cache(maxsize=64)
def noise_table(
    sensitivity: int, epsilon: Fraction, rho: Fraction | None = None
) -> DiscreteLaplace | DiscreteGaussian:
    """Return the noise for computations, never to draw from; Gaussian with a rho."""
    if rho is not None:
        return DiscreteGaussian(sensitivity, rho)
    return DiscreteLaplace(sensitivity, epsilon)
