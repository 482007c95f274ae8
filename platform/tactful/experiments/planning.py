"""Forecast the plan of a rollout when it is applied, and refuse one that would find no harm."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tactful.errors import ConfigError
from tactful.experiments.baseline import (
    Baseline,
    ExactOutcomes,
    assumed_baseline,
    exact_baseline,
    released_baseline,
)
from tactful.experiments.controller import PRIVATE_LOOKS, noise_of, reason_of
from tactful.experiments.definitions import RolloutDefinition, load_rollouts
from tactful.experiments.store import RolloutStore
from tactful.schemas.experiments.rollouts import GuardrailForecast, RolloutForecast
from tactful_bandits.rollouts.forecast import ENOUGH_POWER, Forecast, forecast
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Given:
    """Numbers that an operator gives; they replace those of the installation."""

    people_per_day: float | None = None  # users who are shown something on a day
    rate: float | None = None  # share of them who take something


class Planner:
    """Forecasts rollouts and applies them."""

    def __init__(
        self,
        store: RolloutStore,
        outcomes: ExactOutcomes,
        *,
        clock: Callable[[], int],
        check: Callable[[RolloutDefinition], None] = lambda definition: None,
    ) -> None:
        """Use a store, the outcomes that may be read, and a clock, epoch milliseconds.

        `check` raises ConfigError for a guardrail whose own metric is wrong.
        """
        self._check = check
        self._store = store
        self._outcomes = outcomes
        self._clock = clock
        self._logs: Sequence[EventLog] | None = None
        self._reading = threading.Lock()  # forecasts read the log one after another

    def forecast(self, definition: RolloutDefinition, given: Given = Given()) -> RolloutForecast:
        """Forecast the power and the length of a plan.

        Raises:
            ConfigError: if the definition is wrong.
            StorageError: if the database cannot be used.
            StreamingError: if the log cannot be read.
        """
        plan = definition.plan()
        self._check(definition)
        baseline = self._baseline(definition, given)
        planned: Forecast | None = None
        if baseline.people_per_day > 0 and plan.last_controlled is not None:
            planned = forecast(
                plan,
                lambda guardrail, units: baseline.of(guardrail.metric, units),
                units_per_day=baseline.people_per_day,
            )
        judged = [it for it in plan.guardrails if it.critical and it.smallest_loss is not None]
        uncontrolled = plan.last_controlled is None
        return RolloutForecast(
            key=definition.key,
            basis=baseline.source,
            guardrails=[
                GuardrailForecast(
                    metric=guardrail.metric,
                    loss=guardrail.smallest_loss or 0.0,
                    power=_two_digits(planned.power[guardrail.metric] if planned else None),
                )
                for guardrail in judged
            ],
            enough=not judged or (planned is not None and planned.enough and not uncontrolled),
            days=_whole(planned.days if planned else None),
            days_needed=_whole(planned.enough_days if planned else None),
            stage_hours_needed=_whole(
                24 * planned.enough_stage_days if planned and planned.enough_stage_days else None
            ),
            proof_days=_whole(planned.proof_days if planned else None),
            accepted=definition.accept_low_power,
        )

    def apply(
        self, definition: RolloutDefinition, *, by: str, reason: str, given: Given = Given()
    ) -> tuple[bool, RolloutForecast | None]:
        """Store a definition as `RolloutStore.apply` does, unless its power is too low.

        Return whether that changed anything, and the forecast, None if nothing changed.

        Raises:
            ConfigError: if the definition is wrong, its power is below 0.8 and not accepted, or the
                rollout has begun with another plan.
            StorageError: if the database cannot be used; nothing was changed then.
            StreamingError: if the log cannot be read.
        """
        definition.plan()
        stored = self._store.find(definition.key)
        if stored is not None and (stored.means(definition) or not stored.replaceable):
            return self._store.apply(definition, by=by, reason=reason), None
        planned = self.forecast(definition, given)
        require_power(planned)
        return self._store.apply(definition, by=by, reason=reason_of(definition, reason)), planned

    def apply_file(self, path: Path) -> None:
        """Store the rollouts of a file that `controller.apply_file` has left for a forecast.

        One that is refused is a warning. Raise ConfigError if the file is wrong.
        """
        for definition in load_rollouts(path):
            try:
                self.apply(definition, by="tactful serve", reason=f"applied from {path.name}")
            except ConfigError as error:
                logger.warning("%s: %s", path, error)

    def _baseline(self, definition: RolloutDefinition, given: Given) -> Baseline:
        """Return the given numbers, completed by those of the installation or assumed ones."""
        now, noise = self._clock(), 0.0
        if definition.epsilon is not None:
            noise = PRIVATE_LOOKS * float(noise_of(definition.epsilon).variance)
        known = None
        if given.people_per_day is None or given.rate is None:
            if definition.epsilon is not None:
                known = released_baseline(self._store, now=now, noise=noise)
            else:
                known = self._read(definition, now)
        outcomes = known
        if known is None or given.rate is not None:
            outcomes = assumed_baseline(given.rate, noise=noise)
        assert outcomes is not None
        if given.people_per_day is not None:
            source = f"{given.people_per_day:,.0f} people a day, given; {outcomes.source}"
            return replace(outcomes, people_per_day=given.people_per_day, source=source)
        if known is None:
            nothing = "counted" if definition.epsilon is None else "released"
            source = f"nobody was {nothing} in the last 28 days: give the people per day"
            return replace(outcomes, source=source)
        return replace(outcomes, people_per_day=known.people_per_day)

    def _read(self, definition: RolloutDefinition, now: int) -> Baseline | None:
        with self._reading:
            if self._logs is None:
                self._logs = self._outcomes.logs()
            return exact_baseline(self._outcomes, self._logs, definition, now=now)


def require_power(planned: RolloutForecast) -> None:
    """Raise ConfigError if a power is below 0.8 and that was not accepted."""
    if not planned.enough and planned.accepted is None:
        raise ConfigError(
            f"rollout {planned.key!r} would not find a harmful change reliably, so it is refused: "
            f"{'; '.join(forecast_words(planned))}. Lengthen stage_hours, or give the reason in "
            "accept_low_power"
        )


def forecast_words(planned: RolloutForecast) -> list[str]:
    """Describe a forecast, one statement in each text."""
    words = []
    for guardrail in planned.guardrails:
        loss = f"{guardrail.metric}: a loss of {guardrail.loss:.0%}"
        if guardrail.power is None:
            words.append(f"{loss} cannot be forecast, there are no outcomes")
        else:
            words.append(f"{loss} is found with probability {guardrail.power:.2f}")
    if planned.days is not None:
        words.append(f"{planned.days} days until the end of the stage before 100 %")
    if planned.days_needed is not None and not planned.enough:
        words.append(
            f"{planned.days_needed} days are needed for {ENOUGH_POWER:g}, with stage_hours "
            f"{planned.stage_hours_needed}"
        )
    if planned.proof_days is not None:
        words.append(f"a harmless change has proof after about {planned.proof_days} days")
    words.append(f"basis: {planned.basis}")
    return words


def _two_digits(power: float | None) -> float | None:
    """Round down, so that no power below 0.8 is shown as 0.8."""
    return None if power is None else math.floor(100 * power + 1e-9) / 100


def _whole(number: float | None) -> int | None:
    return None if number is None else math.ceil(number - 1e-6)
