"""What the audit proves about the pipeline, and how many planted mistakes it finds."""

import tempfile
import time
from fractions import Fraction
from pathlib import Path

from benchmarks.figures import Figure
from tactful_privacy.audit.audit import ALPHA, QUICK, THOROUGH, audit
from tactful_privacy.audit.checks import attack
from tactful_privacy.audit.pipeline import Pipeline
from tactful_privacy.audit.planted import low_scale

FIGURES = (
    ("audit_eps_lower_bound", "1"),
    ("audit_planted_bugs_caught", "1"),
    ("audit_planted_bugs", "1"),
    ("audit_quick_s", "s"),
    ("audit_quick_cpu_s", "s"),
    ("audit_eps_million", "1"),
    ("audit_eps_scale_5_percent_low", "1"),
)

_MILLION = 1_000_000


def audit_figures(quick: bool) -> list[Figure]:
    """Audit quickly, as CI does, and thoroughly unless `quick`."""
    wall, cpu = time.perf_counter(), time.process_time()
    report = audit(5, 1, QUICK)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    if not quick:
        report = audit(5, 1, THOROUGH)
    failed = [
        f"{pipeline.name}: {f.layer} {f.check}"
        for pipeline in report.real
        for f in pipeline.findings
        if not f.passed
    ]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "all checks passed"
    proved = (
        f"epsilon 1 is claimed; {report.effort.canaries:,} canaries; false alarm below"
        f" {report.alpha:g}; {verdict}"
    )
    found = [bug for bug in report.planted if not bug.passed]
    missed = ", ".join(bug.name for bug in report.planted if bug.passed) or "none"
    names = ", ".join(bug.name for bug in report.planted)
    return [
        Figure("audit_eps_lower_bound", report.epsilon_lower_bound, "1", note=proved),
        Figure("audit_planted_bugs_caught", len(found), "1", note=f"missed: {missed}"),
        Figure("audit_planted_bugs", len(report.planted), "1", note=names),
        Figure(
            "audit_quick_s", wall, "s", note=f"{QUICK.canaries:,} canaries, all planted bugs, wall"
        ),
        Figure("audit_quick_cpu_s", cpu, "s", note="the same, time of the processor"),
        *_million(quick),
    ]


def _million(quick: bool) -> list[Figure]:
    """What a million canaries prove about the right scale, and one 5 % too low."""
    names = ("audit_eps_million", "audit_eps_scale_5_percent_low")
    if quick:
        return [Figure(name, None, "1", note="not measured by a quick run") for name in names]
    figures = []
    for name, pipeline in zip(
        names, (Pipeline(5, Fraction(1)), low_scale(5, Fraction(1), 5)), strict=True
    ):
        with tempfile.TemporaryDirectory(prefix="tactful-bench-") as directory:
            ((_, bound),) = attack(pipeline, _MILLION, ALPHA, Path(directory), spreads=["together"])
        note = f"epsilon 1 is claimed; {_MILLION:,} canaries; false alarm below {ALPHA:g}"
        figures.append(Figure(name, bound.epsilon, "1", note=note))
    return figures
