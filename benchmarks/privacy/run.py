"""Private statistics: the noise, the audit, the ledger, the release, the erasure and the keys."""

from benchmarks.figures import Figure, Part, main, measure
from benchmarks.privacy import consent as _privacy_consent
from benchmarks.privacy import counters as _privacy_counters
from benchmarks.privacy import erasure as _privacy_erasure
from benchmarks.privacy import errors as _privacy_errors
from benchmarks.privacy import ledger as _privacy_ledger
from benchmarks.privacy import release as _privacy_release
from benchmarks.privacy import sealing as _privacy_sealing
from benchmarks.privacy.audit import FIGURES as AUDIT
from benchmarks.privacy.audit import audit_figures
from benchmarks.privacy.noise import FIGURES as NOISE
from benchmarks.privacy.noise import noise

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
