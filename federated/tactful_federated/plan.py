"""What a private training run will cost and lose, fixed before its first round.

The unit of privacy is one device and the whole run; neighbouring data sets differ in that one
device's updates are zero ("zero-out"). No amplification by sampling is claimed, since a server
cannot draw phones at random: instead it is bounded how often and how closely a device takes part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from tactful_federated.correlated_noise import BandedRoot, noise_scale
from tactful_federated.errors import SettingsError, missing_extra, require
from tactful_federated.fixed_point import FixedPoint
from tactful_privacy import WideGaussian

UNIT: Final = "one device, the whole run (add or remove its updates: zero-out)"

_MOST_UNITS = 1 << 20
_FIELD = 1 << 32
# What the tables' error may take of delta; beyond it so many bands are refused.
_TABLE_SHARE = 0.25


@dataclass(frozen=True)
class Wishes:
    """What a run is wished to be.

    Attributes:
        epsilon: Privacy loss of one device over the whole run, above 0.
        delta: That goes with it, in (0, 1); below one in the population.
        population: Devices that can ever take part.
        rounds: Releases, 1 or more.
        report_goal: Updates of a round, and its denominator.
        over_selection: Devices asked are this many times the goal, 1 or more.
        minimum_reports: Fewest updates a round is released with; 0 stands for two thirds of the
            goal.
        availability: Share of the devices that may take part that can be reached at a time.
        update_norm: Bound on the Euclidean norm of an update.
        parameters: Of the model.
        most_bands: Bands of noise to keep at most; each costs 16 bytes a parameter.
        spare: Participations of a device that void rounds may take, 0 or more. A device cannot know
            that a round was void: its own ledger counts each, and so does the noise.
    """

    epsilon: float
    delta: float
    population: int
    rounds: int
    report_goal: int
    over_selection: float = 1.3
    minimum_reports: int = 0
    availability: float = 0.5
    update_norm: float = 2.0
    parameters: int = 20_000
    most_bands: int = 64
    spare: int = 0

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a wish outside its range."""
        require(0 < self.epsilon <= 40, f"epsilon is {self.epsilon}: give (0, 40]")
        require(0 < self.delta < 1, f"delta is {self.delta}: give a number between 0 and 1")
        require(
            self.delta * self.population < 1,
            f"delta {self.delta:g} of {self.population} devices allows to give one away entirely:"
            " give one well below 1 / population",
        )
        for name in ("rounds", "report_goal", "parameters", "most_bands"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}: give 1 or more")
        require(self.spare >= 0, f"spare is {self.spare}: give 0 or more")
        require(self.over_selection >= 1, "over_selection must be at least 1")
        require(0 < self.availability <= 1, "availability must lie in (0, 1]")
        require(
            0 <= self.minimum_reports <= self.report_goal,
            f"minimum_reports is {self.minimum_reports}: give at most the report goal",
        )


@dataclass(frozen=True)
class TrainingPlan:
    """How a run is carried out; all of it is public.

    Attributes:
        epsilon: Promised, at `delta`, for the whole run.
        delta: The tables' error included.
        rho: The same run as zCDP, but for the tables' error: 1 / (2 noise_multiplier^2).
        noise_multiplier: z: standard deviation of Z over the sensitivity of C G.
        participations: Releases that one device takes part in, at most (k).
        separation: Releases from one participation of a device to its next, at least.
        bands: Of C; at most `separation`.
        rounds: Releases, at most.
        cohort: Devices asked in a round.
        report_goal: Updates of a round, and its denominator.
        minimum_reports: With fewer updates nothing is released.
        update_norm: Bound on the Euclidean norm of an update.
        units: That bound on the integer grid.
        parameters: Of the model.
        sigma_squared: Variance of Z, a whole number; 0 if the server adds none.
        step_noise: Standard deviation of one coordinate of a round's average.
        model_noise: Root mean square over the rounds of one coordinate of the sum of all averages
            so far: the noise that a model trained with plain averaging carries.
        independent_model_noise: The same with independent noise for the same promise.
        device_sigma_squared: Variance of what each device adds to its update on the grid; 0 where
            the server adds the noise.
        unit: What the promise is for.
    """

    epsilon: float
    delta: float
    rho: float
    noise_multiplier: float
    participations: int
    separation: int
    bands: int
    rounds: int
    cohort: int
    report_goal: int
    minimum_reports: int
    update_norm: float
    units: int
    parameters: int
    sigma_squared: int
    step_noise: float
    model_noise: float
    independent_model_noise: float
    device_sigma_squared: int = 0
    unit: str = UNIT

    @property
    def grid(self) -> FixedPoint:
        """How updates become integers."""
        return FixedPoint(self.update_norm, self.units)

    @property
    def root(self) -> BandedRoot:
        """C."""
        return BandedRoot(self.bands)

    def expected_loss(self, curvature: float) -> float:
        """How much higher the model's mean loss is for the noise, in nats.

        To second order, ``parameters * curvature * model_noise^2 / 2`` (with a curvature measured
        near a minimum, where the first order vanishes). Training corrects part of the noise, so
        this is pessimistic; where it is not small it is no longer a good approximation.

        Args:
            curvature: Mean of the diagonal of the loss's Hessian, nats; `mean_curvature` measures
                it.
        """
        return self.parameters * curvature * self.model_noise**2 / 2


