"""Record when the analysis of an experiment was fixed, so that later choices are known as such.

A metric, a segment or a covariate that is chosen after outcomes were seen finds differences by
chance. Each form of an analysis is stored once with its time; only parts that stood before the
first exposure confirm anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
import sqlalchemy as sa

from tactful.experiment_metrics.definitions import MetricSet
from tactful.experiment_metrics.effects import Planned
from tactful.metadata.audit import note_change
from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import metric_plans
from tactful.schemas.experiments.metrics import MetricDefinition, MetricPlan, Role

_table = metric_plans.c


class _Form(msgspec.Struct, frozen=True):
    """An analysis with the metrics that it uses, as stored."""

    plan: MetricPlan
    metrics: dict[str, MetricDefinition]


@dataclass(frozen=True)
class _Registered:
    """A stored form of an analysis."""

    at: int
    by: str
    form: _Form


class MetricRegistrations:
    """Stores the forms of analyses; StorageError if the database cannot be used."""

    def __init__(self, metadata: MetadataStore, *, clock: Callable[[], int]) -> None:
        """Use a database whose schema is up to date, and a clock in epoch milliseconds."""
        self._metadata = metadata
        self._clock = clock

    def register(self, metrics: MetricSet, *, by: str) -> list[str]:
        """Store each analysis that differs from its last form; return the keys of those."""
        forms = {key: _form(plan, metrics.of_plan(plan)) for key, plan in metrics.plans.items()}

        def store(connection: sa.Connection) -> list[str]:
            changed = []
            for key, form in forms.items():
                query = sa.select(metric_plans).where(_table.experiment == key)
                last = connection.execute(query.order_by(_table.id.desc()).limit(1)).first()
                if last is not None and _read(last).form == form:
                    continue
                at = self._clock()
                text = msgspec.json.encode(form).decode()
                row = {"experiment": key, "at": at, "registered_by": by, "analysis": text}
                connection.execute(sa.insert(metric_plans).values(**row))
                note_change(connection, at, by, "metrics.register", key, ", ".join(form.metrics))
                changed.append(key)
            return changed

        return self._metadata.change(store)

    def latest(self) -> dict[str, tuple[int, str]]:
        """Return time and author of the last form of each analysis."""
        rows = self._metadata.fetch(sa.select(metric_plans).order_by(_table.id))
        return {row.experiment: (row.at, row.registered_by) for row in rows}

    def first(self, experiment: str) -> int | None:
        """Return when an analysis was recorded first, epoch milliseconds; None if never."""
        query = sa.select(sa.func.min(_table.at)).where(_table.experiment == experiment)
        (row,) = self._metadata.fetch(query)
        return None if row[0] is None else int(row[0])

    def planned(
        self, plan: MetricPlan, metrics: Mapping[str, MetricDefinition], start: int
    ) -> Planned:
        """Return which parts of an analysis stood at its start, epoch milliseconds, as they are.

        A changed alpha, correction or start changes every part, a dropped metric those of its role.
        """
        query = sa.select(metric_plans).where(_table.experiment == plan.experiment)
        query = query.where(_table.at <= start).order_by(_table.id.desc()).limit(1)
        rows = self._metadata.fetch(query)
        if not rows:
            return Planned()
        then, now = _read(rows[0]).form, _form(plan, metrics)
        unchanged = {name for name, it in now.metrics.items() if then.metrics.get(name) == it}
        same = _rules(then.plan) == _rules(plan)
        roles = _complete_roles(then.plan, plan) if same else frozenset()
        kept = same and all(it in now.plan.segments for it in then.plan.segments)
        return Planned(
            metrics=frozenset(
                name
                for name, role in plan.roles.items()
                if role in roles
                and then.plan.roles.get(name) == role
                and unchanged.issuperset((name, *metrics[name].parts))
            ),
            segments=frozenset(
                it.name for it in now.plan.segments if kept and it in then.plan.segments
            ),
            cuped=then.plan.cuped_ms == plan.cuped_ms,
        )


def _rules(plan: MetricPlan) -> tuple[object, ...]:
    """Return the parts of a plan by which all of its metrics are judged."""
    return plan.alpha, plan.correction, plan.start


def _complete_roles(then: MetricPlan, now: MetricPlan) -> frozenset[Role]:
    """Return the roles that lost no metric, and guardrails whose margins stayed.

    The number of metrics of a role corrects their verdicts, so one that was dropped after outcomes
    were seen would make those of the others easier.
    """
    lost = {role for name, role in then.roles.items() if now.roles.get(name) != role}
    if not {*then.guardrails} <= {*now.guardrails}:
        lost.add("guardrail")
    return frozenset(get_args(Role)) - lost


def _form(plan: MetricPlan, metrics: Mapping[str, MetricDefinition]) -> _Form:
    """Return an analysis without what does not change its numbers: words and places in the file."""
    bare = {name: _bare(it, words="", line=0) for name, it in metrics.items()}
    return _Form(msgspec.structs.replace(plan, line=0), bare)


def _bare(metric: MetricDefinition, **fields: Any) -> MetricDefinition:
    return msgspec.structs.replace(metric, **fields)


def _read(row: sa.Row[Any]) -> _Registered:
    return _Registered(row.at, row.registered_by, msgspec.json.decode(row.analysis, type=_Form))
