"""``tactful serve`` and ``tactful worker``: processes that run until they are stopped."""

from __future__ import annotations

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.util.supervisor import supervise_this

FENCED = 75
"""Exit code that asks to be started again: this process was silent for too long."""


@click.command()
@cli.settings_with(
    host="server.host", port="server.port", dev="server.dev", workers="server.workers"
)
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one.")
@click.option("--dev", is_flag=True, default=None, help="No API keys; loopback only.")
@click.option("--workers", type=int, help="Number of additional processes that answer requests.")
@click.option("--rebuild", is_flag=True, help="Compute all features again from the log.")
@click.option("--supervise", is_flag=True, help="Restart the server after a crash.")
@cli.json_option
def serve(settings: Settings, rebuild: bool, supervise: bool, as_json: bool) -> None:
    """Run a server: ingestion, engine and recommendation, in one process or several."""
    if supervise:
        if rebuild:
            raise click.UsageError("--supervise not with --rebuild: a crash would begin it again")
        supervise_this()
    # Here, since it takes 150 MB that a supervising process does without.
    from tactful.workers.pool import run_server

    run_server(settings, rebuild=rebuild, as_json=as_json)


@click.command()
@cli.settings_with(threads="worker.threads", fired_topic="worker.fired_topic")
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Members of the worker group in this process."
)
@click.option("--fired-topic", help="Topic for fired windows.")
@click.option("--matches-topic", help="Topic for matches of sequences and pairs of joins.")
@click.option("--supervise", is_flag=True, help="Restart the worker after a crash or exit code 75.")
@click.option("--idle-exit", type=click.FloatRange(min=0), help="End after so many idle seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object a line.")
def worker(
    settings: Settings,
    matches_topic: str | None,
    supervise: bool,
    idle_exit: float | None,
    as_json: bool,
) -> None:
    """Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.

    Start as many as there are cores, on any number of hosts: they share the partitions, and take
    over those of a worker that ends or dies. Exit code 75: start it again.
    """
    if settings.log.in_files:
        raise ConfigError('log.kind is "embedded": workers share the partitions of a log in Kafka')
    if supervise:
        supervise_this(again=FENCED)
    from tactful.feature_workers.run import run_workers  # not in a supervising process

    if not run_workers(settings, matches_topic, idle_exit=idle_exit, as_json=as_json):
        raise SystemExit(FENCED)
