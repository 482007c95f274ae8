"""Metrics that cannot exist are refused with file, line, key and cure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.support import small_settings

from tactful.cli.main import main
from tactful.config.recommendation import RecommendSettings
from tactful.config.settings import Settings
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.errors import MetricError
from tactful.maintenance.doctor import examine

HEAD = "metrics:\n  - {name: buyers, kind: binary, event: purchase, window: 7d}\n"
SUM = "kind: sum, event: purchase, window: 7d"


@pytest.mark.parametrize(
    ("line", "key", "cure"),
    [
        ("{name: a, kind: binnary, event: click, window: 1d}", "kind", "did you mean 'binary'"),
        (f"{{name: a, {SUM}}}", "value", "such as value: properties.price"),
        (f"{{name: a, {SUM}, value: price}}", "value", "write properties.price"),
        ("{name: a, kind: binary, event: click, window: 1d, cap: 3}", "cap", "leave it out"),
        ("{name: a, kind: binary, event: click, window: 0d}", "window", "above zero"),
        ("{name: a, kind: binary, event: click}", "window", "such as 7d"),
        ("{name: a, kind: binary, window: 1d}", "event", "missing"),
        ("{name: a, kind: binary, event: clik, window: 1d}", "event", "did you mean 'click'"),
        ("{name: a, kind: ratio, numerator: none, denominator: buyers}", "numerator", "define it"),
        ("{name: a, kind: ratio, numerator: buyers}", "denominator", "missing"),
        ("{name: a, kind: ratio, numerator: buyers, denominator: buyers, window: 1d}", "window",
         "a ratio has the window of its parts"),
        ("{name: buyers, kind: count, event: click, window: 1d}", "name", "line 2: rename one"),
        ("{name: takers, kind: count, event: click, window: 1d}", "name", "built-in"),
        ("{name: 点击, kind: count, event: click, window: 1d}", "name", "snake_case"),
        ("{name: a, kind: retention, event: click, window: 1d}", "delay", "delay: 7d"),
        ("{name: a, kind: quantile, event: click, window: 1d, value: properties.ms}", "level",
         "missing"),
        ("{name: a, kind: quantile, event: click, window: 1d, value: properties.ms, level: 2}",
         "level", "between 0 and 1"),
        (f"{{name: a, {SUM}, value: properties.p, minus: purchase}}", "minus", "one of both"),
        (f"{{name: a, {SUM}, value: properties.p, cap: -1}}", "cap", "above 0"),
        ("{name: a, kind: count, event: click, window: 1d, delay: -1d}", "delay", "use cuped"),
        ("{name: a, kind: count, event: click, window: 1d, filter: {category: x}}", "filter",
         "write properties.category"),
        ("{name: a, kind: count, event: click, window: 1d, filter: {properties.x: {$no: 1}}}",
         "filter", "unknown operator"),
        ("{name: a, kind: count, event: click, window: 1d, filter: &f {properties.x: *f}}",
         "filter", "write the value out"),
        ("{name: a, kind: count, event: click, window: 1d, minimum_outcomes: 0}",
         "minimum_outcomes", "from 2"),
        ("{name: a, kind: count, event: click, window: 1d, limit: 3}", "limit", "it has name"),
    ],
)  # fmt: skip
def test_a_wrong_metric_is_refused_with_its_line(line: str, key: str, cure: str) -> None:
    with pytest.raises(MetricError) as refused:
        load_metrics(f"{HEAD}  - {line}\n")
    message = str(refused.value)
    assert message.startswith("metrics:3: ")
    assert key in message and cure in message


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("{goals: [buyers]}", "experiment is missing"),
        ("{experiment: e}", "goals is missing"),
        ("{experiment: e, goals: [byers]}", "did you mean 'buyers'"),
        ("{experiment: e, goals: [buyers], guardrails: [buyers]}", "give each metric one role"),
        ("{experiment: e, goals: [buyers], guardrails: [{metric: buyers, margin: 2}]}", "no share"),
        ("{experiment: e, goals: [buyers], correction: bonferroni}", "not one of holm, bh, none"),
        ("{experiment: e, goals: [buyers], cuped: 0d}", "above zero"),
        ("{experiment: e, goals: [buyers], alpha: 0.9}", "between 0 and 0.5"),
        ("{experiment: e, goals: [buyers], start: yesterday}", "write 2026-11-01"),
        ("{experiment: e, goals: [buyers], arms: {a: 0.5, b: 0.6}}", "sum to 1"),
        ("{experiment: e, goals: [buyers], arms: {a: 1}}", "between 0 and 1"),
        ("{experiment: e, goals: [buyers], segments: [{name: s, condition: {age: 1}}]}",
         "properties, context, user"),
        ("{experiment: e, goals: [buyers], segments: [{name: s}]}", "condition is missing"),
        ("{experiment: ' ', goals: [buyers]}", "printable"),
    ],
)  # fmt: skip
def test_a_wrong_analysis_is_refused_with_its_line(line: str, cure: str) -> None:
    with pytest.raises(MetricError, match=r"^metrics:4: ") as refused:
        load_metrics(f"{HEAD}experiments:\n  - {line}\n")
    assert cure in str(refused.value)


def test_two_analyses_of_one_experiment_are_refused() -> None:
    twice = "  - {experiment: e, goals: [buyers]}\n" * 2
    with pytest.raises(MetricError, match=r"metrics:5: .*line 4: join both"):
        load_metrics(f"{HEAD}experiments:\n{twice}")


def test_parts_of_a_ratio_need_one_window() -> None:
    other = "  - {name: clicks, kind: count, event: click, window: 1d}\n"
    ratio = "  - {name: r, kind: ratio, numerator: buyers, denominator: clicks}\n"
    with pytest.raises(MetricError, match=r"metrics:4: .*different windows"):
        load_metrics(HEAD + other + ratio)


def test_the_packaged_metrics_are_right_and_unused() -> None:
    found = load_metrics(Settings().experiment_metrics)
    assert {"buyers", "spend"} <= found.metrics.keys() and not found.plans


def test_empty_files_have_no_metrics(tmp_path: Path) -> None:
    for text in ("", "metrics:\nexperiments:\n", "# nothing\n"):
        assert not load_metrics(text).metrics
    with pytest.raises(MetricError, match="cannot be read"):
        load_metrics(tmp_path / "none.yaml")


@given(st.text(alphabet="metrics: -{}[],\n&*#'\"nakidbry点x$0\\", max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        load_metrics("metrics:" + text)
    except MetricError as error:
        assert str(error).startswith("metrics:")


def test_the_command_prints_metrics_or_the_first_error(tmp_path: Path) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(f"{HEAD}experiments:\n  - {{experiment: 结账, goals: [buyers]}}\n", "utf-8")
    shown = CliRunner().invoke(main, ["metrics", "check", str(file)])
    assert shown.exit_code == 0 and "结账 (goal)" in shown.stdout
    file.write_text(HEAD + "  - {name: a, kind: sum}\n", "utf-8")
    refused = CliRunner().invoke(main, ["metrics", "check", str(file)])
    assert refused.exit_code == 2 and f"{file}:3: window is missing" in refused.stderr


def test_the_doctor_checks_the_file(tmp_path: Path) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(HEAD)
    settings = replace(small_settings(tmp_path), recommend=RecommendSettings(metrics=file))
    found = {check.name: check for check in examine(settings)}
    assert found["metrics"].state == "ok"
    assert found["metrics"].said == "1 metrics and 0 analyses in metrics.yaml"
    file.write_text("metrics: 1")
    (failed,) = (check for check in examine(settings) if check.name == "metrics")
    assert failed.state == "failed" and "metrics.yaml:1" in failed.said
