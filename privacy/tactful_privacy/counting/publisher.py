"""Publication of bounded exact counts through the ledger."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction

import msgspec

from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.daily_caps import cap_query, decide_cap
from tactful_privacy.counting.released import ReleasedPane, delta_of, released_panes
from tactful_privacy.counting.series import open_series
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.errors import ParameterError, StateError
from tactful_privacy.ledger.ledger import DayClaim, Draw, Ledger
from tactful_privacy.ledger.statistic import DAY_MS, PANES, TOTALS, Statistic
from tactful_privacy.mechanisms._table import Entropy

MAX_DELTA = Fraction(1, 10**12)
MAX_DELTA_OF_TOTALS = Fraction(1, 10**9)


class Publisher:
    """Publishes one counter's panes, sums of longer periods and running totals.

    Guarantee: each statistic costs its epsilon for one user and one UTC day, and several statistics
    of one counter the sum, plus the delta computed from the noise table (refused above 1e-12, below
    1e-15 for common caps), under the assumptions of `BoundedCounts` and `Ledger`: the watermark is
    a public clock, the bounding state commits with the input position, the ledger is durable. Noise
    is added to every cell of the public catalogue, empty cells too. Publishing panes while later
    panes still fill changes nothing: the bound is on the likelihood ratio of each output given the
    earlier outputs.
    """

    def __init__(
        self,
        counts: BoundedCounts,
        ledger: Ledger,
        *,
        further: Sequence[Statistic] = (),
        entropy: Entropy = os.urandom,
    ) -> None:
        """Register the statistics and prepare their noise.

        Args:
            counts: Counter of contributions; its own statistic is published.
            ledger: Ledger of the releases.
            further: Further statistics to publish from the same counts, with the same keys and
                caps and with periods of whole panes. Each costs its own epsilon.
            entropy: See `DiscreteLaplace`; other than the default in tests only.

        Raises:
            BudgetError: The day's budget does not allow them.
            ParameterError: The cap is so large that delta would exceed its limit, or one of
                `further` does not fit the counts.
        """
        statistics = [counts.statistic, *further]
        for statistic in further:
            _check_fits(statistic, counts.statistic)
        for statistic in statistics:
            check_delta(statistic)
        ledger.register_all(statistics)
        self._entropy = entropy
        self._series = [open_series(statistic, ledger, entropy) for statistic in statistics]
        self._due: list[dict[int, Draw]] = [{} for _ in statistics]
        self._counts = counts
        self._ledger = ledger

    def publish(self, watermark: int) -> list[ReleasedPane]:
        """Close every pane that ends at or before the watermark, add noise, and store it.

        A pane in the ledger (after a crash and a replay of the input) is returned as stored. If the
        ledger fails, the closed panes are kept and tried again at the next call: take no snapshot
        of the counts in between. The released panes come by statistic, in time order.

        Args:
            watermark: Epoch milliseconds, a public clock; see `BoundedCounts`.
        """
        published: list[ReleasedPane] = []
        for statistic, starts in self.store(watermark).items():
            span = starts[0], starts[-1] + 1
            published += released_panes(self._ledger, statistic, start=span[0], end=span[1])
        return published

    def store(self, watermark: int, *, claim: DayClaim | None = None) -> dict[str, list[int]]:
        """Store as `publish` does; return only the starts of panes, by statistic.

        With `claim`, panes of days that belong to another counter are dropped.
        """
        self._close(watermark)
        stored: dict[str, list[int]] = {}
        for series, due in zip(self._series, self._due, strict=True):
            starts = sorted(due)
            for batch in [[start] for start in starts] if series.one_by_one else [starts]:
                if batch:
                    draws = {at: due[at] for at in batch}
                    self._ledger.release_many(series.statistic, draws, claim=claim)
                    series.stored(batch[-1])
                    stored.setdefault(series.statistic.name, []).extend(batch)
                    for start in batch:
                        del due[start]
        return stored

    def follow(self, watermark: int) -> None:
        """Close panes that another process releases from the same input, and drop their counts.

        Nothing is drawn. A day whose cap the other process has not chosen stays undecided until it
        is over.
        """
        self._close(watermark, draws=False)
        self.drop_due()

    def drop_due(self) -> None:
        """Drop closed panes that are not stored: another process releases them now."""
        for due in self._due:
            due.clear()

    def _close(self, watermark: int, *, draws: bool = True) -> None:
        """Close panes, and note what is due; choose the caps of days."""
        while True:
            for pane in self._counts.closed(watermark):
                cap = self._counts.cap_on(pane.start // DAY_MS)
                for series, due in zip(self._series, self._due, strict=True):
                    if (release := series.take(pane, cap)) is not None:
                        start, draw = release
                        due[start] = draw
            if (day := self._counts.undecided(watermark)) is None:
                break
            if draws or self._ledger.is_answered(cap_query(self._counts.statistic, day)):
                decide_cap(self._counts, self._ledger, day, entropy=self._entropy)
            elif watermark >= (day + 1) * DAY_MS:
                self._counts.decide(day, self._counts.statistic.cap)
            else:
                break

    def snapshot(self) -> bytes:
        """Return the counts of unfinished periods.

        Store them in one write with the counter's snapshot of the same moment. A statistic added
        later begins in the middle of its period.
        """
        snapshots = {series.statistic.name: series.snapshot() for series in self._series}
        return msgspec.msgpack.encode((self._counts.open_from, snapshots))

    def restore(self, snapshot: bytes) -> None:
        """Continue from a snapshot, after the counter was restored from its own.

        A snapshot that is damaged or of another moment of the counter raises `StateError`:
        contributions would be counted twice.
        """
        try:
            open_from, snapshots = msgspec.msgpack.decode(
                snapshot, type=tuple[int, dict[str, bytes]]
            )
            if open_from != self._counts.open_from:
                raise StateError(
                    f"the sums of {self._counts.statistic.name!r} belong to another moment than"
                    " its counts: restore both from one snapshot"
                )
            for series in self._series:
                if series.statistic.name in snapshots:
                    series.restore(snapshots[series.statistic.name])
        except DECODE_ERRORS as error:
            raise StateError(
                f"the sums of {self._counts.statistic.name!r} are damaged: {error}"
            ) from error


def _check_fits(statistic: Statistic, counted: Statistic) -> None:
    same = all(
        getattr(statistic, field) == getattr(counted, field)
        for field in ("keys", "cap", "cell_cap", "hour_cap", "amounts")
    )
    if not same or statistic.pane_ms % counted.pane_ms:
        raise ParameterError(
            f"statistic {statistic.name!r} cannot be made from the counts of {counted.name!r}:"
            f" give the same keys and caps, and a pane_ms that is a multiple of {counted.pane_ms}"
        )
    if statistic.cap_of != (counted.name if counted.cap_choice else None):
        raise ParameterError(
            f"statistic {statistic.name!r}: cap_of must name {counted.name!r} if that statistic"
            " chooses its cap each day, and be empty otherwise"
        )
    if statistic.kind in TOTALS and statistic.pane_ms != counted.pane_ms:
        raise ParameterError(
            f"statistic {statistic.name!r}: running totals need the pane_ms of {counted.name!r},"
            f" {counted.pane_ms}"
        )


def check_delta(statistic: Statistic) -> None:
    """Refuse a statistic whose computed delta is above its limit with a `ParameterError`."""
    limit = statistic.delta or (MAX_DELTA if statistic.kind == PANES else MAX_DELTA_OF_TOTALS)
    if (delta := delta_of(statistic)) > limit:
        raise ParameterError(
            f"statistic {statistic.name!r}: delta is {float(delta):.1e}, above"
            f" {float(limit):.0e}: lower the cap or spend more epsilon"
            + ("" if statistic.amounts is None else ", or give a larger step")
        )
