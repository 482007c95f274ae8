"""Alert rules and routes as data: the file `alerts.yaml`, checked.

```yaml
rules:
  - name: engine_lag
    kind: threshold
    summary: The engine does not keep up with the log
    value: {metric: tactful_engine_lag}
    above: 100000
    clear: 20000
    for: 1m
    severity: critical
routes:
  - name: night_shift
    severities: [critical]
    quiet: {from: '22:00', to: '06:00', zone: Europe/Berlin}
    sinks:
      - {kind: slack, url_env: SLACK_URL}
```

The shop's file is read after the packaged one: a rule of the same name replaces the packaged rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import yaml

from tactful.errors import ConfigError
from tactful.schemas.alert_routes import AlertRoute
from tactful.schemas.alerts import AlertRule, DecisionRule, Signal, ThresholdRule
from tactful_privacy.decoding import DECODE_ERRORS

PACKAGED = Path(__file__).parents[1] / "alerts.yaml"
"""Packaged rules, for the whole chain."""


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of a file."""

    rules: list[AlertRule] = []
    routes: list[AlertRoute] = []


class AlertFile(msgspec.Struct, frozen=True, kw_only=True):
    """Rules and routes of files; `own` names the rules that the shop's file defines."""

    rules: list[AlertRule] = []
    routes: list[AlertRoute] = []
    own: list[str] = []


def read_alerts(path: Path) -> AlertFile:
    """Read a file of rules and routes.

    Raises:
        ConfigError: if it cannot be read or is wrong; the message names file, rule and field.
    """
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, *DECODE_ERRORS) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    try:
        content = msgspec.convert({} if document is None else document, _Document)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_named(error, document)}") from error
    for kind, names in (
        ("rules", [rule.name for rule in content.rules]),
        ("routes", [route.name for route in content.routes]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{path}: two {kind} have the name {twice[0]!r}")
    for rule in content.rules:
        check_rule(rule, where=str(path))
    return AlertFile(rules=content.rules, routes=content.routes)


def load_alerts(own: Path = Path()) -> AlertFile:
    """Read the packaged rules, and the file `own` of a shop after them.

    Raises:
        ConfigError: as `read_alerts`; or a rule names a route that no file defines.
    """
    content = read_alerts(PACKAGED)
    if own != Path():
        shop = read_alerts(own)
        rules = merged(content.rules, shop.rules)
        own_rules = [rule.name for rule in shop.rules]
        content = AlertFile(rules=rules, routes=shop.routes, own=own_rules)
    check_routes(content.rules, content.routes, where=str(own))
    return content


def check_routes(rules: Iterable[AlertRule], routes: Iterable[AlertRoute], *, where: str) -> None:
    """Raise ConfigError if a rule names a route that is not among `routes`."""
    known = {route.name for route in routes}
    for rule in rules:
        if rule.route and rule.route not in known:
            raise ConfigError(
                f"{where}: rule {rule.name}: there is no route {rule.route!r}; "
                f"known are {', '.join(sorted(known)) or 'none'}"
            )


def merged(rules: Iterable[AlertRule], changed: Iterable[AlertRule]) -> list[AlertRule]:
    """Return `rules` with those of `changed` in the place of rules of the same name."""
    by_name = {rule.name: rule for rule in rules}
    by_name.update((rule.name, rule) for rule in changed)
    return list(by_name.values())


def check_rule(rule: AlertRule, *, where: str) -> None:
    """Raise ConfigError if fields of a rule contradict each other."""
    if isinstance(rule, DecisionRule):
        mistake = _mistake_of_decision(rule)
    else:
        mistake = _mistake_of_signal(rule.value, histogram=rule.kind == "drift")
    if not mistake and isinstance(rule, ThresholdRule):
        mistake = _mistake_of_levels(rule)
    if mistake:
        raise ConfigError(f"{where}: rule {rule.name}: {mistake}")


def _mistake_of_decision(rule: DecisionRule) -> str:
    if rule.value != Signal():
        return "a decision has no value: leave it out, or choose another kind"
    if any(action.startswith("person.") for action in rule.actions):
        return "actions about persons are sent nowhere: name others"
    return ""


def _mistake_of_levels(rule: ThresholdRule) -> str:
    if (rule.above is None) == (rule.below is None):
        return "give either above or below"
    if rule.clear is not None and rule.above is not None and rule.clear > rule.above:
        return f"clear ({rule.clear:g}) must not be greater than above ({rule.above:g})"
    if rule.clear is not None and rule.below is not None and rule.clear < rule.below:
        return f"clear ({rule.clear:g}) must not be smaller than below ({rule.below:g})"
    return ""


def _mistake_of_signal(signal: Signal, *, histogram: bool) -> str:
    if bool(signal.metric) == bool(signal.statistic):
        return "value needs either metric or statistic"
    if signal.statistic and (signal.labels or signal.by or signal.change == "increase"):
        return "value.statistic has keys, not labels, by or change"
    if signal.metric and (signal.keys or signal.over):
        return "value.keys and value.over belong to a statistic"
    if signal.share_of is not None and signal.change != "increase":
        return "value.share_of needs change: increase"
    if signal.whole and signal.share_of is None:
        return "value.whole needs share_of"
    if histogram and signal.statistic:
        return "drift compares the histogram of a metric, not a statistic"
    return ""


def _named(error: msgspec.ValidationError, document: object) -> str:
    """Return the message of an error with the name of its rule or route."""
    text = str(error).replace("`", "")
    for group in ("rules", "routes"):
        place = text.partition(f"$.{group}[")[2].partition("]")[0]
        if place.isdecimal() and isinstance(document, dict):
            entry = document[group][int(place)]
            name = entry.get("name") if isinstance(entry, dict) else None
            return f"{group[:-1]} {name or place}: {text}"
    return text
