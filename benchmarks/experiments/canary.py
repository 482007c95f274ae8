"""How often a canary is rolled back without cause, and how soon with one.

One user in ten is in the canary, 500 new users arrive between looks, and there are 120 looks. Each
look asks the guardrail the product asks, of clickers and others so far. With privacy, both counts
of every arm are released at every look with fresh discrete Laplace noise: a user stands in one cell
of one look, so each release spends the whole epsilon.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.figures import Figure
from tactful_bandits.analysis.noisy_samples import ReleasedProportion
from tactful_bandits.analysis.sample_ratio import check_sample_ratio
from tactful_bandits.analysis.samples import Proportion, Sample
from tactful_bandits.rollouts.guardrails import Guardrail, check_guardrails
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

LOOKS = 120
_NEW_CONTROL, _NEW_CANARY = 450, 50
_GUARDRAIL = Guardrail("click_rate")

FIGURES = [
    ("aa_false_rollback_rate_ctr12", "1"),
    ("aa_false_rollback_rate_ctr3", "1"),
    ("drop20_detected_share", "1"),
    ("drop20_median_users", "users"),
    ("drop20_detected_share_eps1", "1"),
    ("drop20_median_users_eps1", "users"),
    ("aa_false_rollback_rate_eps1", "1"),
    ("srm_false_alarm_rate", "1"),
    ("srm_power_vs_chi_square", "1"),
]


@dataclass(frozen=True)
class Runs:
    """Users in the canary when each of many was rolled back; None where it never was."""

    users: list[int | None]

    @property
    def rolled_back(self) -> list[int]:
        """Users of those that were."""
        return [users for users in self.users if users is not None]

    @property
    def share(self) -> float:
        """How many of all were."""
        return len(self.rolled_back) / len(self.users)

    def share_figure(self, name: str, note: str) -> Figure:
        """The share with its exact 95 % interval."""
        low, high = exact_interval(len(self.rolled_back), len(self.users))
        return Figure(name, self.share, "1", low, high, len(self.users), note)

    def users_figure(self, name: str, note: str) -> Figure:
        """The median with the quartiles."""
        if not self.rolled_back:
            return Figure(name, None, "users", note="no canary was rolled back")
        low, middle, high = np.quantile(self.rolled_back, [0.25, 0.5, 0.75])
        return Figure(
            name, float(middle), "users", float(low), float(high), len(self.rolled_back), note
        )


def figures(quick: bool) -> list[Figure]:
    """Everything about the canary rule and the sample ratio."""
    runs = 400 if quick else 4000
    harmless = [simulate(runs, rate, 0.0, seed=seed) for seed, rate in ((1, 0.12), (2, 0.03))]
    dropped = simulate(runs, 0.12, -0.2, seed=3)
    private = simulate(runs, 0.12, -0.2, seed=4, epsilon=1)
    private_harmless = simulate(runs, 0.12, 0.0, seed=5, epsilon=1)
    shape = f"{LOOKS} looks, 10 % canary, one-sided 5 % over all looks; interval exact 95 %"
    quartiles = "low and high are the quartiles of the runs"
    return [
        harmless[0].share_figure("aa_false_rollback_rate_ctr12", shape),
        harmless[1].share_figure("aa_false_rollback_rate_ctr3", shape),
        dropped.share_figure("drop20_detected_share", "true drop of 20 % at a click rate of 12 %"),
        dropped.users_figure("drop20_median_users", quartiles),
        private.share_figure("drop20_detected_share_eps1", "within the 6,000 canary users seen"),
        private.users_figure("drop20_median_users_eps1", quartiles),
        private_harmless.share_figure("aa_false_rollback_rate_eps1", shape),
        *_sample_ratio(runs),
    ]


def simulate(runs: int, rate: float, lift: float, *, seed: int, epsilon: int | None = None) -> Runs:
    """Try many canaries.

    Args:
        runs: How many.
        rate: Share of the control's users that click.
        lift: True relative change of it in the canary.
        seed: Of everything random.
        epsilon: Privacy loss of each released cell; None reads exact counts.
    """
    rng = np.random.default_rng(seed)
    noise = None if epsilon is None else DiscreteLaplace(1, epsilon, entropy=rng.bytes)
    users: list[int | None] = []
    for _ in range(runs):
        control = np.cumsum(rng.binomial(_NEW_CONTROL, rate, LOOKS))
        canary = np.cumsum(rng.binomial(_NEW_CANARY, rate * (1 + lift), LOOKS))
        if noise is None:
            added, variance = None, 0.0
        else:
            added = np.cumsum(noise.sample(4 * LOOKS).reshape(4, LOOKS), axis=1)
            variance = float(noise.variance)
        users.append(_rolled_back_at(control, canary, added, variance))
    return Runs(users)


def _rolled_back_at(control: Any, canary: Any, added: Any, variance: float) -> int | None:
    for look in range(LOOKS):
        pair = tuple(
            _arm(
                new * (look + 1),
                int(clicks[look]),
                None if added is None else added[2 * arm : 2 * arm + 2, look],
                variance * (look + 1),
            )
            for arm, (new, clicks) in enumerate(((_NEW_CONTROL, control), (_NEW_CANARY, canary)))
        )
        samples = {"click_rate": (pair[0], pair[1])}
        (judged,) = check_guardrails([_GUARDRAIL], samples, last_look=look == LOOKS - 1)
        if judged.rolls_back:
            return _NEW_CANARY * (look + 1)
    return None


def _arm(users: int, clicks: int, added: Any, variance: float) -> Sample:
    if added is None:
        return Proportion(users, clicks)
    return ReleasedProportion(
        clicks + int(added[0]), users - clicks + int(added[1]), variance, variance
    )


def _sample_ratio(runs: int) -> list[Figure]:
    rng = np.random.default_rng(6)
    shares = [0.9, 0.1]

    def alarms(true_share: float) -> tuple[int, int]:
        """Runs in which the e-value at 5 %, and chi-square at p < .001, ever raise the alarm."""
        by_e_value = by_chi_square = 0
        for _ in range(runs):
            canary = np.cumsum(rng.binomial(500, true_share, LOOKS))
            e_value = chi_square = False
            for look, count in enumerate(canary, start=1):
                got = check_sample_ratio([500 * look - int(count), int(count)], shares, alpha=0.05)
                e_value |= got.mismatch
                chi_square |= got.fixed_horizon_p < 0.001
            by_e_value += e_value
            by_chi_square += chi_square
        return by_e_value, by_chi_square

    false, _ = alarms(0.1)
    found, found_by_chi_square = alarms(0.105)
    low, high = exact_interval(false, runs)
    note = f"{LOOKS} looks, 10 % expected; e-value at 5 %"
    power = f"true share 10.5 %: e-value {found / runs:.3f}, chi-square p < .001 at every look "
    return [
        Figure("srm_false_alarm_rate", false / runs, "1", low, high, runs, note),
        Figure(
            "srm_power_vs_chi_square",
            found / found_by_chi_square,
            "1",
            runs=runs,
            note=power + f"{found_by_chi_square / runs:.3f}",
        ),
    ]


def exact_interval(count: int, runs: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a share."""
    interval = stats.binomtest(count, runs).proportion_ci(0.95)
    return float(interval.low), float(interval.high)
