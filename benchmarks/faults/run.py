"""Faults: fuzz of all decoders and of HTTP, and damage to every file of an installation."""

from benchmarks.faults import damage as _damage
from benchmarks.faults import fuzz as _fuzz
from benchmarks.faults import requests as _requests
from benchmarks.figures import Figure, Part, main, measure

PARTS = ("fuzz", "http", "damage", "outages")
_LATER = (
    ("faults", "faults"),
    ("faults_lost_events", "events"),
    ("faults_wrong_counts", "counts"),
    ("faults_overspent_budgets", "budgets"),
    ("faults_recovery_p95_s", "s"),
    ("soak_memory_growth_mb_per_h", "MB/h"),
    ("soak_descriptor_growth", "descriptors"),
)


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure part by part."""
    parts = [
        Part("fuzz", _fuzz.FIGURES, lambda: _fuzz.figures(quick)),
        Part("http", _requests.FIGURES, lambda: _requests.figures(quick)),
        Part("damage", _damage.FIGURES, lambda: _damage.figures(quick)),
        Part("outages", _LATER, _outages),
    ]
    return measure(parts, only)


def _outages() -> list[Figure]:
    note = (
        "there is no such part yet: kills, full disks, outages and a soak of a whole installation"
    )
    return [Figure(name, None, unit, note=note) for name, unit in _LATER]


if __name__ == "__main__":
    main("faults", run, parts=PARTS)
