"""Plans of private training: bounds on participation, noise and expected loss.

A plan is fixed before the first round. The unit of privacy is one device over the whole run;
neighbouring data sets differ in that all updates of one device are zero ("zero-out"). No
amplification by sampling is claimed, since a server cannot sample phones at random: instead the
number of participations of a device and the distance between them are bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import msgspec

from tactful_federated.core.correlated_noise import BandedRoot, noise_scale
from tactful_federated.core.graph import require_sparse, sparse_graph
from tactful_federated.core.groups import Groups, group_cohort
from tactful_federated.errors import SettingsError, extra, require
from tactful_federated.model.vectors import FixedPoint
from tactful_privacy.mechanisms.gaussian import WideGaussian

UNIT: Final = "one device, the whole run (add or remove its updates: zero-out)"

_MAX_UNITS = 1 << 20
_FIELD = 1 << 32
# Largest share of delta for the error of the noise tables.
_TABLE_SHARE = 0.25


@dataclass(frozen=True)
class Wishes:
    """Requirements of a run, from which a plan is computed.

    Attributes:
        epsilon: Privacy loss of one device over the whole run, in (0, 40].
        delta: Delta of that loss, in (0, 1); below 1 / population.
        population: Number of devices that can ever take part.
        rounds: Number of releases, 1 or more.
        report_goal: Updates of a round, and the divisor of their sum.
        over_selection: Ratio of devices asked to the goal, 1 or more.
        minimum_reports: Fewest updates of a release; 0 means two thirds of the goal.
        availability: Share of eligible devices that are reachable at a time, in (0, 1].
        update_norm: Bound on the Euclidean norm of an update.
        parameters: Number of parameters of the model.
        most_bands: Largest number of bands of the noise; each costs 16 bytes a parameter.
        spare: Participations of a device reserved for void rounds, 0 or more. A device cannot
            detect that a round was void: its own ledger counts the round, and so does the noise.
        group_size: Most devices of one secure sum; a larger cohort is several sums (`Groups`). 0 is
            one sum for the whole cohort.
        corrupt: Share of members of a sum that collude with the server, for a sparse graph; 0 is
            a complete graph, which is safe below a third.
        dropped: Share of members that drop out of a sum over a sparse graph.
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
    group_size: int = 0
    corrupt: float = 0.0
    dropped: float = 0.1

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a value outside its range."""
        require(0 < self.epsilon <= 40, f"epsilon is {self.epsilon}: give (0, 40]")
        require(0 < self.delta < 1, f"delta is {self.delta}: give a number between 0 and 1")
        require(
            self.delta * self.population < 1,
            f"delta {self.delta:g} for {self.population} devices allows to reveal one entirely:"
            " give one well below 1 / population",
        )
        for name in ("rounds", "report_goal", "parameters", "most_bands"):
            value = getattr(self, name)
            require(value >= 1, f"{name} is {value}: give 1 or more")
        for name in ("spare", "group_size"):
            value = getattr(self, name)
            require(value >= 0, f"{name} is {value}: give 0 or more")
        require(self.over_selection >= 1, "over_selection must be at least 1")
        require(0 < self.availability <= 1, "availability must lie in (0, 1]")
        require(
            0 <= self.minimum_reports <= self.report_goal,
            f"minimum_reports is {self.minimum_reports}: give 0 to the report goal",
        )

    @property
    def cohort(self) -> int:
        """Number of devices that a round asks."""
        return math.ceil(self.report_goal * self.over_selection)

    @property
    def fewest(self) -> int:
        """Fewest updates of a release."""
        return self.minimum_reports or max(1, self.report_goal * 2 // 3)

    @property
    def groups(self) -> Groups | None:
        """Secure sums of a round, None if it is one sum over a complete graph.

        Raises:
            SettingsError: See `group_cohort` and `sparse_graph`; or no sparse graph is safe.
        """
        groups = group_cohort(self.cohort, self.fewest, self.group_size)
        if not self.corrupt:
            return groups
        groups = groups or Groups(self.cohort, self.fewest)
        graph = require_sparse(sparse_graph(groups.size, self.corrupt, self.dropped), groups.size)
        return msgspec.structs.replace(groups, graph=graph)

    @property
    def noisy(self) -> int:
        """Fewest devices of a sum that do not collude with the server."""
        groups = self.groups or Groups(self.cohort, self.fewest)
        count = groups.fewest - math.floor(self.corrupt * groups.size)
        require(count >= 1, "all of the fewest devices of a sum may collude: raise minimum_reports")
        return count


@dataclass(frozen=True)
class TrainingPlan:
    """Public parameters of a private run.

    Attributes:
        epsilon: Guaranteed privacy loss of one device over the whole run, at `delta`.
        delta: Delta of the guarantee, including the error of the noise tables.
        rho: zCDP of the run without the error of the tables: 1 / (2 noise_multiplier^2).
        noise_multiplier: z, the standard deviation of Z over the sensitivity of C G.
        participations: Largest number of releases of one device (k).
        separation: Smallest distance in releases between two participations of a device.
        bands: Bands of C, at most `separation`.
        rounds: Largest number of releases.
        cohort: Devices asked in a round.
        report_goal: Updates of a round, and the divisor of their sum.
        minimum_reports: Fewest updates of a release.
        update_norm: Bound on the Euclidean norm of an update.
        units: The same bound on the integer grid.
        parameters: Number of parameters of the model.
        sigma_squared: Variance of Z, an integer; 0 if the server adds no noise.
        step_noise: Standard deviation of one coordinate of the average of a round.
        model_noise: Noise of one coordinate of a model trained with plain averaging: root mean
            square, over the rounds, of the noise of the sum of all averages so far.
        independent_model_noise: The same for independent noise with the same guarantee.
        device_sigma_squared: Variance of the noise that each device adds on the grid; 0 if the
            server adds the noise.
        unit: Unit of privacy.
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
        """Integer grid of updates."""
        return FixedPoint(self.update_norm, self.units)

    @property
    def root(self) -> BandedRoot:
        """Matrix C of the noise."""
        return BandedRoot(self.bands)

    def expected_loss(self, curvature: float) -> float:
        """Return the expected increase of the mean loss by the noise, in nats.

        To second order, ``parameters * curvature * model_noise^2 / 2`` (the curvature is measured
        near a minimum, so the first order vanishes). The estimate is pessimistic, since training
        corrects part of the noise, and inaccurate if it is not small.

        Args:
            curvature: Mean diagonal of the Hessian of the loss in nats, from `mean_curvature`.
        """
        return self.parameters * curvature * self.model_noise**2 / 2

    def epsilon_after(self, releases: int) -> float:
        """Return the privacy loss of one device, at the plan's delta, after some releases.

        It also holds after some rounds, if all of their sums count, as the separation is the same.

        The sensitivity is that of as many participations as fit into the releases, at most those
        of the plan. The epsilon of the plan is reached with the last release, unless the plan
        reserves participations for void rounds.
        """
        import dp_accounting

        if releases == 0:
            return 0.0
        fitting = min(self.participations, 1 + (releases - 1) // max(1, self.separation))
        if fitting == self.participations:
            return self.epsilon
        # The sensitivity grows with the root of the participations, which do not overlap.
        multiplier = self.noise_multiplier * (self.participations / fitting) ** 0.5
        spent = float(dp_accounting.get_epsilon_gaussian(multiplier, self.delta))
        return min(self.epsilon, spent)


def plan_training(wishes: Wishes) -> TrainingPlan:
    """Compute bounds on participation, bands and noise from requirements.

    The separation is the largest that leaves enough devices to ask, and the participations follow
    from it. Bands are chosen, up to the separation, with the least noise in the prefix sums. The
    noise multiplier is exactly that of the Gaussian mechanism at (epsilon, delta) (Balle, Wang,
    ICML 2018; by dp-accounting), after the error of the noise tables is subtracted from delta: a
    whole run is one such mechanism.

    Raises:
        SettingsError: The population is too small for the cohort, or no plan meets the
            requirements.
        MissingExtraError: dp-accounting is not installed.
    """
    return _planned(wishes, draws=1)


def _planned(wishes: Wishes, *, draws: int) -> TrainingPlan:
    """Plan a run whose noise is the sum of `draws` draws in each cell."""
    cohort = wishes.cohort
    pool = math.ceil(cohort / wishes.availability)
    if wishes.population < pool:
        raise SettingsError(
            f"a round asks {cohort} devices at availability {wishes.availability:g}: population"
            f" must be at least {pool}, not {wishes.population}: lower the report goal"
        )
    # The cohorts of the last `separation - 1` rounds are barred; a whole pool must be left.
    separation = min(wishes.rounds, (wishes.population - pool) // cohort + 1)
    participations = math.ceil(wishes.rounds / separation) + wishes.spare
    units = min(_MAX_UNITS, (_FIELD // 2 - 1) // cohort)
    if units < 1:
        raise SettingsError(f"the sum of {cohort} devices exceeds 32 bits: lower the report goal")
    plans: list[TrainingPlan] = []
    refusal: SettingsError | None = None
    most = min(separation, wishes.most_bands)
    for bands in sorted({*(1 << i for i in range(most.bit_length())), most}):
        try:
            plan = _noised(wishes, cohort, participations, separation, bands, units, draws)
            plans.append(plan)
        except SettingsError as error:
            refusal = error
    if not plans and refusal:
        raise refusal
    return min(plans, key=lambda plan: plan.model_noise)


def plan_noise_in_sum(wishes: Wishes) -> TrainingPlan:
    """Plan a run in which devices add the noise, for an untrusted server.

    Each device adds discrete Gaussian noise to its update before the secure sum; the noise of
    `minimum_reports` devices is the whole noise (Kairouz, Liu, Steinke, "The distributed discrete
    Gaussian mechanism", ICML 2021; the series argument of `WideGaussian` bounds the distance of the
    sum of such noises from one draw). Each draw adds the error of its tables, and delta covers all.
    The server does not know the noise and cannot correlate it across rounds, so the noise is
    independent and larger by the square root of the participations.

    If a round is several sums, the server knows each of them, so the noise of each must be whole:
    that of `groups.fewest` devices. A device is in one sum of a round, and the others do not depend
    on it, so epsilon is the same. But g groups add g times the variance to the model
    (`step_noise`), and what the model alone reveals is less (`core.model_epsilon`).

    Assumed: at least `wishes.noisy` devices of each sum add their noise and do not tell it to the
    server: the fewest of a sum, without the share `corrupt` of its members. If more may not, plan
    with fewer than are collected; the other devices may then misbehave.

    Raises:
        SettingsError: See `plan_training`.
        MissingExtraError: dp-accounting is not installed.
    """
    groups = wishes.groups or Groups(wishes.cohort, wishes.fewest)
    honest = wishes.noisy
    plan = _planned(replace(wishes, most_bands=1), draws=honest)
    # The range holds the updates and ten standard deviations of the noise of a sum.
    noise_width = 10 * plan.noise_multiplier * math.sqrt(plan.participations)
    total_width = groups.size * (1 + noise_width / honest) + noise_width
    units = min(plan.units, int((_FIELD // 2 - 1) / total_width))
    require(units >= 1, "updates and noise do not fit 32 bits: lower the report goal")
    needed = Fraction(plan.noise_multiplier) ** 2 * plan.participations * units**2 + 16
    sigma_squared = math.ceil(needed / honest) + 16
    average = plan.update_norm / units / plan.report_goal
    step = math.sqrt(sigma_squared * plan.report_goal) * average
    noise = step * _root_mean_square(plan.root, plan.rounds)
    return replace(
        plan,
        units=units,
        sigma_squared=0,
        device_sigma_squared=sigma_squared,
        step_noise=step,
        model_noise=noise,
        independent_model_noise=noise,
    )


def without_noise(plan: TrainingPlan) -> TrainingPlan:
    """Return the plan without noise and guarantee, to measure the cost of the noise."""
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
    # The error of the tables hardly depends on the width, so a rough width gives it.
    guess = WideGaussian(Fraction(sensitivity_squared) * 4 + 64)
    table_error = float(guess.error) * 1.5 * cells * (1 + math.exp(wishes.epsilon))
    if table_error > wishes.delta * _TABLE_SHARE:
        raise SettingsError(
            f"the error of the noise tables is {table_error:.1e}, too large for delta"
            f" {wishes.delta:g}: give a larger delta, a smaller epsilon, fewer bands or fewer"
            " parameters" + (", or fewer minimum_reports" if draws > 1 else "")
        )
    z = _noise_multiplier(wishes.epsilon, wishes.delta - table_error)
    sigma_squared = math.ceil(sensitivity_squared * Fraction(z) ** 2) + 16
    average = wishes.update_norm / units / wishes.report_goal
    step = noise_scale(root, sigma_squared) * average
    independent = BandedRoot(1)
    independent_sigma = z * math.sqrt(independent.sensitivity_squared(participations, units))
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
        minimum_reports=wishes.fewest,
        update_norm=wishes.update_norm,
        units=units,
        parameters=wishes.parameters,
        sigma_squared=sigma_squared,
        step_noise=step,
        model_noise=step * _root_mean_square(root, wishes.rounds),
        independent_model_noise=noise_scale(independent, independent_sigma**2)
        * average
        * _root_mean_square(independent, wishes.rounds),
    )


def _root_mean_square(root: BandedRoot, rounds: int) -> float:
    errors = root.prefix_errors(rounds)
    return math.sqrt(float((errors**2).mean()))


def _noise_multiplier(epsilon: float, delta: float) -> float:
    with extra():
        import dp_accounting
    # dp-accounting finds the root to a tolerance; one millionth more is on the safe side.
    z = float(dp_accounting.get_sigma_gaussian(epsilon, delta)) * (1 + 1e-6)
    if dp_accounting.get_epsilon_gaussian(z, delta) > epsilon:
        raise SettingsError(
            f"there is no noise for epsilon {epsilon} at delta {delta:g}: give larger ones"
        )
    return z
