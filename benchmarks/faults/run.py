"""Faults: fuzz of all decoders and of HTTP, damage to every file, and outages under load."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.faults import damage as _damage
from benchmarks.faults import fuzz as _fuzz
from benchmarks.faults import outages as _outages
from benchmarks.faults import requests as _requests
from benchmarks.figures import Figure, Part, main, measure

PARTS = ("fuzz", "http", "damage", "outages")
_LATER = (
    ("soak_memory_growth_mb_per_h", "MB/h"),
    ("soak_descriptor_growth", "descriptors"),
)


def run(options: argparse.Namespace) -> list[Figure]:
    """Measure part by part."""
    quick: bool = options.quick

    def disturb() -> list[Figure]:
        return _outages.outages(quick, options.resume, options.faults)

    parts = [
        Part("fuzz", _fuzz.FIGURES, lambda: _fuzz.figures(quick)),
        Part("http", _requests.FIGURES, lambda: _requests.figures(quick)),
        Part("damage", _damage.FIGURES, lambda: _damage.figures(quick)),
        Part("outages", _outages.FIGURES, disturb),
        Part("soak", _LATER, _soak),
    ]
    return measure(parts, options.only)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the part `outages`."""
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="record rounds of outages here, and go on"
    )
    parser.add_argument("--faults", type=int, metavar="N", help="faults of outages, by default 500")


def _soak() -> list[Figure]:
    return [Figure(name, None, unit, note="there is no soak yet") for name, unit in _LATER]


if __name__ == "__main__":
    main("faults", run, parts=PARTS, add_options=add_options)
