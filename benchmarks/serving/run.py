"""Serving a list: recall, ranking, the whole request; each against the library it stands on.

One function of a `_serving_…` module for each group of figures. What was not measured in this run
is in the record as well, with the reason.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import cache, partial
from pathlib import Path

from benchmarks.figures import Figure, Part, main, measure
from benchmarks.serving.importing import NAMES as IMPORTS
from benchmarks.serving.importing import import_figures
from benchmarks.serving.index import index_figures
from benchmarks.serving.ingest import ingest_figures
from benchmarks.serving.killed_import import NAMES as IMPORT_KILLS
from benchmarks.serving.killed_import import killed_import_figures
from benchmarks.serving.load import load_figures
from benchmarks.serving.overload import overload_figures
from benchmarks.serving.ranking import ranking_figures
from benchmarks.serving.request import memory_figure, request_figures
from benchmarks.serving.shop import open_shop
from benchmarks.serving.training import NAMES as TRAINING
from benchmarks.serving.training import training_figures
from tactful.config.settings import Settings
from tactful.ranking.features import columns_fingerprint
from tactful_streaming.definitions.reader import load_definitions

PARTS = (
    "ranking",
    "overload",
    "ingest",
    "import",
    "import-kills",
    "training",
    "index",
    "request",
    "memory",
    "load",
)
_MINUTES = 5.0
_QUICK_MINUTES = 0.5

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
    **IMPORTS,
    **IMPORT_KILLS,
    **TRAINING,
}
"""What the benchmark promises to follow over time, with units."""


def run(quick: bool, only: str | None = None, *, minutes: float | None = None) -> list[Figure]:
    """Measure part by part; promised figures that none measured are there without a value.

    Args:
        quick: less data, fewer rounds.
        only: the one part to measure; None for all.
        minutes: how long the load lasts.
    """
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        figures = measure(_parts(quick, Path(name), minutes), only)
    measured = {figure.name for figure in figures}
    reason = "no benchmark measures it yet" if only is None else "another part measures it, if any"
    return figures + [
        Figure(each, None, unit, note=reason)
        for each, unit in NAMES.items()
        if each not in measured
    ]


def _parts(quick: bool, scratch: Path, minutes: float | None) -> list[Part]:
    @cache
    def shop() -> Path:
        """One shop for all parts that need one: a million items take minutes to lay out."""
        definitions = columns_fingerprint(load_definitions(Settings().features))
        open_shop(scratch / "shop", 100_000 if quick else 1_000_000, definitions=definitions)
        return scratch / "shop"

    def named(*names: str) -> list[tuple[str, str]]:
        return [(each, NAMES[each]) for each in names]

    span = minutes or (_QUICK_MINUTES if quick else _MINUTES)
    return [
        Part("ranking", named("scores_bit_identical_share"), partial(ranking_figures, quick)),
        Part(
            "overload", [("overload_failed_requests", "requests")], partial(overload_figures, quick)
        ),
        Part(
            "ingest",
            named("durable_vs_memory_ingest", "ingest_events_per_s"),
            partial(ingest_figures, quick),
        ),
        Part("import", named(*IMPORTS), partial(import_figures, quick)),
        Part("import-kills", named(*IMPORT_KILLS), partial(killed_import_figures, quick)),
        Part("training", named(*TRAINING), partial(training_figures, quick)),
        Part(
            "index", named("recall_at_1000", "fresh_item_visible_s"), partial(index_figures, quick)
        ),
        Part(
            "request",
            named("request_p50_vs_bare", "request_p99_vs_bare", "requests_per_s_per_core"),
            lambda: request_figures(shop(), quick),
        ),
        Part("memory", named("worker_private_mb"), lambda: [memory_figure(shop())]),
        Part(
            "load",
            [*named("swap_failed_requests"), ("sustained_failed_requests", "requests")],
            lambda: load_figures(shop(), minutes=span),
        ),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--minutes", type=float, help="how long the sustained load lasts")
    chosen, rest = parser.parse_known_args()
    main("serving", partial(run, minutes=chosen.minutes), rest, parts=PARTS)
