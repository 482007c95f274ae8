"""Read the effects of a rollout or experiment beside the server, and turn them into figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tactful.config.ledger_location import ledger_location
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.experiment_metrics.arms import known_arms
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.own_guardrails import with_own_guardrails
from tactful.experiment_metrics.readout import MetricReadOuts
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiment_metrics.released_days import ReleasedDays, keeps_ms
from tactful.experiment_metrics.released_readout import ReleasedReadOuts
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.definitions import HOLDOUT
from tactful.experiments.stage_readout import ReadOuts
from tactful.experiments.store import RolloutStore, StoredRollout
from tactful.experiments.worth import Worth
from tactful.flags.store import FlagStore
from tactful.metadata.connections import open_installation
from tactful.metadata.store import MetadataStore
from tactful.schemas.experiments.readouts import ReadOutMessage
from tactful.schemas.experiments.releases import ReleaseCost
from tactful.statistics.definitions import load_statistics
from tactful.subjects.consented_log import PermittedLog, measured_partitions
from tactful.util.clock import now_ms
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.errors import DefinitionError
from tactful_privacy.ledger.ledger import Ledger
from tactful_privacy.ledger.query import Query


def read_key(
    settings: Settings,
    key: str,
    *,
    source: str | None = None,
    stage: int | None = None,
    days: float = 28.0,
) -> ReadOutMessage:
    """Read the rollout or experiment of a key; `source` as in `tactful.http.experiments.rollouts`.

    Raises:
        ConfigError: if there is none, or the stage has not begun.
        StorageError: if log or database cannot be used.
    """
    with contextlib.closing(open_installation(settings)) as metadata:
        store = RolloutStore(metadata, clock=now_ms)
        stored = store.find(key)
        if key == HOLDOUT:
            return _worth(settings, metadata, source, days)
        with _read_outs(settings, store, metadata) as (read_outs, metrics):
            if stored is not None:
                found = effects_of_rollout(read_outs, stored, source=source, stage=stage)
                return with_own_guardrails(metrics, stored, metrics.extended(found))
            try:
                experiments = {it.key: it for it in load_experiments(settings.experiments)}
            except (OSError, DefinitionError) as error:
                raise ConfigError(str(error)) from error
            plans = metrics.definitions().plans
            if key not in experiments and key not in plans:
                known = ", ".join({**{it.key: 0 for it in store.all()}, **experiments, **plans})
                raise ConfigError(f"there is no rollout or experiment {key!r}; there are {known}")
            if source == "released":
                with _released(settings, metadata) as released:
                    return released.of_key(key)
            if key not in experiments:
                return metrics.of_key(key, days=days)
            return metrics.extended(read_outs.of_experiment(experiments[key], days=days))


def release_cost(settings: Settings, key: str) -> ReleaseCost:
    """Return what the release of an experiment's metrics costs; raise as `read_key`."""
    with (
        contextlib.closing(open_installation(settings)) as metadata,
        _released(settings, metadata) as released,
    ):
        return released.cost(key)


def effects_of_rollout(
    read_outs: ReadOuts,
    stored: StoredRollout,
    *,
    source: str | None = None,
    stage: int | None = None,
) -> ReadOutMessage:
    """Read a rollout by exact numbers, or by released ones if that is what it is judged by."""
    exact = source == "exact" or (source is None and stored.definition.epsilon is None)
    return read_outs.of_rollout(stored, exact=exact, stage=stage)


def recorded_effects(
    settings: Settings, store: RolloutStore, stored: StoredRollout
) -> ReadOutMessage:
    """Read the effects that a run of MLflow records; raise as `read_key`."""
    with (
        contextlib.closing(open_installation(settings)) as metadata,
        _read_outs(settings, store, metadata) as (read_outs, metrics),
    ):
        found = metrics.extended(effects_of_rollout(read_outs, stored))
        return with_own_guardrails(metrics, stored, found)


def figures_of(found: ReadOutMessage) -> dict[str, float]:
    """Return the effects as named figures, such as `takers.difference`."""
    figures: dict[str, float] = {}
    for effect in found.effects:
        values = {
            "control": effect.control.value,
            "change": effect.treatment.value,
            "difference": effect.difference,
            "relative": effect.relative,
            "low": effect.fixed.low,
            "high": effect.fixed.high,
            "anytime_low": effect.anytime.low,
            "anytime_high": effect.anytime.high,
            "chance_to_win": effect.chance_to_win,
            "loss_of_change": effect.loss_of_treatment,
            "loss_of_control": effect.loss_of_control,
            "people_control": float(effect.control.people),
            "people_change": float(effect.treatment.people),
        }
        figures |= {f"{effect.metric}.{name}": it for name, it in values.items() if it is not None}
    return figures


def _worth(
    settings: Settings, metadata: MetadataStore, source: str | None, days: float
) -> ReadOutMessage:
    if source == "released":
        raise ConfigError("the server releases this effect: ask GET /v1/worth?source=released")
    with contextlib.ExitStack() as stack:
        outcomes = ExactOutcomes(
            lambda: stack.enter_context(measured_partitions(settings, clock=now_ms))
        )
        recommend = settings.recommend
        epsilon = recommend.holdout_epsilon
        return Worth(
            metadata, outcomes, holdout=recommend.holdout, epsilon=epsilon, clock=now_ms
        ).exact(days)


@contextlib.contextmanager
def _released(settings: Settings, metadata: MetadataStore) -> Iterator[ReleasedReadOuts]:
    """Open the released read-outs, and the ledger where there is one."""
    with contextlib.ExitStack() as stack:
        opened: list[PermittedLog] = []
        ledgers: list[Ledger] = []

        def logs() -> list[PermittedLog]:
            if not opened:
                opened.extend(stack.enter_context(measured_partitions(settings, clock=now_ms)))
            return opened

        def charge(queries: Iterable[Query]) -> None:
            definitions = settings.statistics.definitions
            if definitions == Path():  # without published statistics there is no ledger
                return
            if not ledgers:
                budgets = load_statistics(definitions).all_budgets()
                ledger = Ledger(ledger_location(settings), budgets=budgets)
                ledgers.append(stack.enter_context(contextlib.closing(ledger)))
            ledgers[0].charge(queries)

        yield ReleasedReadOuts(
            lambda: load_metrics(settings.experiment_metrics),
            MetricRegistrations(metadata, clock=now_ms),
            ReleasedDays(metadata, charge=charge),
            ExactOutcomes(logs),
            clock=now_ms,
            arms=known_arms(settings.experiments, FlagStore(metadata, clock=now_ms)),
            keeps_ms=keeps_ms(settings.retention),
        )


@contextlib.contextmanager
def _read_outs(
    settings: Settings, store: RolloutStore, metadata: MetadataStore
) -> Iterator[tuple[ReadOuts, MetricReadOuts]]:
    with contextlib.ExitStack() as stack:
        opened: list[PermittedLog] = []

        def logs() -> list[PermittedLog]:
            if not opened:
                opened.extend(stack.enter_context(measured_partitions(settings, clock=now_ms)))
            return opened

        outcomes = ExactOutcomes(logs)
        metrics = MetricReadOuts(
            lambda: load_metrics(settings.experiment_metrics),
            MetricRegistrations(metadata, clock=now_ms),
            outcomes,
            clock=now_ms,
            arms=known_arms(settings.experiments, FlagStore(metadata, clock=now_ms)),
        )
        yield ReadOuts(store, outcomes, clock=now_ms), metrics
