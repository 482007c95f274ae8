"""Metrics of experiments as YAML: read, validate, and report errors with line and key.

```yaml
metrics:
  - {name: buyers, kind: binary, event: purchase, window: 7d}
  - {name: orders, kind: count, event: purchase, window: 7d, cap: 20}
  - name: spend
    kind: sum
    event: purchase
    minus: refund
    value: properties.price
    times: properties.quantity
    filter: {properties.currency: CHF}
    window: 7d
    cap: 500
  - {name: spend_per_order, kind: ratio, numerator: spend, denominator: orders}
  - {name: slow_page, kind: quantile, event: x.page, value: properties.load_ms, level: 0.95,
     window: 1d, direction: lower}
  - {name: back_in_week_2, kind: retention, event: [view, click], delay: 7d, window: 7d}
experiments:
  - experiment: new-checkout
    goals: [buyers]
    guardrails: [{metric: spend, margin: 0.02}]
    secondary: [slow_page]
    cuped: 14d
    correction: holm
    segments: [{name: phones, condition: {context.device: phone}}]
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tactful.experiment_metrics.errors import MetricError, Mistake
from tactful.experiment_metrics.read_nodes import MetricReader
from tactful.schemas.experiments.metrics import (
    MetricDefinition,
    MetricIndex,
    MetricInfo,
    MetricPlan,
    MetricUse,
    PlanInfo,
)
from tactful_streaming.definitions.yaml_nodes import read_text


@dataclass(frozen=True)
class MetricSet:
    """The metrics of an installation and the analyses of its experiments."""

    metrics: Mapping[str, MetricDefinition]  # by name
    plans: Mapping[str, MetricPlan]  # by key of the experiment

    def of_plan(self, plan: MetricPlan) -> dict[str, MetricDefinition]:
        """Return the metrics that a plan needs by name: its own, and the parts of its ratios."""
        needed: dict[str, MetricDefinition] = {}
        for name in plan.roles:
            metric = self.metrics[name]
            needed |= {part: self.metrics[part] for part in (*metric.parts, name)}
        return needed

    def index(self, registered: Mapping[str, tuple[int, str]] | None = None) -> MetricIndex:
        """Describe all metrics with their uses; `registered` has time and author by plan."""
        uses: dict[str, list[MetricUse]] = {name: [] for name in self.metrics}
        for plan in self.plans.values():
            for name, role in plan.roles.items():
                uses[name].append(MetricUse(experiment=plan.experiment, role=role))
        known = registered or {}
        plans = []
        for key, plan in self.plans.items():
            at, by = known.get(key, (None, ""))
            plans.append(PlanInfo(plan=plan, registered_at=at, registered_by=by))
        metrics = [MetricInfo(definition=it, used=uses[it.name]) for it in self.metrics.values()]
        return MetricIndex(metrics=metrics, experiments=plans)


def load_metrics(source: Path | str) -> MetricSet:
    """Read metrics and analyses from a YAML file or text, and check each against the others.

    Raises:
        MetricError: if a definition is wrong; the message begins ``file:line:`` and names the key.
    """
    try:
        return _read(source)
    except Mistake as mistake:
        raise MetricError(str(mistake)) from None


def _read(source: Path | str) -> MetricSet:
    name, text = read_text(source, "metrics", Mistake)
    reader = MetricReader(name, Mistake)
    root = reader.compose(text)
    if root is None:
        return MetricSet({}, {})
    keys = reader.mapping(root, "a file of metrics", ("metrics", "experiments"))
    metrics: dict[str, MetricDefinition] = {}
    plans: dict[str, MetricPlan] = {}
    for node in _entries(reader, keys, "metrics"):
        metric = reader.metric(node, metrics)
        metrics[metric.name] = metric
    for node in _entries(reader, keys, "metrics"):
        reader.check_ratio(node, metrics)
    for node in _entries(reader, keys, "experiments"):
        plan = reader.plan(node, metrics)
        if plan.experiment in plans:
            line = plans[plan.experiment].line
            raise reader.mistake(
                node, f"experiment: {plan.experiment!r} has an analysis in line {line}: join both"
            )
        plans[plan.experiment] = plan
    return MetricSet(metrics, plans)


def _entries(
    reader: MetricReader, keys: Mapping[str, tuple[yaml.Node, yaml.Node]], key: str
) -> list[yaml.Node]:
    if key not in keys:
        return []
    node = keys[key][1]
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "null", "~"):
        return []
    if not isinstance(node, yaml.SequenceNode):
        raise reader.mistake(node, f"{key}: a list is needed: lines that begin with '- '")
    return list(node.value)
