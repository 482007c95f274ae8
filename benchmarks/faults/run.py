"""Faults: fuzz of all decoders and of HTTP, damage to every file, outages and a soak under load."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.faults import damage as _damage
from benchmarks.faults import fuzz as _fuzz
from benchmarks.faults import outages as _outages
from benchmarks.faults import requests as _requests
from benchmarks.faults import soak as _soak
from benchmarks.figures import Figure, Part, main, measure

PARTS = ("fuzz", "http", "damage", "outages", "soak")


def run(options: argparse.Namespace) -> list[Figure]:
    """Measure part by part."""
    quick: bool = options.quick

    def disturb() -> list[Figure]:
        return _outages.outages(quick, options.resume, options.faults)

    def last() -> list[Figure]:
        with tempfile.TemporaryDirectory(prefix="tactful-soak-") as folder:
            return _soak.soak(quick, Path(folder), options.minutes)

    parts = [
        Part("fuzz", _fuzz.FIGURES, lambda: _fuzz.figures(quick)),
        Part("http", _requests.FIGURES, lambda: _requests.figures(quick)),
        Part("damage", _damage.FIGURES, lambda: _damage.figures(quick)),
        Part("outages", _outages.FIGURES, disturb),
        Part("soak", _soak.FIGURES, last),
    ]
    return measure(parts, options.only)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the parts `outages` and `soak`."""
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="record rounds of outages here, and go on"
    )
    parser.add_argument("--faults", type=int, metavar="N", help="faults of outages, by default 500")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="length of the soak, by default 120"
    )


if __name__ == "__main__":
    main("faults", run, parts=PARTS, add_options=add_options)