def plan_training(wishes: Wishes) -> TrainingPlan:
    """Find the bounds on participation, the bands and the noise for what is wished.

    Separation is as large as leaves enough devices to ask, participations follow from it, and
    among the bands that it allows those with the least noise in the prefix sums are taken. The
    noise multiplier is that of the Gaussian mechanism at (epsilon, delta), exactly (Balle, Wang,
    ICML 2018; by dp-accounting), delta less what the noise's tables take of it: a whole run is one
    such mechanism.

    Raises:
        SettingsError: The population is too small for the cohort, or what is wished cannot be had.
        MissingExtraError: dp-accounting is not installed.
    """
    return _planned(wishes, draws=1)


def _planned(wishes: Wishes, *, draws: int) -> TrainingPlan:
    """Plan a run whose noise is the sum of so many draws for each cell."""
    cohort = math.ceil(wishes.report_goal * wishes.over_selection)
    pool = math.ceil(cohort / wishes.availability)
    if wishes.population < pool:
        raise SettingsError(
            f"a round asks {cohort} devices, of whom {wishes.availability:g} can be reached: that"
            f" takes {pool}, and there are {wishes.population}; lower the report goal"
        )
    separation = min(wishes.rounds, (wishes.population - pool) // cohort + 1)
    participations = math.ceil(wishes.rounds / separation) + wishes.spare
    units = min(_MOST_UNITS, (_FIELD // 2 - 1) // cohort)
    if units < 1:
        raise SettingsError(f"{cohort} devices do not fit a sum modulo 2^32: lower the report goal")
    plans: list[TrainingPlan] = []
    refusal: SettingsError | None = None
    for bands in _bands(min(separation, wishes.most_bands)):
        try:
            plan = _noised(wishes, cohort, participations, separation, bands, units, draws)
            plans.append(plan)
        except SettingsError as error:
            refusal = error
    if not plans and refusal:
        raise refusal
    return min(plans, key=lambda plan: plan.model_noise)


def plan_noise_in_sum(wishes: Wishes) -> TrainingPlan:
    """Plan a run in which devices add the noise, for a server that is not trusted with a sum.

    Each adds discrete Gaussian noise before its update enters a secure sum, as much as makes up the
    whole once `minimum_reports` of them reported (Kairouz, Liu, Steinke, "The distributed discrete
    Gaussian mechanism", ICML 2021; the series argument of `WideGaussian` bounds how far the sum
    of such noises is from one). Each draw of theirs adds the error of its tables, and delta pays
    for all. No server can take back noise that it does not know, so it is independent in each round
    and costs the square root of the participations more.

    Assumed: `minimum_reports` of the devices in each sum add their noise. Where some may not, wish
    for a lower `minimum_reports` than is collected, and the rest may be anything.

    Raises:
        SettingsError: As `plan_training`.
        MissingExtraError: dp-accounting is not installed.
    """
    plan = _planned(replace(wishes, most_bands=1), draws=_fewest(wishes))
    # Room for ten standard deviations of the sum's noise beside the updates themselves.
    beside = 10 * plan.noise_multiplier * math.sqrt(plan.participations)
    reach = plan.cohort * (1 + beside / plan.minimum_reports) + beside
    units = min(plan.units, int((_FIELD // 2 - 1) / reach))
    require(units >= 1, "so much noise does not fit a sum modulo 2^32: lower the report goal")
    needed = Fraction(plan.noise_multiplier) ** 2 * plan.participations * units**2 + 16
    share = math.ceil(needed / plan.minimum_reports) + 16
    average = plan.update_norm / units / plan.report_goal
    step = math.sqrt(share * plan.report_goal) * average
    noise = step * _root_mean_square(plan.root, plan.rounds)
    return replace(
        plan,
        units=units,
        sigma_squared=0,
        device_sigma_squared=share,
        step_noise=step,
        model_noise=noise,
        independent_model_noise=noise,
    )


def without_noise(plan: TrainingPlan) -> TrainingPlan:
    """The same run without noise and without any promise, to measure what the noise costs."""
    return replace(
        plan,
        epsilon=math.inf,
        delta=1.0,
        rho=math.inf,
        noise_multiplier=0.0,
        sigma_squared=0,
        device_sigma_squared=0,
        step_noise=0.0,
        model_noise=0.0,
    )


def _bands(most: int) -> list[int]:
    powers = [1 << i for i in range(most.bit_length())]
    return sorted({*powers, most})


def _noised(
    wishes: Wishes,
    cohort: int,
    participations: int,
    separation: int,
    bands: int,
    units: int,
    draws: int,
) -> TrainingPlan:
    root = BandedRoot(bands)
    sensitivity_squared = root.sensitivity_squared(participations, units)
    cells = draws * participations * bands * wishes.parameters
    # The tables' error hardly depends on the width, so that of a rough guess serves to subtract.
    guess = WideGaussian(Fraction(sensitivity_squared) * 4 + 64)
    spent = float(guess.error) * 1.5 * cells * (1 + math.exp(wishes.epsilon))
    if spent > wishes.delta * _TABLE_SHARE:
        raise SettingsError(
            f"the noise's tables alone take delta to {spent:.1e}, too much of {wishes.delta:g}:"
            " allow a larger delta, a smaller epsilon, fewer bands or fewer parameters"
            + (", or fewer minimum_reports" if draws > 1 else "")
        )
    z = _noise_multiplier(wishes.epsilon, wishes.delta - spent)
    sigma_squared = math.ceil(sensitivity_squared * Fraction(z) ** 2) + 16
    average = wishes.update_norm / units / wishes.report_goal
    step = noise_scale(root, sigma_squared) * average
    independent = BandedRoot(1)
    alone = z * math.sqrt(independent.sensitivity_squared(participations, units))
    return TrainingPlan(
        epsilon=wishes.epsilon,
        delta=wishes.delta,
        rho=1 / (2 * z * z),
        noise_multiplier=z,
        participations=participations,
        separation=separation,
        bands=bands,
        rounds=wishes.rounds,
        cohort=cohort,
        report_goal=wishes.report_goal,
        minimum_reports=_fewest(wishes),
        update_norm=wishes.update_norm,
        units=units,
        parameters=wishes.parameters,
        sigma_squared=sigma_squared,
        step_noise=step,
        model_noise=step * _root_mean_square(root, wishes.rounds),
        independent_model_noise=noise_scale(independent, alone**2)
        * average
        * _root_mean_square(independent, wishes.rounds),
    )


def _fewest(wishes: Wishes) -> int:
    return wishes.minimum_reports or max(1, wishes.report_goal * 2 // 3)


def _root_mean_square(root: BandedRoot, rounds: int) -> float:
    errors = root.prefix_errors(rounds)
    return math.sqrt(float((errors**2).mean()))


def _noise_multiplier(epsilon: float, delta: float) -> float:
    try:
        import dp_accounting
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    # Its root is found to a tolerance; the next millionth is on the safe side of it.
    z = float(dp_accounting.get_sigma_gaussian(epsilon, delta)) * (1 + 1e-6)
    if dp_accounting.get_epsilon_gaussian(z, delta) > epsilon:
        raise SettingsError(f"no noise was found for epsilon {epsilon} at delta {delta:g}")
    return z
