"""Serving a list: recall, ranking, the whole request; each against the library it stands on.

One function of a `_serving_…` module for each group of figures. What was not measured in this run
is in the record as well, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks._serving_index import index_figures
from benchmarks._serving_overload import overload_figures
from benchmarks._serving_ranking import ranking_figures
from benchmarks.figures import Figure, main

GROUPS: tuple[Callable[[bool], Sequence[Figure]], ...] = (
    ranking_figures,
    overload_figures,
    index_figures,
)
"""Each measures some figures; told whether it shall be quick."""

NAMES = {
    "request_p50_vs_bare": "1",
    "request_p99_vs_bare": "1",
    "requests_per_s_per_core": "requests/s",
    "recall_at_1000": "1",
    "scores_bit_identical_share": "1",
    "worker_private_mb": "MB",
    "fresh_item_visible_s": "s",
    "swap_failed_requests": "requests",
    "durable_vs_memory_ingest": "1",
    "ingest_events_per_s": "events/s",
}
"""What the benchmark promises to follow over time, with units."""


def run(quick: bool) -> list[Figure]:
    """Measure every group; promised figures that none measures are there without a value."""
    figures = [figure for group in GROUPS for figure in group(quick)]
    measured = {figure.name for figure in figures}
    return figures + [
        Figure(name, None, unit, note="no benchmark measures it yet")
        for name, unit in NAMES.items()
        if name not in measured
    ]


if __name__ == "__main__":
    main("serving", run)
