"""Write the dashboards of this folder: ``python deploy/grafana/make_dashboards.py``.

The tables below are the dashboards. It needs `grafana-foundation-sdk`, whose types they fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FOLDER = Path(__file__).parent

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_I = 'instance=~"$instance"'


@dataclass(frozen=True)
class Graph:
    """A panel: its title, the unit as Grafana names it, and expressions by legend."""

    title: str
    unit: str
    lines: Mapping[str, str]


def _quantiles(metric: str, labels: str = "", legend: str = "") -> dict[str, str]:
    return {f"p{{{{quantile}}}} {legend}".strip(): f"{metric}{{{_I}{labels}}}"}


SERVER: Mapping[str, Sequence[Graph]] = {
    "State": (
        Graph("Up", "short", {"{{instance}}": f'up{{job="tactful",{_I}}}'}),
        Graph("Uptime", "s", {"{{instance}}": f"tactful_uptime_seconds{{{_I}}}"}),
        Graph("Long jobs", "short", {"{{state}}": f"sum by (state) (tactful_jobs{{{_I}}})"}),
    ),
    "Requests": (
        Graph(
            "Time of requests",
            "s",
            _quantiles("tactful_request_seconds", legend="{{route}}"),
        ),
        Graph(
            "Errors",
            "reqps",
            {
                "{{status}} {{route}}": "sum by (status, route) "
                f"(rate(tactful_answers_total{{{_I}}}[5m]))"
            },
        ),
        Graph("Waiting", "short", {"{{instance}}": f"tactful_recommend_waiting{{{_I}}}"}),
    ),
    "Events": (
        Graph("Freshness", "s", _quantiles("tactful_freshness_seconds")),
        Graph("Records not applied", "short", {"{{instance}}": f"tactful_engine_lag{{{_I}}}"}),
        Graph("Watermark", "s", {"{{instance}}": f"tactful_watermark_age_seconds{{{_I}}}"}),
        Graph("Rejected share", "percentunit", {"{{kind}}": f"tactful_rejected_share{{{_I}}}"}),
        Graph(
            "Rejections by code",
            "percentunit",
            {"{{kind}} {{code}}": f"tactful_rejections_share{{{_I}}}"},
        ),
        Graph(
            "Records that did not count",
            "percentunit",
            {
                "{{result}}": f"tactful_engine_records_share{{{_I}}}",
                "dead letters": f"tactful_dead_letters_share{{{_I}}}",
            },
        ),
    ),
    "Machine": (
        Graph("Memory", "bytes", {"{{instance}}": f"tactful_memory_bytes{{{_I}}}"}),
        Graph(
            "Disk",
            "bytes",
            {"free": f"tactful_disk_free_bytes{{{_I}}}", "size": f"tactful_disk_bytes{{{_I}}}"},
        ),
        Graph("State of the engine", "bytes", {"state": f"tactful_engine_state_bytes{{{_I}}}"}),
        Graph("Not durable yet", "bytes", {"waiting": f"tactful_commit_pending_bytes{{{_I}}}"}),
        Graph(
            "Failures",
            "short",
            {
                "log lines": f"increase(tactful_logged_errors_total{{{_I}}}[5m])",
                "commits": f"increase(tactful_commits_refused_total{{{_I}}}[5m])",
                "impressions": f"increase(tactful_impressions_lost_total{{{_I}}}[5m])",
            },
        ),
        Graph(
            "Receivers of erasures",
            "short",
            {"failing": f"tactful_erasure_receivers_failing{{{_I}}}"},
        ),
    ),
}

STAGES: Mapping[str, Sequence[Graph]] = {
    "Engine": tuple(
        Graph(title, "s", _quantiles("tactful_stage_seconds", f',stage="{stage}"'))
        for stage, title in (
            ("log", "Write to the log"),
            ("apply", "Apply a batch"),
            ("commit", "Commit the state"),
        )
    ),
    "Recommendation": (
        *(
            Graph(title, "s", _quantiles("tactful_stage_seconds", f',stage="{stage}"'))
            for stage, title in (("recall", "Recall"), ("rank", "Rank"), ("arrange", "Arrange"))
        ),
        Graph(
            "Incomplete recommendations",
            "percentunit",
            {"{{kind}}": f"tactful_recommendations_share{{{_I}}}"},
        ),
        Graph("Age of the model", "d", {"champion": f"tactful_model_age_days{{{_I}}}"}),
        Graph("Features to compute", "short", {"missing": f"tactful_features_missing{{{_I}}}"}),
    ),
    "Operation": (
        Graph(
            "Log",
            "short",
            {
                "unreachable": f"tactful_log_unreachable{{{_I}}}",
                "spooled": f"tactful_log_spooled{{{_I}}}",
            },
        ),
        Graph(
            "Flink job",
            "short",
            {
                "failing": f"tactful_flink_job_failing{{{_I}}}",
                "restarts": f"tactful_flink_job_restarts{{{_I}}}",
                "records not read": f"tactful_flink_lag{{{_I}}}",
            },
        ),
        Graph(
            "Last checkpoint of the Flink job",
            "s",
            {"age": f"tactful_flink_checkpoint_age_seconds{{{_I}}}"},
        ),
        Graph(
            "Requests of operators",
            "s",
            {"p99": f'max by (route) (tactful_request_seconds{{{_I},quantile="0.99"}})'},
        ),
        Graph(
            "Jobs that failed",
            "short",
            {"{{state}}": f'tactful_jobs{{{_I},state=~"failed|killed"}}'},
        ),
    ),
}


def dashboard_of(uid: str, title: str, rows: Mapping[str, Sequence[Graph]]) -> str:
    """Return a dashboard as the JSON that Grafana imports."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .tags(["tactful"])
        .refresh("10s")
        .time("now-1h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(
            dashboard.QueryVariable("instance")
            .query("label_values(tactful_uptime_seconds, instance)")
            .datasource(_SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
    )
    for row, graphs in rows.items():
        made = made.with_row(dashboard.Row(row))
        for graph in graphs:
            made = made.with_panel(_panel(graph))
    return str(JSONEncoder(sort_keys=True, indent=2).encode(made.build())) + "\n"


def _panel(graph: Graph) -> timeseries.Panel:
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
    )
    panel = timeseries.Panel().title(graph.title).unit(graph.unit).span(8).height(7)
    panel = panel.datasource(_SOURCE).legend(legend)
    for number, (name, expression) in enumerate(graph.lines.items()):
        target = prometheus.Dataquery().expr(expression).legend_format(name)
        panel = panel.with_target(target.ref_id("ABCDEF"[number]))
    return panel


def dashboards() -> Mapping[str, str]:
    """Return the content of each file of this folder."""
    return {
        "server.json": dashboard_of("tactful-server", "tactful: server", SERVER),
        "stages.json": dashboard_of("tactful-stages", "tactful: stages", STAGES),
    }


if __name__ == "__main__":
    for name, content in dashboards().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
