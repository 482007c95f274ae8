"""Series of releases from closed panes: sums of periods and running totals.

This is the secret side of a release. A series receives the exact panes in time order and returns
the release that each pane makes due, as a function that draws it. The ledger calls the function
only if no release is stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_privacy.counting.bounded_counts import Pane
from tactful_privacy.errors import StateError
from tactful_privacy.ledger.ledger import Draw, Ledger
from tactful_privacy.ledger.statistic import DAY_MS, GAUSSIAN_TOTALS, RUNNING_TOTALS, Statistic
from tactful_privacy.mechanisms.counting_tree import Node, best_tree
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian
from tactful_privacy.mechanisms.laplace import DiscreteLaplace, Entropy


class Series(ABC):
    """Turns the panes of one counter into the releases of one statistic."""

    one_by_one = False  # whether a release needs the previous release stored first

    def __init__(self, statistic: Statistic, entropy: Entropy) -> None:
        """Begin without counts."""
        self.statistic = statistic
        self._entropy = entropy

    @abstractmethod
    def take(self, pane: Pane, cap: int | None = None) -> tuple[int, Draw] | None:
        """Add the next closed pane; return start and draw of a release now due.

        The noise is that of the day's chosen `cap`; None: of the cap of the statistic.
        """

    def stored(self, start: int) -> None:  # noqa: B027 - only some kinds have to
        """Note that the ledger holds every release up to this start."""

    def snapshot(self) -> bytes:
        """Return the unreleased counts; they are exact, so keep them secret."""
        return b""

    def restore(self, snapshot: bytes) -> None:  # noqa: B027 - only some kinds have state
        """Continue from a snapshot; `StateError` if it belongs to another catalogue."""


def open_series(statistic: Statistic, ledger: Ledger, entropy: Entropy) -> Series:
    """Return the series of a statistic's kind."""
    if statistic.kind == RUNNING_TOTALS:
        return RunningTotals(statistic, ledger, entropy)
    if statistic.kind == GAUSSIAN_TOTALS:
        return FactorisedTotals(statistic, entropy)
    return Sums(statistic, entropy)


class _Partial(msgspec.Struct, array_like=True):
    """Counts since the start of a period; only keys that were counted at all."""

    start: int
    keys: int
    indices: bytes
    counts: bytes


class _NoisySeries(Series):
    """A series with the noise of one cap at a time."""

    def __init__(self, statistic: Statistic, entropy: Entropy) -> None:
        super().__init__(statistic, entropy)
        self._cap, self._noise = statistic.cap, statistic.mechanism(entropy)

    def _noise_of(self, cap: int | None) -> DiscreteLaplace | DiscreteGaussian:
        """Return the noise of a day's cap; a day has one cap, so all its cells have equal noise."""
        cap = self.statistic.cap if cap is None else cap
        if cap != self._cap:
            self._cap = cap
            self._noise = self.statistic.with_cap(cap).mechanism(self._entropy)
        return self._noise


class Sums(_NoisySeries):
    """Counts of each period: of ``pane_ms``, one pane or several panes long, or a week or month.

    Noise is added to the exact sum once, when its last pane has closed.
    """

    def __init__(self, statistic: Statistic, entropy: Entropy) -> None:
        """Begin without counts."""
        super().__init__(statistic, entropy)
        self._clear()

    def _clear(self) -> None:
        self._start = -1  # of the current period
        self._counts: NDArray[np.int64] = np.zeros(len(self.statistic.keys), dtype=np.int64)

    def take(self, pane: Pane, cap: int | None = None) -> tuple[int, Draw] | None:
        """Add a pane; the sum is due after the last pane of its period."""
        start = self.statistic.start_of(pane.start)
        if self.statistic.period is not None and start not in (self._start, pane.start):
            return None  # counting began within this week or month
        exact = self._counts + pane.counts if start == self._start else pane.counts
        self._start, self._counts = start, exact
        if pane.end != self.statistic.end_of(start):
            return None
        self._clear()
        noise = self._noise_of(cap)
        return start, lambda: exact + noise.sample(len(exact))

    def snapshot(self) -> bytes:
        """See `Series`."""
        indices = np.flatnonzero(self._counts)
        counts = self._counts[indices].astype("<i8").tobytes()
        keys = len(self.statistic.keys)
        partial = _Partial(self._start, keys, indices.astype("<i8").tobytes(), counts)
        return msgspec.msgpack.encode(partial)

    def restore(self, snapshot: bytes) -> None:
        """See `Series`."""
        partial = msgspec.msgpack.decode(snapshot, type=_Partial)
        if partial.keys != len(self.statistic.keys):
            raise StateError(
                f"the snapshot holds sums of {partial.keys} keys, but the statistic has"
                f" {len(self.statistic.keys)}: it belongs to another statistic"
            )
        self._clear()
        indices = np.frombuffer(partial.indices, "<i8")
        self._start = partial.start
        self._counts[indices] = np.frombuffer(partial.counts, "<i8")


