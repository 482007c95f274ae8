"""``tactful worker``: compute features on a share of the log's partitions."""

from __future__ import annotations

from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.load import load_settings
from tactful.errors import ConfigError
from tactful.util.supervisor import supervise_this

FENCED = 75
"""Exit code that asks to be started again: this process was silent for too long."""


@click.command()
@cli.config_option
@cli.data_option
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="Number of members of the worker group in this process.",
)
@click.option("--fired-topic", help="Topic for fired windows.")
@click.option("--matches-topic", help="Topic for matches of sequences and pairs of joins.")
@click.option(
    "--supervise", is_flag=True, help="Restart the worker after a crash or on exit code 75."
)
@click.option("--idle-exit", type=click.FloatRange(min=0), help="End after so many idle seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object a line.")
def worker(
    config: Path | None,
    data: Path | None,
    threads: int | None,
    fired_topic: str | None,
    matches_topic: str | None,
    supervise: bool,
    idle_exit: float | None,
    as_json: bool,
) -> None:
    """Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.

    Start as many as there are cores, on any number of hosts: they share the partitions, and take
    over those of a worker that ends or dies. Exit code 75: start it again.
    """
    settings = load_settings(
        config,
        overrides={
            "storage.data": data,
            "worker.threads": threads,
            "worker.fired_topic": fired_topic,
        },
    )
    if settings.log.in_files:
        raise ConfigError('log.kind is "embedded": workers share the partitions of a log in Kafka')
    if supervise:
        supervise_this(again=FENCED)
    from tactful.feature_workers.run import (
        run_workers,  # memory that a supervising process does without
    )

    if not run_workers(settings, matches_topic, idle_exit=idle_exit, as_json=as_json):
        raise SystemExit(FENCED)
