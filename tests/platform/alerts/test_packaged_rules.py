"""Every packaged rule finds its fault, clears after the repair, and has a runbook."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.platform.alerts.plant import FAULTS, Plant

from tactful.alerts.evaluate import evaluate
from tactful.alerts.memory import Memory
from tactful.alerts.rules import PACKAGED, load_alerts, read_alerts
from tactful.alerts.samples import Reading
from tactful.errors import ConfigError
from tactful.schemas.alerts import AlertRule

_RULES = {rule.name: rule for rule in read_alerts(PACKAGED).rules}
_JUDGED = [name for name, rule in _RULES.items() if rule.kind != "decision"]
_HOUR = 3_600_000
_BEGIN = 1_700_000_000_000 // _HOUR * _HOUR
_RUNBOOK = Path(__file__).parents[3] / "docs" / "reference" / "alerts.md"


class Watch:
    """One rule over a plant, through time."""

    def __init__(self, rule: AlertRule) -> None:
        self.rule, self.plant, self.memory, self.now = rule, Plant(), Memory(), _BEGIN

    def run(self, minutes: float, step_s: int) -> list[str]:
        changes: list[str] = []
        for _ in range(int(minutes * 60 / step_s)):
            self.now += step_s * 1000
            self.plant.pass_time(step_s)
            found = evaluate([self.rule], self.plant.scrape(self.rule), self.now, self.memory)
            changes += [it.change for it in found if it.change != "open"]
        return changes


def test_there_is_a_fault_for_each_rule() -> None:
    assert FAULTS.keys() == {*_JUDGED}


@pytest.mark.parametrize("name", _JUDGED)
def test_it_finds_its_fault_and_clears(name: str) -> None:
    watch = Watch(_RULES[name])
    # Three weeks and more, for the rules that compare an hour with the weeks before.
    seasonal = watch.rule.kind in ("anomaly", "drift")
    assert watch.run(*((25 * 1440, 1800) if seasonal else (20, 15))) == []
    for series, value in FAULTS[name].items():
        if isinstance(series, str):
            watch.plant.gauges[series] = value
        else:
            watch.plant.rates[series] = value
    if name == "released_ctr":
        watch.plant.released = Reading(0.003, 0.002, 0.004, "0.003 released")
    hours = 4.0 if seasonal else 0.25
    assert watch.run(hours * 60, 60 if seasonal else 15) == ["opened"]
    watch.plant.repair()
    assert watch.run(60 * 6, 60) == ["cleared"]


@pytest.mark.parametrize("name", _RULES)
def test_it_has_a_section_in_the_runbook(name: str) -> None:
    headings = re.findall(r"^### ([a-z_]+)$", _RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert name in headings


def test_the_file_of_a_shop_replaces_and_adds_rules(tmp_path: Path) -> None:
    own = tmp_path / "alerts.yaml"
    own.write_text(
        "rules:\n"
        "  - {name: disk, kind: threshold, summary: s, value: {metric: m}, below: 0.3, route: a}\n"
        "  - {name: mine, kind: absence, summary: s, value: {metric: m}}\n"
        "routes:\n"
        "  - {name: a, sinks: [{kind: slack, url_env: SLACK}]}\n"
    )
    rules = {rule.name: rule for rule in load_alerts(own).rules}
    assert getattr(rules["disk"], "below", None) == 0.3 and "mine" in rules
    assert len(rules) == len(_RULES) + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rules: [{name: a, kind: treshold}]", "rule a: .*treshold"),
        ("rules: [{name: a, kind: absence, summary: s, value: {metric: m}, route: b}]", "no route"),
        ("rules: [{name: a, kind: decision, summary: s}]", "rule a: .*actions"),
        ("rules: [{name: a, kind: decision, summary: s, actions: []}]", "rule a: .*length"),
        ("rules: [{name: a, kind: decision, summary: s, actions: [stop]}]", "rule a: .*regex"),
        ("rules: [{name: a, kind: decision, summary: s, actions: [person.erase]}]", "persons"),
        (
            "rules: [{name: a, kind: decision, summary: s, actions: [m.x], value: {metric: m}}]",
            "no value",
        ),
        ("routes: [{name: a, sinks: []}]", "route a"),
        ("rules: [", "not YAML"),
        ("rules: {a: 1}", "Expected `?array"),
        (
            "routes: [{name: a, quiet: {from: '22:00', to: '06:00', zone: Moon},"
            " sinks: [{kind: slack, url_env: S}]}]",
            "Moon",
        ),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    own = tmp_path / "alerts.yaml"
    own.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_alerts(own)
    assert str(own) in str(caught.value)