class RunningTotals(_NoisySeries):
    """Counts since midnight (UTC) at the end of each pane.

    The total after t panes is released as the exact total plus the signed noise of the nodes that
    cover t panes (`counting_tree`). The noise of a node is drawn at its first use and kept in the
    ledger until the day is over: totals share it, so a second draw after a crash would break the
    guarantee.

    A total continues from the previous total as *released*: that total less its noise, plus the
    pane. Counting again after a crash may give less, since some contributions are late now. A total
    of these counts alone would subtract contributions that released totals had added, and a
    contribution would weigh twice. `docs/explanation/running-totals.md` proves the guarantee.
    """

    one_by_one = True

    def __init__(self, statistic: Statistic, ledger: Ledger, entropy: Entropy) -> None:
        """Begin a series; the ledger holds its whole state."""
        super().__init__(statistic, entropy)
        self._ledger = ledger
        self._tree = best_tree(DAY_MS // statistic.pane_ms)
        self._kept: dict[tuple[int, Node], NDArray[np.int64]] = {}
        self._day = -1

    def take(self, pane: Pane, cap: int | None = None) -> tuple[int, Draw] | None:
        """Make the total up to the end of the pane due."""

        def draw() -> NDArray[np.int64]:
            self._noise_of(cap)  # for the nodes drawn below
            return self._released_before(pane.start) + pane.counts + self._noise_at(pane.start)

        return pane.start, draw

    def stored(self, start: int) -> None:
        """Destroy the noise of finished days, and delete that of past nodes from memory."""
        day = start - start % DAY_MS
        if day != self._day and self._ledger.shared_noise.delete_before(self.statistic, day):
            self._day = day
        panes = (start - day) // self.statistic.pane_ms + 1
        self._kept = {
            (start_of_day, node): noise
            for (start_of_day, node), noise in self._kept.items()
            if start_of_day == day and not self._tree.is_past(node, panes)
        }

    def _released_before(self, start: int) -> NDArray[np.int64]:
        """Return the exact total of the previous release, zeros at midnight."""
        before = start - self.statistic.pane_ms
        zeros = np.zeros(len(self.statistic.keys), dtype=np.int64)
        if before // DAY_MS < start // DAY_MS:
            return zeros
        page = self._ledger.read(self.statistic.name, start=before, end=start, limit=1)
        if not page.releases:
            return zeros
        return page.releases[0].noisy_counts - self._noise_at(before)

    def _noise_at(self, start: int) -> NDArray[np.int64]:
        """Return the noise of the total up to the end of a pane."""
        day = start - start % DAY_MS
        # Totals of a day share nodes: only nodes that no earlier total used are drawn.
        nodes = self._tree.nodes((start - day) // self.statistic.pane_ms + 1)
        missing = {node.name: node for node in nodes if (day, node.unsigned) not in self._kept}
        if missing:
            draws = dict.fromkeys(missing, self._draw)
            stored = self._ledger.shared_noise.draw_once(self.statistic, day, draws)
            for name, noise in stored.items():
                self._kept[day, missing[name].unsigned] = noise
        total = np.zeros(len(self.statistic.keys), dtype=np.int64)
        for node in nodes:
            total += node.sign * self._kept[day, node.unsigned]
        return total

    def _draw(self) -> NDArray[np.int64]:
        return self._noise.sample(len(self.statistic.keys))


class _History(msgspec.Struct, array_like=True):
    """Nonzero counts of the panes of a day: pane, indices of keys, counts."""

    day: int
    keys: int
    panes: list[tuple[int, bytes, bytes]]


class FactorisedTotals(Series):
    """R x + z of each pane of a day (`matrix_factorisation`); readers compute totals from it.

    Each pane has its own noise, so the ledger keeps one draw for each pane, as for counts of panes.
    The exact counts of the day's panes are kept until midnight.
    """

    def __init__(self, statistic: Statistic, entropy: Entropy) -> None:
        """Begin without counts."""
        super().__init__(statistic, entropy)
        self._noise = statistic.gaussian.noise(entropy)
        self._coefficients = statistic.gaussian.root.coefficients
        self._day = -1
        self._panes: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []

    def take(self, pane: Pane, cap: int | None = None) -> tuple[int, Draw] | None:
        """Add a pane; its release is due at once."""
        day = pane.start - pane.start % DAY_MS
        if day != self._day:
            self._day, self._panes = day, []
        now = (pane.start - day) // self.statistic.pane_ms
        indices = np.flatnonzero(pane.counts)
        if indices.size:
            self._panes.append((now, indices, pane.counts[indices]))
        # Row `now` of R x: the counts of earlier panes, weighted by their distance.
        weighted = np.zeros(len(self.statistic.keys), dtype=np.int64)
        for then, keys, counts in self._panes:
            weighted[keys] += self._coefficients[now - then] * counts
        return pane.start, lambda: weighted + self._noise.sample(len(weighted))

    def snapshot(self) -> bytes:
        """See `Series`."""
        panes = [
            (then, keys.astype("<i8").tobytes(), counts.astype("<i8").tobytes())
            for then, keys, counts in self._panes
        ]
        return msgspec.msgpack.encode(_History(self._day, len(self.statistic.keys), panes))

    def restore(self, snapshot: bytes) -> None:
        """See `Series`."""
        history = msgspec.msgpack.decode(snapshot, type=_History)
        if history.keys != len(self.statistic.keys):
            raise StateError(
                f"the snapshot holds panes of {history.keys} keys, but the statistic has"
                f" {len(self.statistic.keys)}: it belongs to another statistic"
            )
        self._day = history.day
        self._panes = [
            (
                then,
                np.frombuffer(keys, "<i8").astype(np.int64),
                np.frombuffer(counts, "<i8").astype(np.int64),
            )
            for then, keys, counts in history.panes
        ]
