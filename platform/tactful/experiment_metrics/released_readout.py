"""Read the released metrics of an experiment, for people outside the trusted zone.

Every number follows from noisy cells (`tactful.experiment_metrics.released_cells`), and intervals
include the noise. A read-out draws the days that have closed since the last one. Quantiles, CUPED,
segments and numbers within a day are not released, and the read-out says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from tactful.errors import ConfigError
from tactful.experiment_metrics.columns import LogColumns, ReadSpan
from tactful.experiment_metrics.definitions import MetricSet
from tactful.experiment_metrics.effects import Compared, effects_of_plan, words_of
from tactful.experiment_metrics.outcomes import unit_outcomes
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiment_metrics.released_cells import (
    MetricRelease,
    released_outcomes,
    released_ratio,
    released_sample,
    released_units,
)
from tactful.experiment_metrics.released_days import (
    UNIT,
    ReleasedDays,
    by_key,
    charges_of,
    closed_days,
    closes_at,
    drawn_metrics,
    due_days,
    epsilon_of_metric,
    first_time,
    reaches_back,
)
from tactful.experiments.baseline import DAY_MS, ExactOutcomes
from tactful.experiments.effects import effect_points
from tactful.experiments.metrics import Metric
from tactful.experiments.readout import comparable
from tactful.experiments.stage_readout import POINTS, ratio_check
from tactful.schemas.experiments.metrics import MetricDefinition, MetricPlan
from tactful.schemas.experiments.readouts import Effect, EffectPoint, RatioCheck, ReadOutMessage
from tactful.schemas.experiments.releases import ReleaseCost
from tactful.util.fresh_values import FreshValues
from tactful_bandits.analysis.comparison import compare
from tactful_bandits.analysis.noisy_samples import units_behind_noise
from tactful_bandits.analysis.samples import Sample
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.errors import DefinitionError
from tactful_privacy.errors import BudgetError

_FRESH_MS = 60_000

NOT_RELEASED = (
    "its analysis has no epsilon, so nothing is released: give one in metrics.yaml; exact numbers "
    "need admin"
)
NO_START = "its analysis has no start: give the first day of exposures, from which days are counted"
NO_PAST = (
    "the log no longer has all exposures since the start, so a person could count twice: no "
    "further day is released"
)
NO_DAY = "no day of exposures is closed yet: its windows have to be over for every user"
NO_COMPARISON = "no two arms have two users with different outcomes beyond the noise"
BOUND = (
    "a person stands in one cell of one arm and day of each metric; an outcome beyond the cap "
    "counts as the cap"
)

_Days = Mapping[int, MetricRelease]


def experiment_shares(path: Path) -> Callable[[str], Mapping[str, float]]:
    """Return a function that reads the shares of an experiment of `experiments.yaml` by arm."""

    def shares(key: str) -> Mapping[str, float]:
        try:
            experiments = {it.key: it for it in load_experiments(path)}
        except (OSError, DefinitionError) as error:
            raise ConfigError(str(error)) from error
        known = experiments.get(key)
        if known is None:
            return {}
        return {arm: share for arm, share in known.shares.items() if share > 0}

    return shares


class ReleasedReadOuts:
    """Reads the released metrics of an installation's experiments."""

    def __init__(
        self,
        definitions: Callable[[], MetricSet],
        registrations: MetricRegistrations,
        days: ReleasedDays,
        outcomes: ExactOutcomes,
        *,
        clock: Callable[[], int],
        arms: Callable[[str], Mapping[str, float]] = lambda key: {},
        keeps_ms: int | None = None,
    ) -> None:
        """Use definitions, what was registered of them, drawn days, and outcomes to read.

        `arms` returns the shares of an experiment by arm, the control first, or nothing; `keeps_ms`
        is the time for which the log keeps exposures, None for ever.
        """
        self._definitions = definitions
        self._registrations = registrations
        self._days = days
        self._outcomes = outcomes
        self._clock = clock
        self._arms = arms
        self._keeps_ms = keeps_ms
        self._fresh: FreshValues[ReadOutMessage] = FreshValues(_FRESH_MS, clock)

    def of_key(self, key: str) -> ReadOutMessage:
        """Draw the days that are due, and read all drawn ones.

        Raises:
            ConfigError: if no analysis names the experiment, or its arms are unknown.
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        return self._fresh.get(key, lambda: self._read(key))

    def cost(self, key: str) -> ReleaseCost:
        """Return what the release costs; draws and charges nothing. Raises as `of_key`."""
        plan, metrics, _ = self._asked(key)
        drawn, refused = drawn_metrics(plan, metrics)
        reason = self._refusal(plan)
        if reason in (NOT_RELEASED, NO_START) or not drawn or plan.start is None:
            return ReleaseCost(
                key=key, epsilon=0.0, unit=UNIT, bound=BOUND, refused=refused, reason=reason
            )
        start, now, each = plan.start, self._clock(), epsilon_of_metric(plan, drawn)
        held = self._days.all(key)
        due = due_days(plan, drawn, held, now)
        return ReleaseCost(
            key=key,
            epsilon=float(each * len(drawn)),
            unit=UNIT,
            bound=BOUND,
            metrics=dict.fromkeys(drawn, float(each)),
            refused=refused,
            days={name: len(held.get(name, {})) for name in drawn},
            waiting={name: len(days) for name, days in due.items()},
            next_at={
                name: closes_at(it, closed_days(it, start, now).stop) for name, it in drawn.items()
            },
            charged_days={
                name: len({c.name for d in days for c in charges_of(key, drawn[name], d, each)})
                for name, days in due.items()
            },
            reason=reason,
        )

    def _read(self, key: str) -> ReadOutMessage:
        plan, metrics, shares = self._asked(key)
        drawn, refused = drawn_metrics(plan, metrics)
        notes = _notes(plan, refused)
        if plan.epsilon is None or plan.start is None or not drawn:
            reason = self._refusal(plan) or "; ".join(notes)
            return self._message(key, shares, plan, reason=reason, notes=notes)
        reason = self._refusal(plan) or self._draw(plan, drawn, shares)
        held = self._days.of_metrics(key, drawn, plan.start)
        held = {name: days for name, days in held.items() if days}
        arms = _samples(plan, metrics, shares, held)
        planned = self._registrations.planned(plan, metrics, plan.start)
        effects = effects_of_plan(_compared(plan, metrics, held, arms), plan, [*shares], planned)
        if reason:
            notes = [*notes, reason]
        if not effects:
            reason = reason or (NO_COMPARISON if held else NO_DAY)
        return self._message(
            key,
            shares,
            plan,
            held=held,
            effects=effects,
            series=_series(plan, metrics, shares, held),
            reason="" if effects else reason,
            notes=notes,
        )

    def _asked(
        self, key: str
    ) -> tuple[MetricPlan, Mapping[str, MetricDefinition], Mapping[str, float]]:
        definitions = self._definitions()
        plan = definitions.plans.get(key)
        if plan is None:
            raise ConfigError(
                f"no analysis names experiment {key!r}: add it to the experiments of metrics.yaml"
            )
        shares = plan.arms or self._arms(key)
        if not shares:
            raise ConfigError(
                f"the arms of experiment {key!r} are unknown: give their shares as arms in "
                "metrics.yaml, the control first"
            )
        return plan, definitions.of_plan(plan), shares

    def _refusal(self, plan: MetricPlan) -> str:
        """Return why no further day can be drawn; empty if one can."""
        if plan.epsilon is None:
            return NOT_RELEASED
        if plan.start is None:
            return NO_START
        start = first_time(plan.start, self._days.all(plan.experiment))
        kept = self._keeps_ms is None or self._clock() - start < self._keeps_ms
        return "" if kept and reaches_back(self._outcomes.logs(), start) else NO_PAST

    def _draw(
        self,
        plan: MetricPlan,
        drawn: Mapping[str, MetricDefinition],
        shares: Mapping[str, float],
    ) -> str:
        """Draw the days that are due; return the reason if a budget refuses one."""
        now, held = self._clock(), self._days.all(plan.experiment)
        due = {name: days for name, days in due_days(plan, drawn, held, now).items() if days}
        if not due:
            return ""
        columns = LogColumns(
            plan.experiment,
            {name: drawn[name] for name in due},
            ReadSpan(first_time(plan.start or 0, held), None, now),
            allows=self._outcomes.allows,
        )
        for log in self._outcomes.logs():
            columns.read_log(log)
        seen = unit_outcomes(
            by_key(columns), [*shares], {name: drawn[name] for name in due}, now=now
        )
        each = epsilon_of_metric(plan, drawn)
        try:
            for name, days in due.items():
                self._days.draw(plan.experiment, drawn[name], days, seen, each)
        except BudgetError as error:
            return f"no further day is released: {error}"
        return ""

    def _message(
        self,
        key: str,
        shares: Mapping[str, float],
        plan: MetricPlan,
        *,
        held: Mapping[str, _Days] | None = None,
        effects: Sequence[Effect] = (),
        series: Sequence[EffectPoint] = (),
        reason: str = "",
        notes: Sequence[str] = (),
    ) -> ReadOutMessage:
        days = [day for of_metric in (held or {}).values() for day in of_metric]
        return ReadOutMessage(
            key=key,
            source="released",
            at=self._clock(),
            since=min(days) * DAY_MS if days else plan.start or 0,
            until=(max(days) + 1) * DAY_MS if days else None,
            sample_ratio=_ratio(held or {}, shares),
            effects=[*effects],
            series=[*series],
            confidence=1 - plan.alpha,
            epsilon=plan.epsilon,
            reason=reason,
            notes=[*notes],
        )


def _notes(plan: MetricPlan, refused: Mapping[str, str]) -> list[str]:
    notes = [f"{name}: {reason}" for name, reason in refused.items()]
    if plan.cuped_ms:
        notes.append(
            "cuped is not released: it needs a further number of each user, from before the "
            "exposure; effects are not adjusted"
        )
    if plan.segments:
        notes.append(
            "segments are not released: each would cost as much as all users together; exact "
            "numbers need admin"
        )
    return notes


def _described(plan: MetricPlan, metrics: Mapping[str, MetricDefinition]) -> dict[str, Metric]:
    return {name: Metric(words_of(metrics[name]), metrics[name].direction) for name in plan.roles}


def _samples(
    plan: MetricPlan,
    metrics: Mapping[str, MetricDefinition],
    shares: Mapping[str, float],
    held: Mapping[str, _Days],
    until: int | None = None,
) -> dict[str, dict[str, Sample]]:
    """Return the outcomes of each arm of all days, or of those before one."""
    found: dict[str, dict[str, Sample]] = {arm: {} for arm in shares}
    counted = {
        name: [release for day, release in days.items() if until is None or day < until]
        for name, days in held.items()
    }
    for name in plan.roles:
        metric = metrics[name]
        parts = [counted.get(part, []) for part in metric.parts or (name,)]
        if not all(parts):
            continue
        for arm in shares:
            if any(arm not in release.cells for releases in parts for release in releases):
                continue
            if metric.parts:
                of_parts = metrics[metric.numerator], metrics[metric.denominator]
                sample = released_ratio(of_parts, (parts[0], parts[1]), arm)
            else:
                sample = released_sample(metric, parts[0], arm)
            if sample is not None:
                found[arm][name] = sample
    return found


def _compared(
    plan: MetricPlan,
    metrics: Mapping[str, MetricDefinition],
    held: Mapping[str, _Days],
    arms: Mapping[str, Mapping[str, Sample]],
) -> list[Compared]:
    """Compare each arm with the control on each metric that both have beyond the noise."""
    control, *others = arms
    found = []
    for name in plan.roles:
        counted = metrics[metrics[name].parts[-1] if metrics[name].parts else name]
        for arm in others:
            if not comparable(name, arms[control], arms[arm]):
                continue
            releases = [*held[counted.name].values()]
            least = min(released_outcomes(counted, releases, it) for it in (control, arm))
            pair = arms[control][name], arms[arm][name]
            comparison = compare(*pair, alpha=plan.alpha)
            found.append(Compared(metrics[name], control, arm, pair, comparison, least))
    return found


def _series(
    plan: MetricPlan,
    metrics: Mapping[str, MetricDefinition],
    shares: Mapping[str, float],
    held: Mapping[str, _Days],
) -> list[EffectPoint]:
    """Return the effects up to the end of each day of exposures, at most 40."""
    days = sorted({day + 1 for of_metric in held.values() for day in of_metric})
    steps = range(len(days) - 1, -1, -max(1, -(-len(days) // POINTS)))
    described, control = _described(plan, metrics), next(iter(shares))
    points: list[EffectPoint] = []
    for number in reversed(steps):
        arms = _samples(plan, metrics, shares, held, days[number])
        points += effect_points(
            days[number] * DAY_MS, control, arms, alpha=plan.alpha, metrics=described
        )
    return points


def _ratio(held: Mapping[str, _Days], shares: Mapping[str, float]) -> RatioCheck:
    """Check the arms' units by the metric with the fewest cells, and so the least noise."""
    nothing = RatioCheck(verdict="too few data", p=None, expected={**shares}, people={})
    if not held or len(shares) < 2:
        return nothing
    releases = [*min(held.values(), key=lambda days: len(next(iter(days.values())).grid)).values()]
    if any(arm not in release.cells for release in releases for arm in shares):
        return nothing
    units = {arm: released_units(releases, arm) for arm in shares}
    known = {arm: it for arm, it in units.items() if it is not None}
    if len(known) < len(shares):
        return nothing
    shown = {arm: it.units for arm, it in known.items()}
    if len(shares) > 2:  # each arm would need the noise of all others
        return msgspec.structs.replace(nothing, people=shown)
    control, change = shares
    share = shares[change] / (shares[control] + shares[change])
    checked = units_behind_noise(known[control], known[change], share)
    return ratio_check(dict(zip(shares, checked, strict=True)), shares, shown=shown)
