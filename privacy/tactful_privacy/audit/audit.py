"""Privacy audit: attack the pipeline, and the same pipeline with planted bugs.

A privacy test that never fails proves little. So each audit also runs against planted bugs, and is
trustworthy only if it finds all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from tactful_privacy.audit.checks import (
    Finding,
    check_freshness,
    check_loss,
    check_noise,
    check_sensitivity,
)
from tactful_privacy.audit.panes import GaussianPanesPipeline, SumsPipeline
from tactful_privacy.audit.pipeline import Pipeline
from tactful_privacy.audit.planted import planted_bugs
from tactful_privacy.audit.totals import GaussianPipeline, TotalsPipeline
from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact, fraction

ALPHA = 1e-6
_RANDOM_CHECKS = 4


@dataclass(frozen=True)
class Effort:
    """Number of trials of each part of an audit."""

    canaries: int  # trials of the attack on counts by pane
    canaries_of_totals: int  # trials of the attack on running totals, correct and planted
    canaries_of_bug: int  # trials of the attack on each other planted bug
    streams: int  # random streams of the sensitivity check
    draws: int  # draws of noise to compare with its probabilities
    keys: int  # keys of the freshness check


QUICK = Effort(60_000, 20_000, 5_000, streams=40, draws=50_000, keys=500)
THOROUGH = Effort(300_000, 100_000, 20_000, streams=300, draws=500_000, keys=2_000)


@dataclass(frozen=True)
class Audited:
    """Findings about one pipeline."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self.findings)

    @property
    def proved(self) -> float:
        """Privacy loss proved by the attack."""
        return next(finding.measured for finding in self.findings if finding.layer == 3)

    @property
    def failed_layers(self) -> list[int]:
        """Layers with a failed check."""
        return sorted({finding.layer for finding in self.findings if not finding.passed})


@dataclass(frozen=True)
class AuditReport:
    """Result of an audit."""

    cap: int
    epsilon: Fraction
    alpha: float  # largest probability that a correct pipeline fails any of its checks
    effort: Effort
    # pipelines of the product: counts by pane, totals since midnight with both kinds of noise,
    # sums of amounts, and counts with Gaussian noise
    real: tuple[Audited, ...]
    planted: tuple[Audited, ...]  # pipelines with a planted bug

    @property
    def passed(self) -> bool:
        """Whether the pipelines of the product passed every check."""
        return all(pipeline.passed for pipeline in self.real)

    @property
    def trustworthy(self) -> bool:
        """Whether every planted bug was found."""
        return not any(bug.passed for bug in self.planted)

    @property
    def epsilon_lower_bound(self) -> float:
        """Largest privacy loss proved by the attack on the real pipelines."""
        return max(pipeline.proved for pipeline in self.real)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self) | {
            "epsilon": str(self.epsilon),
            "passed": self.passed,
            "trustworthy": self.trustworthy,
            "epsilon_lower_bound": self.epsilon_lower_bound,
            "planted_bugs": len(self.planted),
            "planted_bugs_caught": sum(not bug.passed for bug in self.planted),
        }

    def __str__(self) -> str:
        """Return the report as text of about twenty lines."""
        lines = [
            f"Claimed: epsilon {self.epsilon} for one user and one UTC day, cap {self.cap}.",
            f"A correct pipeline fails with probability {self.alpha:g} at most.",
        ]
        for pipeline in self.real:
            lines += ["", f"{pipeline.name.capitalize()}:"]
            for finding in pipeline.findings:
                verdict = "pass" if finding.passed else "FAIL"
                lines += [
                    f"{verdict}  {finding.layer} {finding.check}: {finding.measured:.4g}"
                    f" (allowed {finding.allowed:.4g})",
                    f"        {finding.detail}",
                ]
        lines += ["", "Planted bugs, which must all fail:"]
        for bug in self.planted:
            verdict = "MISSED" if bug.passed else "found "
            layers = ", ".join(map(str, bug.failed_layers)) or "none"
            lines.append(
                f"{verdict}  {bug.name}: failed in layer {layers}; epsilon proved {bug.proved:.2f}"
            )
        return "\n".join(lines)


def examine(pipeline: Pipeline, effort: Effort, canaries: int, alpha: float = ALPHA) -> Audited:
    """Check one pipeline in all four layers.

    Totals share noise between panes, so the checks for independent cells do not apply to them, and
    the same counter bounds their contributions. A correct pipeline fails with probability `alpha`,
    split over the random checks (Bonferroni).
    """
    share = alpha / _RANDOM_CHECKS

    def findings(directory: Path) -> Iterator[Finding]:
        yield from check_noise(pipeline, effort.draws, share)
        if pipeline.shares_noise:
            yield check_loss(pipeline, canaries, share, directory)
            yield next(check_freshness(pipeline, effort.keys, share, directory))
            return
        yield check_sensitivity(pipeline, effort.streams, seed=effort.streams)
        yield check_loss(pipeline, canaries, share, directory)
        yield from check_freshness(pipeline, effort.keys, share, directory)

    with tempfile.TemporaryDirectory(prefix="tactful-audit-") as directory:
        return Audited(pipeline.name, tuple(findings(Path(directory))))


def audit(
    cap: int = 5,
    epsilon: Exact = 1,  # claimed loss of one user and day; exact
    effort: Effort = QUICK,
    *,
    alpha: float = ALPHA,  # probability that a correct pipeline fails
    # called with the name of each finished pipeline, the real pipelines first
    progress: Callable[[str], None] = lambda name: None,
) -> AuditReport:
    """Audit the installed pipeline of counts, and the audit itself.

    `BoundedCounts`, `Publisher`, `Ledger` and `read_released` run as in service, over synthetic
    users. Other parts of a deployment, such as a log or a dashboard, are not attacked. Sums and
    statistics with Gaussian noise are left out if the cap is too large to publish them. A cap and
    epsilon that no statistic can have raise `ParameterError`.
    """
    claim = fraction(epsilon, "epsilon")
    correct = [Pipeline(cap, claim), TotalsPipeline(cap, claim)]
    for further in (GaussianPipeline, SumsPipeline, GaussianPanesPipeline):
        with suppress(ParameterError):
            pipeline = further(cap, claim)
            pipeline.noise()
            correct.append(pipeline)

    def examined(pipeline: Pipeline, canaries: int) -> Audited:
        if pipeline.shares_noise:
            canaries = effort.canaries_of_totals
        result = examine(pipeline, effort, canaries, alpha / len(correct))
        progress(pipeline.name)
        return result

    # The first is attacked hardest: the others differ from it in one step.
    real = [
        examined(pipeline, effort.canaries_of_totals if number else effort.canaries)
        for number, pipeline in enumerate(correct)
    ]
    planted = [examined(bug, effort.canaries_of_bug) for bug in planted_bugs(cap, claim)]
    return AuditReport(cap, claim, alpha, effort, tuple(real), tuple(planted))
