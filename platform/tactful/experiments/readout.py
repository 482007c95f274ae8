"""Compare the arms of an experiment by the outcomes of their users."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.experiments.metrics import METRICS
from tactful.experiments.tally import ArmOutcomes, PersonOutcome
from tactful_bandits.analysis.comparison import Comparison, compare
from tactful_bandits.analysis.multiplicity import holm
from tactful_bandits.analysis.sample_ratio import SampleRatio, check_sample_ratio
from tactful_bandits.analysis.samples import Proportion, Ratio, Sample
from tactful_bandits.analysis.skewed_means import SkewedMean, common_cap, compare_skewed
from tactful_bandits.assignment.assign import Experiment


@dataclass(frozen=True)
class ReadOut:
    """Result of an experiment."""

    control: str  # name of the arm that the others are compared with
    sample_ratio: SampleRatio | None  # check of the arms' sizes; None without users
    # By arm and metric (`METRICS`), where both arms have two users
    comparisons: Mapping[tuple[str, str], Comparison]
    # Holm's p-values of the comparisons, for any number of looks
    adjusted_p: Mapping[tuple[str, str], float]
    crossed: float  # share of the users who were left out because they saw several arms
    alpha: float  # probability that any verdict reports a difference that does not exist
    # Amount that counts for a user who spent more, in all arms; None if nobody spent anything
    cap: float | None

    def verdict(self, arm: str, metric: str) -> str:
        """Return `higher`, `lower` or `inconclusive`, over all comparisons (Holm)."""
        if self.adjusted_p[arm, metric] >= self.alpha:
            return "inconclusive"
        return "higher" if self.comparisons[arm, metric].estimate.value > 0 else "lower"


def read_out(outcomes: ArmOutcomes, experiment: Experiment, *, alpha: float = 0.05) -> ReadOut:
    """Compare every arm with the control, valid at any number of looks.

    Revenue is compared after amounts above the 90 % quantile of all buyers are set to it.

    `experiment` is the assignment while the recommendations were served. `alpha` is the probability
    that an interval ever misses the truth, each by itself, and that any verdict reports a
    difference that does not exist, all together.
    """
    shares = {name: share for name, share in experiment.shares.items() if share > 0}
    people = {name: len(outcomes.arms.get(name, {})) for name in shares}
    seen = sum(people.values())
    ratio = (
        check_sample_ratio(list(people.values()), list(shares.values()))
        if seen and len(shares) > 1
        else None
    )
    control = experiment.control.name
    arms = {name: samples(outcomes.arms.get(name, {})) for name in people}
    spent = [arm["revenue"] for arm in arms.values() if "revenue" in arm]
    cap = revenue_cap(*(sample for sample in spent if isinstance(sample, SkewedMean)))
    comparisons = {
        (name, metric): _compare(arms[control][metric], arms[name][metric], cap, alpha)
        for name in people
        for metric in METRICS
        if name != control and comparable(metric, arms.get(control, {}), arms[name])
    }
    adjusted = holm([compared.anytime_p for compared in comparisons.values()])
    total = seen + outcomes.crossed
    return ReadOut(
        control,
        ratio,
        comparisons,
        dict(zip(comparisons, adjusted, strict=True)),
        outcomes.crossed / total if total else 0.0,
        alpha,
        cap,
    )


def revenue_cap(*arms: SkewedMean) -> float | None:
    """Compute the cap of revenue, to two digits: it is shown, and may be what one user spent.

    None if nobody spent anything.
    """
    spent = [arm for arm in arms if arm.total > 0]
    return float(f"{common_cap(*spent):.2g}") if spent else None


def _compare(control: Sample, treatment: Sample, cap: float | None, alpha: float) -> Comparison:
    if isinstance(control, SkewedMean) and isinstance(treatment, SkewedMean):
        return compare_skewed(control, treatment, cap=cap, alpha=alpha)
    return compare(control, treatment, alpha=alpha)


def to_response(result: ReadOut) -> dict[str, Any]:
    """Return a read-out for JSON: differences and intervals, no number of users."""
    return {
        "control": result.control,
        "sample_ratio_mismatch": result.sample_ratio and result.sample_ratio.mismatch,
        "crossed_share": round(result.crossed, 3),
        "comparisons": [
            {
                "arm": arm,
                "metric": metric,
                "difference": compared.estimate.value,
                "low": compared.anytime.low if np.isfinite(compared.anytime.low) else None,
                "high": compared.anytime.high if np.isfinite(compared.anytime.high) else None,
                "adjusted_p": result.adjusted_p[arm, metric],
                "verdict": result.verdict(arm, metric),
                **({"cap": result.cap} if metric == "revenue" else {}),
            }
            for (arm, metric), compared in result.comparisons.items()
        ],
    }


def samples(people: Mapping[str, PersonOutcome]) -> dict[str, Sample]:
    """Return the outcomes of one arm by metric; metrics with fewer than two users are left out."""
    return column_samples(np.array(list(people.values()), np.float64))


def column_samples(people: NDArray[np.float64]) -> dict[str, Sample]:
    """Return the outcomes of `samples` from rows of `PersonOutcome`, ``[users, 7]``."""
    if len(people) < 2:
        return {}
    columns = people.T
    shown, took, revenue, latency, timed, failed, flat = columns
    metrics: dict[str, Sample] = {
        "taken_lists": Ratio.from_units(took, shown),
        "errors": Proportion(len(people), int((failed > 0).sum())),
        "anomalies": Proportion(len(people), int((flat > 0).sum())),
        "takers": Proportion(len(people), int((took > 0).sum())),
        "revenue": SkewedMean.from_units(revenue),
    }
    if np.count_nonzero(timed) >= 2:
        metrics["latency"] = Ratio.from_units(latency[timed > 0], timed[timed > 0])
    return metrics


def comparable(metric: str, *arms: Mapping[str, Sample]) -> bool:
    """Return whether all arms have a metric, and not all its values are equal."""
    if not all(metric in arm for arm in arms):
        return False
    return any(arm[metric].variance > 0 for arm in arms)
