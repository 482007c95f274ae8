"""Rules and dashboards in deploy/ fit the metrics of a server, Prometheus and Grafana's types."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import yaml

from tactful.config.settings import PACKAGED_FEATURES
from tactful.recommend.build import build as recommender
from tactful.server.platform import Platform
from tests.platform.support import Live, build, now_ms, small_settings, wait_until

ROOT = Path(__file__).resolve().parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
GRAFANA = ROOT / "deploy" / "grafana"
LABELS = 'instance="a", job="tactful"'
METRIC = re.compile(r"\btactful_[a-z_0-9]+")

# Of each alert: a series, its number as it should be, and one with the fault.
FAULTS: Mapping[str, tuple[str, str, str]] = {
    "TactfulDown": ("up{}", "1", "0"),
    "TactfulServerErrors": ('tactful_answers_total{route="/v1/events", status="500"}', "+0", "+9"),
    "TactfulRefusals": ('tactful_answers_total{route="/v1/events", status="503"}', "+0", "+900"),
    "TactfulEventsRejected": ('tactful_rejected_share{kind="event"}', "0.01", "0.1"),
    "TactfulEngineBehind": ("tactful_engine_lag{}", "9", "20000"),
    "TactfulWatermarkStalled": ("tactful_watermark_stalled_seconds{}", "2", "9000"),
    "TactfulFlinkJob": ("tactful_flink_job_failing{}", "0", "1"),
    "TactfulFeaturesStale": ('tactful_freshness_seconds{quantile="0.99"}', "0.01", "30"),
    "TactfulSlowRecommendations": (
        *('tactful_request_seconds{quantile="0.99", route="/v1/recommend"}', "0.005"),
        "2",
    ),
    "TactfulOverloaded": ('tactful_recommendations_share{kind="overloaded"}', "0", "0.1"),
    "TactfulDeadLetters": ("tactful_dead_letters_share{}", "0.01", "1"),
    "TactfulCommitRefused": ("tactful_commits_refused_total{}", "+0", "+1"),
    "TactfulLogUnreachable": ("tactful_log_unreachable{}", "0", "1"),
    "TactfulTaskFails": ('tactful_task_failures_total{task="erasure"}', "+0", "+2"),
    "TactfulLoggedErrors": ("tactful_logged_errors_total{}", "+0", "+1"),
    "TactfulModelOld": ("tactful_model_age_days{}", "3", "20"),
    "TactfulJobFailed": ('tactful_jobs{state="killed"}', "0", "+1"),
    "TactfulBudgetNearlySpent": ("tactful_budget_reserved_share{}", "0.5", "0.95"),
    "TactfulBackupOld": ('tactful_job_age_seconds{kind="backup"}', "86400", "200000"),
    "TactfulDiskFull": ("tactful_disk_free_share{}", "0.5", "0.05"),
    "TactfulWorkersDown": ("tactful_serving_workers_ready{}", "3", "2"),
    "TactfulWebhookFails": ("tactful_webhooks_failed{}", "0", "2"),
    "TactfulErasureUnconfirmed": ("tactful_erasure_receivers_failing{}", "0", "1"),
}
BESIDE = {"tactful_serving_workers": 3}
_FAULTY = 120  # minutes from 60 on


def rules() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def promtool(*arguments: object) -> str:
    tool = Path(os.environ["TACTFUL_TEST_PROMETHEUS"]).with_name("promtool")
    made = subprocess.run([tool, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout


def test_each_alert_has_a_fault_a_severity_and_a_runbook() -> None:
    found = rules()
    assert found.keys() == FAULTS.keys()
    for name, rule in found.items():
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        assert rule["annotations"].keys() == {"summary", "runbook"}, name


@pytest.mark.slow
@pytest.mark.service("prometheus")
def test_each_fault_fires_its_alert_alone_and_it_clears(tmp_path: Path) -> None:
    assert f"{len(FAULTS)} rules found" in promtool("check", "rules", RULES)
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(_unit_tests()))
    promtool("test", "rules", tmp_path / "test.yaml")


def _unit_tests() -> dict[str, Any]:
    """Per fault: an hour as it should be, two hours with the fault, and four as before."""
    tests = []
    for alert, (series, good, bad) in FAULTS.items():
        faulty = {series: _values(good, bad)}
        steady = {name: f"{value}x420" for name, value in BESIDE.items()}
        firing = 'sort(count by (alertname) (ALERTS{alertstate="firing"}))'
        fired = [{"labels": f'{{alertname="{alert}"}}', "value": 1}]
        tests.append(
            {
                "interval": "1m",
                "input_series": [
                    {"series": _labelled(name), "values": values}
                    for name, values in (faulty | steady).items()
                ],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": "55m", "exp_samples": []},
                    {"expr": firing, "eval_time": "175m", "exp_samples": fired},
                    {"expr": firing, "eval_time": "400m", "exp_samples": []},
                ],
            }
        )
    return {"rule_files": [str(RULES)], "evaluation_interval": "5m", "tests": tests}


def _values(good: str, bad: str) -> str:
    """Write numbers as promtool expands them; a ``+`` is the growth of a total by the minute."""
    if not bad.startswith("+"):
        return f"{good}x60 {bad}x{_FAULTY} {good}x240"
    end = int(bad) * _FAULTY
    return f"0x60 0{bad}x{_FAULTY} {end}x240"


def _labelled(series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    return f"{name}{{{', '.join(filter(None, (labels, LABELS)))}}}"


def dashboards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("made", GRAFANA / "make_dashboards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["made"] = module
    spec.loader.exec_module(module)
    return module


def expressions() -> list[str]:
    """All expressions of the dashboards' files, with a variable that matches everything."""
    found = []
    for path in sorted(GRAFANA.glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            found += [target["expr"] for target in panel.get("targets", ())]
    return [expression.replace("$instance", ".*") for expression in found]


def test_the_dashboards_are_those_of_the_tables() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    made = dashboards().dashboards()
    assert made == {path.name: path.read_text("utf-8") for path in GRAFANA.glob("*.json")}


def test_the_files_are_dashboards_that_grafanas_types_take() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    ids = set()
    for path in GRAFANA.glob("*.json"):
        read = Dashboard.from_json(json.loads(path.read_text("utf-8")))
        ids.add(read.uid)
        panels: list[Any] = [it for it in read.panels or () if it.type_val == "timeseries"]
        every: list[Any] = list(read.panels or ())
        panels = [panel for panel in every if panel.type_val == "timeseries"]
        assert len(panels) > 5
        for panel in panels:
            assert panel.targets, panel.title
            assert len({target.ref_id for target in panel.targets}) == len(panel.targets)
    assert len(ids) == len([*GRAFANA.glob("*.json")])


def replay(live: Live) -> None:
    """Send events, some of which are refused, and ask for recommendations."""
    live.http.put("/v1/items", json=[{"item_id": f"i{n}"} for n in range(20)])
    for number in range(100):
        event = {"type": "view", "timestamp": now_ms(), "user_id": f"u{number % 9}"}
        live.http.post("/v1/events", json=[{**event, "item_id": f"i{number % 20}"}, {"type": "x"}])
        live.http.post("/v1/recommend", json={"user_id": f"u{number % 9}", "count": 5})
        live.http.get("/v1/items/none")
    old = {"type": "view", "timestamp": now_ms() - 400 * 86_400_000, "user_id": "u1"}
    live.http.post("/v1/events", json=[{**old, "item_id": "i1"}])
    live.http.post("/v1/recommend", json={"user_id": "u1", "count": 100})


def test_rules_and_dashboards_name_metrics_that_a_server_has(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        replay(live)
        shown = live.http.get("/metrics").text
    known = set(re.findall(r"^# TYPE (tactful_\w+)", shown, re.MULTILINE))
    known |= {"tactful_serving_workers", "tactful_serving_workers_ready"}  # with --workers
    known |= {"tactful_webhooks_failed", "tactful_job_age_seconds"}  # with its setting
    flink = ("job_failing", "job_restarts", "lag", "checkpoint_age_seconds")
    known |= {f"tactful_flink_{name}" for name in flink}  # with engine.kind = "flink"
    named = {name for rule in rules().values() for name in METRIC.findall(rule["expr"])}
    named |= {name for text in expressions() for name in METRIC.findall(text)}
    assert named - known == set()


@contextmanager
def prometheus(target: str, folder: Path) -> Iterator[str]:
    """Run Prometheus, which reads `target` each second."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "tactful", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        *(os.environ["TACTFUL_TEST_PROMETHEUS"], f"--web.listen-address=127.0.0.1:{port}"),
        *(f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'tsdb'}"),
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.service("prometheus")
def test_prometheus_answers_every_expression_of_every_dashboard(tmp_path: Path) -> None:
    assert len(expressions()) > 25

    def answered(client: httpx.Client, expression: str) -> bool:
        answer = client.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, (expression, answer.text)
        return bool(answer.json()["data"]["result"])

    settings = small_settings(tmp_path)
    settings = replace(settings, engine=replace(settings.engine, features=PACKAGED_FEATURES))
    with (
        Live(Platform.open(settings, recommender)) as live,
        prometheus(live.url.removeprefix("http://"), tmp_path) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        wait_until(lambda: _answers(client) and answered(client, "tactful_uptime_seconds"))
        replay(live)
        time.sleep(3)
        replay(live)
        waiting = {each for each in expressions() if "tactful_flink_" not in each}
        until = time.monotonic() + 20
        while waiting and time.monotonic() < until:
            waiting = {each for each in waiting if not answered(client, each)}
            time.sleep(0.5)
        found = client.get("/api/v1/rules").json()["data"]["groups"][0]["rules"]
    assert waiting == set(), "Prometheus has no number for these"
    assert {rule["health"] for rule in found} == {"ok"}


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/-/ready").is_success
    except httpx.TransportError:
        return False
