"""Record a read-out of an experiment as a run in MLflow."""

from __future__ import annotations

import os

import msgspec

from tactful.models.rollout_effects import figures_of
from tactful.schemas.experiments.readouts import ReadOutMessage

_LONGEST = 250


def record_read_out(found: ReadOutMessage, report: str) -> str:
    """Record the effects of a read-out, and its HTML report; return the id of the run.

    The server of MLflow is that of `MLFLOW_TRACKING_URI`, else a file in the working directory.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    mlflow.set_experiment("experiments")
    with mlflow.start_run(run_name=found.key[:_LONGEST]) as run:
        mlflow.set_tags(
            {
                "experiment": found.key[:_LONGEST],
                "source": found.source,
                "sample_ratio": found.sample_ratio.verdict,
            }
        )
        mlflow.log_metrics(figures_of(found))
        mlflow.log_dict(msgspec.to_builtins(found), "effects.json")
        mlflow.log_text(report, "report.html")
    return str(run.info.run_id)
