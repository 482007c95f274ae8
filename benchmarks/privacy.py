"""Private statistics: the noise, the audit, the ledger, the release, the erasure and the keys."""

from benchmarks import (
    _privacy_consent,
    _privacy_counters,
    _privacy_erasure,
    _privacy_errors,
    _privacy_ledger,
    _privacy_release,
    _privacy_sealing,
)
from benchmarks._privacy_audit import FIGURES as AUDIT
from benchmarks._privacy_audit import audit_figures
from benchmarks._privacy_noise import FIGURES as NOISE
from benchmarks._privacy_noise import noise
from benchmarks.figures import Figure, Part, main, measure

PARTS = (
    "noise",
    "audit",
    "ledger",
    "errors",
    "release",
    "erasure",
    "sealing",
    "counters",
    "consent",
)


def run(quick: bool, only: str | None = None) -> list[Figure]:
    """Measure part by part."""
    parts = [
        Part("noise", NOISE, lambda: noise(quick)),
        Part("audit", AUDIT, lambda: audit_figures(quick)),
        Part("ledger", [("ledger_overspends", "1")], lambda: _privacy_ledger.figures(quick)),
        Part("errors", _privacy_errors.FIGURES, lambda: _privacy_errors.figures(quick)),
        Part("release", _privacy_release.FIGURES, lambda: _privacy_release.figures(quick)),
        Part("erasure", _privacy_erasure.FIGURES, lambda: _privacy_erasure.figures(quick)),
        Part("sealing", _privacy_sealing.FIGURES, lambda: _privacy_sealing.figures(quick)),
        Part("counters", _privacy_counters.FIGURES, lambda: _privacy_counters.figures(quick)),
        Part("consent", _privacy_consent.FIGURES, lambda: _privacy_consent.figures(quick)),
    ]
    return measure(parts, only)


if __name__ == "__main__":
    main("privacy", run, parts=PARTS)
