"""Errors of released windows, totals and calendars, measured beside theory."""

import math
import tempfile
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from tactful_privacy.analysis.consistency import consistent
from tactful_privacy.counting.bounded_counts import BoundedCounts
from tactful_privacy.counting.publisher import Publisher
from tactful_privacy.counting.released import ReleasedPane, read_released
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.statistic import DAY_MS, RUNNING_TOTALS, Statistic
from tactful_privacy.mechanisms.counting_tree import best_tree
from tactful_privacy.mechanisms.laplace import DiscreteLaplace
from tactful_privacy.mechanisms.matrix_factorisation import gaussian_totals

FIGURES = [
    (name, "1")
    for name in (
        "window_std_of_panes",
        "window_std_of_windows",
        "total_rms_tree",
        "total_rms_binary_tree",
        "total_rms_root_unit",
        "day_std_consistent",
        "day_std_of_hours",
        "hour_std_consistent",
    )
]

_CAP, _EPSILON = 5, Fraction(1)
_MINUTE, _MINUTES = 60_000, 1_440
_WINDOW = 5


def figures(quick: bool) -> list[Figure]:
    """Return what was measured; the notes say what theory says."""
    keys = 100 if quick else 400
    return [*_windows(keys * 500), *_totals(keys), *_calendar(keys * 20)]


def _windows(draws: int) -> list[Figure]:
    """Windows of 5 minutes every minute: sums of panes, or a release for each window."""
    pane = DiscreteLaplace(_CAP, _EPSILON)
    window = DiscreteLaplace(_CAP * _WINDOW, _EPSILON)
    summed = pane.sample(draws * _WINDOW).reshape(draws, _WINDOW).sum(axis=1)
    return [
        _compared(
            "window_std_of_panes",
            summed,
            math.sqrt(_WINDOW * float(pane.variance)),
            f"a window of {_WINDOW} panes as their sum, cap {_CAP}, epsilon 1",
        ),
        _compared(
            "window_std_of_windows",
            window.sample(draws),
            math.sqrt(float(window.variance)),
            "each window released by itself, for the same epsilon",
        ),
    ]


def _totals(keys: int) -> list[Figure]:
    """Totals since midnight at each minute of a day, by three mechanisms."""
    tree = best_tree(_MINUTES)
    node = DiscreteLaplace(_CAP * tree.levels, _EPSILON)
    nodes = np.mean([len(tree.nodes(t)) for t in range(1, _MINUTES + 1)])
    levels = _MINUTES.bit_length()
    binary_node = DiscreteLaplace(_CAP * levels, _EPSILON)
    bits = np.mean([t.bit_count() for t in range(1, _MINUTES + 1)])
    # Scaled to noise of standard deviation 1 for one contribution, as the literature states it.
    root = gaussian_totals(_MINUTES, 1, 1, _EPSILON, Fraction(1, 10**6))
    noise = root.noise()
    unit = math.sqrt(root.sensitivity_squared / root.sigma_squared)
    drawn = noise.sample(_MINUTES * keys).reshape(_MINUTES, keys).astype(np.float64)
    size = 2 * _MINUTES
    decoded = np.fft.irfft(
        np.fft.rfft(root.root.decoder, size)[:, None] * np.fft.rfft(drawn, size, axis=0), size, 0
    )[:_MINUTES]
    deviations = np.sqrt(np.cumsum(root.root.decoder**2) * float(root.sigma_squared)) * unit
    return [
        _compared(
            "total_rms_tree",
            _published_totals(keys),
            math.sqrt(nodes * float(node.variance)),
            f"published totals of {_MINUTES} minutes, tree of base {tree.base} with subtraction,"
            f" cap {_CAP}, epsilon 1",
        ),
        _compared(
            "total_rms_binary_tree",
            _binary_totals(binary_node, keys),
            math.sqrt(bits * float(binary_node.variance)),
            f"the same with the binary tree of {levels} levels",
        ),
        _compared(
            "total_rms_root_unit",
            decoded * unit,
            math.sqrt(float(np.mean(deviations**2))),
            "square root of summing, for noise of 1 and one contribution",
        ),
    ]


def _published_totals(keys: int) -> NDArray[np.int64]:
    """What a whole day of totals of nothing is, through counter, publisher and ledger."""
    names = tuple(str(n) for n in range(keys))
    statistic = Statistic("totals", names, _MINUTE, _CAP, _EPSILON, kind=RUNNING_TOTALS)
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger.db", daily_epsilon=_EPSILON)
        counts = BoundedCounts(statistic, secret=b"a benchmark's secret", start=0)
        Publisher(counts, ledger).store(DAY_MS)
        first = ledger.read("totals", limit=1_000)
        rest = ledger.read("totals", cursor=first.cursor, limit=1_000)
        ledger.close()
    return np.array([it.noisy_counts for it in (*first.releases, *rest.releases)])


def _binary_totals(node: DiscreteLaplace, keys: int) -> NDArray[np.int64]:
    levels = _MINUTES.bit_length()
    current = np.zeros((levels, keys), dtype=np.int64)
    totals = []
    for t in range(1, _MINUTES + 1):
        lowest = (t & -t).bit_length() - 1
        current[lowest] = node.sample(keys)
        totals.append(current[[level for level in range(levels) if t >> level & 1]].sum(axis=0))
    return np.array(totals)


def _calendar(runs: int) -> list[Figure]:
    """A day of 24 hours, each level with half of epsilon, made to add up."""
    statistics = [
        Statistic(name, tuple(str(n) for n in range(runs)), pane, _CAP, _EPSILON / 2)
        for name, pane in (("hours", 3_600_000), ("days", DAY_MS))
    ]
    with tempfile.TemporaryDirectory() as directory:
        ledger = Ledger(Path(directory) / "ledger.db", daily_epsilon=_EPSILON)
        counts = BoundedCounts(statistics[0], secret=b"a benchmark's secret", start=0)
        Publisher(counts, ledger, further=statistics[1:]).store(DAY_MS)
        levels = [read_released(ledger, it.name).panes for it in statistics]
        ledger.close()
    hours, days = consistent(levels)
    own = float(statistics[0].mechanism().variance)
    # Both have variance v, and 24 hours have 24 v: the day's best weight on itself is 24/25.
    theory = math.sqrt(own * 24 / 25)
    summed = np.sum([_values(pane) for pane in levels[0]], axis=0)
    return [
        _compared(
            "day_std_consistent",
            np.array(list(days[0].values.values())),
            theory,
            f"a day and its hours made to add up; its own release alone {math.sqrt(own):.1f}",
        ),
        _compared(
            "day_std_of_hours",
            summed,
            math.sqrt(24 * own),
            "the same day as the sum of its hours' own releases; without a release of days, hours"
            f" get all of epsilon and it is {math.sqrt(24 * own / 4):.1f}",
        ),
        _compared(
            "hour_std_consistent",
            np.concatenate([list(hour.values.values()) for hour in hours]),
            theory,
            f"an hour of it; its own release alone {math.sqrt(own):.1f}",
        ),
    ]


def _values(pane: ReleasedPane) -> NDArray[np.int64]:
    return np.array(list(pane.values.values()))


def _compared(name: str, errors: NDArray[np.generic], theory: float, what: str) -> Figure:
    measured = math.sqrt(float(np.mean(np.square(errors.astype(np.float64)))))
    return Figure(name, measured, "1", note=f"{what}; theory {theory:.4g}", runs=errors.size)
