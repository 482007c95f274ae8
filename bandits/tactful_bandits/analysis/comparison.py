"""Compare two arms of an experiment: the difference, its intervals and p-values.

Each difference has two intervals. The fixed-horizon interval (Welch) is valid for a single look
at a moment chosen beforehand. The confidence sequence is valid at every look, for any stopping
rule, and is wider for it. Both rest on the central limit theorem: below about fifty outcomes of
each kind they cover less than they state.

Only randomised assignments may enter (`tactful_bandits.Assignment.randomised`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_bandits.errors import StatisticsError
from tactful_privacy.lazy_imports import LazyModule

special = LazyModule("scipy.special")

Alternative = Literal["two-sided", "greater", "less"]
"""Alternative hypothesis: a difference, the treatment above, or the treatment below. One-sided
alternatives give one-sided intervals: infinite above for "greater", below for "less"."""

_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point estimate with its standard error.

    Attributes:
        value: The point estimate.
        standard_error: Its standard deviation; 0 where no variation was seen.
        units: Number of units of all arms.
        degrees_of_freedom: Degrees of freedom of Student's t for the fixed horizon.
    """

    value: float
    standard_error: float
    units: int
    degrees_of_freedom: float


@dataclass(frozen=True, slots=True)
class Interval:
    """A range that covers the truth with a stated probability.

    Attributes:
        low: Lower end; minus infinity where the data give no bound.
        high: Upper end; infinity where the data give no bound.
        confidence: Probability of covering, such as 0.95.
        method: Name of the method, for people.
    """

    low: float
    high: float
    confidence: float
    method: str

    def __contains__(self, value: float) -> bool:
        """Return whether a value lies within, ends included."""
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of one metric between a treatment and its control.

    Attributes:
        estimate: The difference, treatment minus control.
        relative: Whether it is a share of the control's value.
        fixed_horizon: Interval for one look planned beforehand.
        anytime: Interval for any number of looks.
        fixed_horizon_p: Welch's two-sided p-value, for one look.
        anytime_p: p-value for any number of looks.
    """

    estimate: Estimate
    relative: bool
    fixed_horizon: Interval
    anytime: Interval
    fixed_horizon_p: float
    anytime_p: float

    @property
    def conclusive(self) -> bool:
        """Whether the confidence sequence excludes no difference."""
        return 0.0 not in self.anytime


def compare(
    control: Sample,
    treatment: Sample,
    *,
    relative: bool = False,
    alpha: float = 0.05,
    tightest_at: float = 5000,
) -> Comparison:
    """Compare two arms on one metric.

    Args:
        control: Outcomes of the control's units.
        treatment: Outcomes of the treatment's units; no unit is in both arms.
        relative: Express the difference as a share of the control's value.
        alpha: Probability of missing the truth, in (0, 0.5].
        tightest_at: Number of units of both arms at which the confidence sequence is narrowest;
            choose it before looking at data.

    Raises:
        StatisticsError: `alpha` or `tightest_at` is out of range, or a relative difference is
            requested and the control's value is 0.
    """
    estimate = difference(control, treatment, relative=relative)
    return conclude(estimate, relative=relative, alpha=alpha, tightest_at=tightest_at)


def conclude(
    estimate: Estimate, *, relative: bool = False, alpha: float = 0.05, tightest_at: float = 5000
) -> Comparison:
    """Compute intervals and p-values of a difference from any estimator, as `compare`."""
    return Comparison(
        estimate,
        relative,
        fixed_horizon_interval(estimate, alpha=alpha),
        confidence_sequence(estimate, alpha=alpha, tightest_at=tightest_at),
        fixed_horizon_p_value(estimate),
        anytime_p_value(estimate, alpha=alpha, tightest_at=tightest_at),
    )


def level(sample: Sample) -> Estimate:
    """Estimate the value of one arm by itself."""
    error = math.sqrt(sample.variance / sample.units)
    return Estimate(sample.value, error, sample.units, sample.degrees_of_freedom)


def difference(control: Sample, treatment: Sample, *, relative: bool = False) -> Estimate:
    """Estimate treatment minus control, absolute or as a share of the control's value.

    The relative difference ``(t - c) / |c|`` has, by the delta method, the variance
    ``Var t / c² + Var c · t² / c⁴``. Degrees of freedom are those of Welch and Satterthwaite for
    the absolute difference.

    Source: Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34 (1947).

    Raises:
        StatisticsError: A relative difference is requested and the control's value is 0.
    """
    c, t = control.value, treatment.value
    var_c, var_t = control.variance / control.units, treatment.variance / treatment.units
    freedom = welch_freedom(var_c, control.degrees_of_freedom, var_t, treatment.degrees_of_freedom)
    units = control.units + treatment.units
    if not relative:
        return Estimate(t - c, math.sqrt(var_c + var_t), units, freedom)
    if c == 0:
        raise StatisticsError("no relative difference from a control of 0; ask for an absolute one")
    error = math.sqrt(var_t / c**2 + var_c * t**2 / c**4)
    return Estimate((t - c) / abs(c), error, units, freedom)


def fixed_horizon_interval(
    estimate: Estimate, *, alpha: float = 0.05, alternative: Alternative = "two-sided"
) -> Interval:
    """Compute the interval with coverage ``1 - alpha`` at one planned look.

    The interval is the whole line where no variation was seen: the error is then unknown.

    Raises:
        StatisticsError: `alpha` is out of range, or there is no such alternative.
    """
    require_alpha(alpha)
    tail = alpha / 2 if _is_two_sided(alternative) else alpha
    half = float(special.stdtrit(estimate.degrees_of_freedom, 1 - tail)) * estimate.standard_error
    return _around(estimate, half, alpha, alternative, "Welch, one planned look")


def fixed_horizon_p_value(estimate: Estimate, *, alternative: Alternative = "two-sided") -> float:
    """Compute Student's p-value, two- or one-sided, for one planned look.

    Raises:
        StatisticsError: There is no such alternative.
    """
    two_sided = _is_two_sided(alternative)
    if estimate.standard_error == 0:
        return 1.0
    t = _towards(estimate, alternative)
    return float((2 if two_sided else 1) * special.stdtr(estimate.degrees_of_freedom, -t))


def confidence_sequence(
    estimate: Estimate,
    *,
    alpha: float = 0.05,
    tightest_at: float = 5000,
    alternative: Alternative = "two-sided",
) -> Interval:
    """Compute the interval with asymptotic coverage ``1 - alpha`` at all looks.

    With ``t`` units, ``s² = t · standard_error²`` and ``ρ`` tuned for `tightest_at` units, half
    the width is ``s · sqrt(2 (t ρ² + 1) / (t ρ)² · log(sqrt(t ρ² + 1) / alpha))``. One-sided, ``ρ``
    is tuned for ``2 alpha`` and the logarithm is ``log(1 + sqrt(t ρ² + 1) / (2 alpha))``.

    The theorem holds for units that arrive one after another, each complete when it is counted. It
    does not cover users who come back and add outcomes; simulated A/A tests of that kind stay below
    `alpha` (`tests/bandits/analysis/test_comparison.py`).

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences", arXiv 2103.06476v7, equation 9, one-sided 134; ρ by 161.

    Raises:
        StatisticsError: `alpha` or `tightest_at` is out of range, or there is no such alternative.
    """
    growth = estimate.units * _mixture_variance(alpha, tightest_at, alternative)
    if _is_two_sided(alternative):
        log_term = 0.5 * math.log1p(growth) - math.log(alpha)
    else:
        log_term = math.log1p(math.sqrt(growth + 1) / (2 * alpha))
    half = math.sqrt(2 * (growth + 1) / growth * log_term) * estimate.standard_error
    return _around(estimate, half, alpha, alternative, "asymptotic confidence sequence, any look")


def anytime_p_value(
    estimate: Estimate,
    *,
    alpha: float = 0.05,
    tightest_at: float = 5000,
    alternative: Alternative = "two-sided",
) -> float:
    """Test that the truth is 0, at any number of looks, asymptotically.

    It is below `alpha` exactly when `confidence_sequence` of the same tuning excludes 0.

    Source: arXiv 2103.06476v7, equation 155; one-sided, equation 134 solved for ``alpha``.

    Raises:
        StatisticsError: `alpha` or `tightest_at` is out of range, or there is no such alternative.
    """
    growth = estimate.units * _mixture_variance(alpha, tightest_at, alternative)
    if estimate.standard_error == 0:
        return 1.0
    z = _towards(estimate, alternative)
    exponent = z**2 * growth / (2 * (growth + 1))  # 0 also where z is so small that z² is
    if _is_two_sided(alternative):
        return math.exp(-max(exponent - 0.5 * math.log1p(growth), 0.0))
    if z <= 0 or exponent == 0:
        return 1.0
    # exp(-x) / -expm1(-x) is 1 / expm1(x) without its overflow.
    return min(1.0, math.sqrt(growth + 1) / 2 * math.exp(-exponent) / -math.expm1(-exponent))


def proportion_sequence(
    sample: Proportion, *, alpha: float = 0.05, prior: tuple[float, float] = (0.5, 0.5)
) -> Interval:
    """Compute an interval of one arm's share that is valid at all looks, exactly.

    `confidence_sequence` rests on the central limit theorem and needs about fifty outcomes. This
    one assumes only that all units have the same probability of yes, so it holds from the first
    unit on, also for one error in a thousand requests. It is wider.

    For any share ``p`` the mixture ``B(a + s, b + f) / B(a, b) / (p^s (1 - p)^f)`` of ``s``
    successes and ``f`` failures is a martingale that starts at 1 if ``p`` is true; by Ville's
    inequality it ever reaches ``1 / alpha`` with probability at most `alpha`. The interval holds
    every ``p`` whose martingale is below ``1 / alpha``.

    Args:
        sample: All units so far.
        alpha: Probability of ever missing the truth, in (0, 1).
        prior: ``a`` and ``b``, above 0; choose them before looking at data. The interval is
            narrowest near ``a / (a + b)``.

    Raises:
        StatisticsError: `alpha` or `prior` is out of range.

    Source: Robbins, "Statistical Methods Related to the Law of the Iterated Logarithm", Ann. Math.
    Statist. 41 (1970); Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric,
    nonasymptotic confidence sequences", Ann. Statist. 49 (2021), arXiv 1810.08240.
    """
    if not 0 < alpha < 1:
        raise StatisticsError(f"alpha must lie between 0 and 1, not {alpha}")
    a, b = prior
    if not (0 < a < math.inf and 0 < b < math.inf):
        raise StatisticsError(f"the prior must be two numbers above 0, not {prior}")
    s, f = sample.successes, sample.units - sample.successes
    threshold = -math.log(alpha)
    mixture = float(special.betaln(a + s, b + f) - special.betaln(a, b))

    def excluded(p: float) -> bool:
        if (p == 0 and s) or (p == 1 and f):
            return True  # impossible after these outcomes
        likelihood = (s * math.log(p) if s else 0.0) + (f * math.log1p(-p) if f else 0.0)
        return mixture - likelihood >= threshold

    best = s / sample.units
    low, high = _edge(excluded, 0.0, best), _edge(excluded, 1.0, best)
    return Interval(low, high, 1 - alpha, "beta-binomial mixture, exact, any look")


def _mixture_variance(alpha: float, tightest_at: float, alternative: Alternative) -> float:
    require_alpha(alpha)
    if not 0 < tightest_at < math.inf:
        raise StatisticsError(f"tightest_at must be a number of units above 0, not {tightest_at}")
    # A one-sided alpha of 0.5 would give log(1) = 0; any tuning is valid, and this one is finite.
    log_term = -2 * math.log(alpha if _is_two_sided(alternative) else min(2 * alpha, 0.9999))
    return (log_term + math.log1p(log_term)) / tightest_at


def _is_two_sided(alternative: Alternative) -> bool:
    if alternative not in get_args(Alternative):
        expected = ", ".join(get_args(Alternative))
        raise StatisticsError(f"alternative must be one of {expected}, not {alternative!r}")
    return alternative == "two-sided"


def _towards(estimate: Estimate, alternative: Alternative) -> float:
    """Return the estimate in standard errors, positive towards the alternative."""
    z = estimate.value / estimate.standard_error
    return {"two-sided": abs(z), "greater": z, "less": -z}[alternative]


def _around(
    estimate: Estimate, half: float, alpha: float, alternative: Alternative, method: str
) -> Interval:
    if estimate.standard_error == 0:
        half = math.inf
    low = -math.inf if alternative == "less" else estimate.value - half
    high = math.inf if alternative == "greater" else estimate.value + half
    return Interval(low, high, 1 - alpha, method)


def welch_freedom(var_a: float, freedom_a: float, var_b: float, freedom_b: float) -> float:
    """Compute the degrees of freedom of a difference by Welch and Satterthwaite.

    The variances are squared standard errors of the two values.
    """
    if var_a + var_b == 0:
        return freedom_a + freedom_b
    return (var_a + var_b) ** 2 / (var_a**2 / freedom_a + var_b**2 / freedom_b)


def require_alpha(alpha: float) -> None:
    """Raise `StatisticsError` unless alpha is above 0 and at most 0.5."""
    if not 0 < alpha <= 0.5:
        raise StatisticsError(f"alpha must be above 0 and at most 0.5, not {alpha}")


def _edge(excluded: Callable[[float], bool], outside: float, inside: float) -> float:
    """Bisect between `inside` and `outside` for the end of a set; round outwards."""
    if not excluded(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = (outside + inside) / 2
        if excluded(middle):
            outside = middle
        else:
            inside = middle
    return outside
