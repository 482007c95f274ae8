"""Recommendations from what Flink computed: how fresh, how equal, how robust, at which cost.

Everything runs on Apache Kafka: the one that `TACTFUL_TEST_KAFKA` names or one of its own; kills
need one of their own. Flink comes from `scripts/flink fetch`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.figures import Figure, Part, main, measure
from benchmarks.flink import kills
from benchmarks.flink.freshness import freshness
from benchmarks.flink.lists import lists
from benchmarks.flink.people import FIGURES as OF_PEOPLE
from benchmarks.flink.people import people
from benchmarks.flink.rates import FIGURES, rates

PARTS = ("freshness", "lists", "kills", "rates", "people")


def run(options: argparse.Namespace) -> list[Figure]:
    """Measure. Quick reads fewer events, and kills four times."""
    # A run that is told to stop ends its broker and its cluster on the way.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        return measure(_parts(options, Path(name)), options.only)


def _parts(options: argparse.Namespace, scratch: Path) -> list[Part]:
    """Return the parts, each with a folder of its own."""

    def of(
        name: str,
        figures: Sequence[tuple[str, str]],
        measured: Callable[[bool, Path], list[Figure]],
    ) -> Part:
        def in_folder() -> list[Figure]:
            folder = scratch / name
            folder.mkdir()
            return measured(options.quick, folder)

        return Part(name, figures, in_folder)

    fresh = (("flink_freshness_p50_ms", "ms"), ("flink_freshness_p99_ms", "ms"))
    equal = (("flink_list_rows_different", "1"), ("flink_planted_values_found", "1"))
    return [
        of("freshness", fresh, freshness),
        of("lists", equal, lists),
        of("kills", kills.FIGURES, partial(kills.kills, done=options.resume)),
        of("rates", FIGURES, rates),
        of("people", OF_PEOPLE, partial(people, wanted=options.people)),
    ]


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        help="record each round of kills here, and leave out those of this commit that are there",
    )
    parser.add_argument(
        "--people", type=_positive, metavar="N", help="people of the part people, else 10,000,000"
    )


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    main("flink", run, parts=PARTS, add_options=_add_options)
