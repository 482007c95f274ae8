"""Whether nominal 95 % intervals cover the truth in 95 % of simulated experiments."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.figures import Figure
from tactful_bandits.analysis.comparison import Estimate, difference, fixed_horizon_interval
from tactful_bandits.analysis.cuped import Paired, adjusted_difference
from tactful_bandits.analysis.noisy_samples import RatioSums, ReleasedProportion, ReleasedRatio
from tactful_bandits.analysis.samples import Mean, Proportion, Ratio, Sample
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

FIGURES = [("coverage_95_min", "1"), ("coverage_95_max", "1")]

_CONTROL, _TREATMENT = 3000, 1000
_RATE, _LIFT = 0.12, 0.1
_MOST_CLICKS, _MOST_IMPRESSIONS = 5, 8
# What one user may add to each released sum, and the share of epsilon that each is given.
_SENSITIVITIES = (
    1,
    _MOST_CLICKS,
    _MOST_IMPRESSIONS,
    _MOST_CLICKS**2,
    _MOST_IMPRESSIONS**2,
    _MOST_CLICKS * _MOST_IMPRESSIONS,
)
_TENTHS = (1, 3, 2, 1, 1, 2)
Floats = NDArray[np.float64]


def figures(quick: bool) -> list[Figure]:
    """The lowest and the highest coverage over kinds of metrics and amounts of noise."""
    runs = 600 if quick else 4000
    covered = {name: coverage(*case, runs) for name, case in cases().items()}
    lowest, highest = min(covered, key=covered.__getitem__), max(covered, key=covered.__getitem__)
    note = "; ".join(f"{name} {share:.3f}" for name, share in covered.items())
    return [
        Figure("coverage_95_min", covered[lowest], "1", runs=runs, note=f"{lowest}. All: {note}"),
        Figure("coverage_95_max", covered[highest], "1", runs=runs, note=highest),
    ]


Case = tuple[Callable[[np.random.Generator], Estimate], float, int]


def cases() -> dict[str, Case]:
    """How one experiment is simulated and estimated, its true effect, and a seed, by name."""
    made: dict[str, Case] = {
        "proportion": (lambda rng: difference(*_both(rng, _proportion)), _RATE * _LIFT, 1),
        "relative proportion": (
            lambda rng: difference(*_both(rng, _proportion), relative=True),
            _LIFT,
            2,
        ),
        "mean": (lambda rng: difference(*_both(rng, _mean)), 20 * _LIFT, 3),
        "adjusted mean": (_adjusted, 20 * _LIFT, 4),
        "ratio": (lambda rng: difference(*_both(rng, _ratio)), _true_ratio(), 5),
    }
    for number, epsilon in enumerate(("0.2", "1")):
        made[f"released proportion at ε = {epsilon}"] = (
            _released_proportion(epsilon),
            _RATE * _LIFT,
            10 + number,
        )
        made[f"released ratio at ε = {epsilon}"] = (_released_ratio(epsilon), _true_ratio(), 20)
    return made


def coverage(
    experiment: Callable[[np.random.Generator], Estimate], truth: float, seed: int, runs: int
) -> float:
    """Share of the experiments whose interval holds the truth."""
    rng = np.random.default_rng(seed)
    return sum(truth in fixed_horizon_interval(experiment(rng)) for _ in range(runs)) / runs


def _both(
    rng: np.random.Generator, arm: Callable[[np.random.Generator, int, float], Sample]
) -> tuple[Sample, Sample]:
    return arm(rng, _CONTROL, 0.0), arm(rng, _TREATMENT, _LIFT)


def _proportion(rng: np.random.Generator, users: int, lift: float) -> Sample:
    return Proportion(users, int(rng.binomial(users, _RATE * (1 + lift))))


def _mean(rng: np.random.Generator, users: int, lift: float) -> Sample:
    return Mean.from_units(rng.gamma(2, 10, users) * (1 + lift))


def _adjusted(rng: np.random.Generator) -> Estimate:
    def arm(users: int, lift: float) -> Paired:
        wealth = rng.gamma(2, 10, users)
        return Paired.from_units(
            wealth * (1 + lift) + rng.normal(0, 5, users), wealth + rng.normal(0, 5, users)
        )

    return adjusted_difference(arm(_CONTROL, 0.0), arm(_TREATMENT, _LIFT))


def _visits(rng: np.random.Generator, users: int, lift: float) -> tuple[Floats, Floats]:
    """Clicks and impressions of users who differ, both bounded."""
    rate = _RATE * (1 + lift)
    impressions = np.minimum(1 + rng.poisson(3, users), _MOST_IMPRESSIONS)
    clicks = rng.binomial(impressions, rng.beta(rate * 10, (1 - rate) * 10, users))
    return np.minimum(clicks, _MOST_CLICKS).astype(float), impressions.astype(float)


def _ratio(rng: np.random.Generator, users: int, lift: float) -> Sample:
    return Ratio.from_units(*_visits(rng, users, lift))


def _true_ratio() -> float:
    """By summation: the expected bounded clicks over the expected bounded impressions."""
    impressions = np.arange(1, _MOST_IMPRESSIONS + 1)
    law = stats.poisson.pmf(impressions - 1, 3)
    law[-1] += 1 - law.sum()

    def value(rate: float) -> float:
        clicks = [
            stats.betabinom(n, rate * 10, (1 - rate) * 10).expect(lambda k: np.minimum(k, 5))
            for n in impressions
        ]
        return float(law @ clicks / (law @ impressions))

    return value(_RATE * (1 + _LIFT)) - value(_RATE)


def _released_proportion(epsilon: str) -> Callable[[np.random.Generator], Estimate]:
    deviates = _Noise(1, Fraction(epsilon))

    def arm(rng: np.random.Generator, users: int, lift: float) -> Sample:
        clicks = int(rng.binomial(users, _RATE * (1 + lift)))
        return ReleasedProportion(
            clicks + deviates.draw(rng),
            users - clicks + deviates.draw(rng),
            deviates.variance,
            deviates.variance,
        )

    return lambda rng: difference(*_both(rng, arm))


def _released_ratio(epsilon: str) -> Callable[[np.random.Generator], Estimate]:
    laws = [
        _Noise(most, Fraction(epsilon) * tenths / 10)
        for most, tenths in zip(_SENSITIVITIES, _TENTHS, strict=True)
    ]
    noise = RatioSums(*(law.variance for law in laws[1:]))

    def arm(rng: np.random.Generator, users: int, lift: float) -> Sample:
        x, y = _visits(rng, users, lift)
        exact = (users, x.sum(), y.sum(), x @ x, y @ y, x @ y)
        released = [float(total) + law.draw(rng) for total, law in zip(exact, laws, strict=True)]
        return ReleasedRatio(released[0], RatioSums(*released[1:]), noise)

    return lambda rng: difference(*_both(rng, arm))


class _Noise:
    """The product's noise from a seed: its entropy is the generator of whoever draws."""

    def __init__(self, sensitivity: int, epsilon: Fraction) -> None:
        self._rng = np.random.default_rng()
        self._law = DiscreteLaplace(
            sensitivity, epsilon, entropy=lambda count: self._rng.bytes(count)
        )
        self.variance = float(self._law.variance)

    def draw(self, rng: np.random.Generator) -> int:
        self._rng = rng
        return int(self._law.sample(1)[0])
