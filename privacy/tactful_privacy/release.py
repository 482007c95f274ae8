"""From bounded exact panes to published ones, and what may be computed from those."""

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from tactful_privacy._exact import Exact, fraction
from tactful_privacy.bounding import BoundedCounts, Pane
from tactful_privacy.errors import ParameterError
from tactful_privacy.laplace import DiscreteLaplace, Entropy
from tactful_privacy.ledger import Draw, Ledger, Release
from tactful_privacy.statistic import UNIT, Statistic

CONFIDENCE = Fraction(95, 100)
METHOD = "discrete Laplace, exact 64-bit table"
MAX_DELTA = Fraction(1, 10**12)


@dataclass(frozen=True)
class ReleasedPane:
    """Noisy counts of one pane with their uncertainty: free to be shown and computed with.

    Guarantee: all released panes of a UTC day together, every key, are (epsilon, delta)-private
    for one user's contributions of that day (see `Statistic`). What is
    computed from released panes costs nothing more (post-processing). A user who contributes on
    several days loses at most epsilon on each.

    Attributes:
        statistic: Name of the statistic.
        start: First millisecond of the pane (epoch).
        end: First millisecond after it.
        values: Noisy count of every key of the catalogue; unbiased, so it may be negative.
        half_width: Each true bounded count lies within value ± half_width with at least
            `confidence`. It covers the noise, not the contributions cut off by the cap.
        confidence: 0.95.
        epsilon: Privacy loss of one user and one UTC day.
        delta: Computed bound, far below one in the number of people alive.
        cap: Most contributions of one user and one UTC day: the L1 sensitivity.
        unit: The unit of privacy.
        method: The mechanism.
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
    unit: str = UNIT
    method: str = METHOD

    def interval(self, key: str) -> tuple[int, int]:
        """Return the lowest and highest count that the confidence admits for a key."""
        value = self.values[key]
        return value - self.half_width, value + self.half_width


@dataclass(frozen=True)
class ReleasedSum:
    """Sum of released counts.

    Attributes:
        value: The sum.
        half_width: The true bounded sum lies within value ± half_width with at least `confidence`.
        confidence: Of the interval.
        cells: How many released counts were added; each brought its own noise.
    """

    value: int
    half_width: int
    confidence: float
    cells: int


@dataclass(frozen=True)
class ReleasedPage:
    """Some released panes in time order, and the cursor that continues after them."""

    panes: tuple[ReleasedPane, ...]
    cursor: str | None


class Publisher:
    """Publishes the closed panes of one statistic.

    Guarantee: epsilon of the statistic for one user and one UTC day, plus the delta computed from
    the noise table (refused above 1e-12, below 1e-15 for common caps), under the assumptions of
    `BoundedCounts` and `Ledger`: the watermark is a
    public clock, the bounding state commits with the input position, the ledger is durable. Noise
    is added to every cell of the public catalogue, empty ones too. That panes are published while
    later ones are still being filled changes nothing: the bound is on the likelihood ratio of each
    output given the former ones.
    """

    def __init__(
        self, counts: BoundedCounts, ledger: Ledger, *, entropy: Entropy = os.urandom
    ) -> None:
        """Register the statistic and prepare its noise.

        Args:
            counts: Where contributions are counted.
            ledger: Where releases are kept.
            entropy: See `DiscreteLaplace`; other than the default in tests
                only.

        Raises:
            BudgetError: The day's budget does not allow this statistic.
            ParameterError: The cap is so large that delta would exceed 1e-12.
        """
        statistic = counts.statistic
        if (delta := _delta(statistic.cap, statistic.epsilon)) > MAX_DELTA:
            raise ParameterError(
                f"statistic {statistic.name!r}: delta is {float(delta):.1e}, above"
                f" {float(MAX_DELTA):.0e}: lower the cap or spend more epsilon"
            )
        ledger.register(statistic)
        self._noise = statistic.mechanism(entropy)
        self._counts = counts
        self._ledger = ledger
        self._waiting: list[Pane] = []

    def publish(self, watermark: int) -> list[ReleasedPane]:
        """Close, noise and store every pane that ends at or before the watermark.

        A pane that the ledger holds already (the process died after storing and replays its input)
        is returned as stored. When the ledger fails, the closed panes are kept and tried again at
        the next call: take no snapshot of the counts in between.

        Args:
            watermark: Epoch milliseconds, a public clock; see
                `BoundedCounts`.
        """
        self._waiting += self._counts.closed(watermark)
        draws = {pane.start: self._draw(pane) for pane in self._waiting}
        statistic = self._counts.statistic
        releases = self._ledger.release_many(statistic, draws) if draws else []
        self._waiting.clear()
        return _released(statistic, releases)

    def _draw(self, pane: Pane) -> Draw:
        return lambda: pane.counts + self._noise.sample(len(pane.counts))


def read_released(
    ledger: Ledger,
    name: str,
    *,
    start: int | None = None,
    end: int | None = None,
    cursor: str | None = None,
    limit: int = 100,
) -> ReleasedPage:
    """Return published panes from the ledger; arguments and errors as of `Ledger.read`."""
    page = ledger.read(name, start=start, end=end, cursor=cursor, limit=limit)
    statistic = ledger.statistic(name)
    panes = _released(statistic, page.releases)
    return ReleasedPage(tuple(panes), page.cursor)


def sum_released(
    panes: Sequence[ReleasedPane],
    keys: str | Collection[str] | None = None,
    confidence: Exact = CONFIDENCE,
) -> ReleasedSum:
    """Add released counts over panes and keys, with the exact interval of the added noise.

    Args:
        panes: Panes of one statistic, each once.
        keys: One key, several, or None for the whole catalogue.
        confidence: Of the interval, exact (``"0.95"``).

    Raises:
        ParameterError: No pane, a pane twice (its noise would not be independent of itself), panes
            of different statistics, or a key that is none of the catalogue.
    """
    if not panes:
        raise ParameterError("there is no pane to add")
    first = panes[0]
    if len({(pane.statistic, pane.cap, pane.epsilon) for pane in panes}) > 1:
        raise ParameterError("panes of different statistics cannot be added")
    if len({pane.start for pane in panes}) < len(panes):
        raise ParameterError("a pane is given twice: its noise would be counted as independent")
    wanted = [keys] if isinstance(keys, str) else list(first.values if keys is None else keys)
    unknown = [key for key in wanted if key not in first.values]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise ParameterError(
            f"keys must be of the catalogue of {first.statistic!r}, each once;"
            f" unknown: {unknown or 'none'}"
        )
    cells = len(panes) * len(wanted)
    share = fraction(confidence, "confidence")
    return ReleasedSum(
        value=sum(pane.values[key] for pane in panes for key in wanted),
        half_width=_half_width(first.cap, first.epsilon, cells, share),
        confidence=float(share),
        cells=cells,
    )


def _released(statistic: Statistic, releases: Sequence[Release]) -> list[ReleasedPane]:
    half_width = _half_width(statistic.cap, statistic.epsilon, 1, CONFIDENCE)
    delta = float(_delta(statistic.cap, statistic.epsilon))
    return [
        ReleasedPane(
            statistic=statistic.name,
            start=release.start,
            end=release.start + statistic.pane_ms,
            values=dict(zip(statistic.keys, release.noisy_counts.tolist(), strict=True)),
            half_width=half_width,
            confidence=float(CONFIDENCE),
            epsilon=statistic.epsilon,
            delta=delta,
            cap=statistic.cap,
        )
        for release in releases
    ]


@lru_cache(maxsize=64)
def _delta(cap: int, epsilon: Fraction) -> Fraction:
    return DiscreteLaplace(cap, epsilon).delta(epsilon)


@lru_cache(maxsize=1024)
def _half_width(cap: int, epsilon: Fraction, cells: int, confidence: Fraction) -> int:
    return DiscreteLaplace(cap, epsilon).interval_of_sum(cells, confidence)
