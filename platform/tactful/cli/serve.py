"""``tactful serve`` and ``tactful worker``: processes that run until they are stopped."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import ConfigError, StorageError, TactfulError
from tactful.metadata.directory_lock import exclusive
from tactful.util.supervisor import RESTART, supervise_this
from tactful_streaming.errors import LogUnreachableError, StreamingError

_LOG_FILES = ("segments", "bounds")  # files in the directory of a log

_accept_loss = click.option(
    "--accept-loss",
    is_flag=True,
    help=(
        "Open logs with lost segments, and metadata and a vault that were emptied or replaced, "
        "once: records what a log lost in the file losses beside it."
    ),
)


@click.command(
    epilog=cli.example("tactful serve --dev", "tactful serve --host 0.0.0.0 --workers 3")
)
@cli.settings_with(
    for_all=True,
    host="server.host",
    port="server.port",
    dev="server.dev",
    workers="server.workers",
)
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one.")
@click.option("--dev", is_flag=True, default=None, help="No API keys; loopback only.")
@click.option("--workers", type=int, help="Number of additional processes that answer requests.")
@click.option("--rebuild", is_flag=True, help="Compute all features again from the log.")
@click.option(
    "--supervise", is_flag=True, help="Restart the server after a crash, a kill or exit code 75."
)
@_accept_loss
@cli.json_option
def serve(
    settings: Settings, rebuild: bool, supervise: bool, accept_loss: bool, as_json: bool
) -> None:
    """Run a server: ingestion, engine and recommendation, in one process or several.

    With tenants it serves all of them, or by --tenant one alone.

    Exit code 75: start it again.
    """
    if supervise:
        if rebuild or accept_loss:
            raise click.UsageError(
                "--supervise not with --rebuild or --accept-loss: a crash would begin it again"
            )
        supervise_this(again=RESTART)
    all_tenants = settings.tenants.directory != Path() and not settings.tenants.name
    if all_tenants and (rebuild or accept_loss):
        raise click.UsageError("--rebuild and --accept-loss are for one shop: add --tenant")
    if accept_loss:
        with exclusive(settings.storage.data):
            _accept_losses(settings)
    # Here, since they take 150 MB that a supervising process does without.
    from tactful.tenants.run import run_tenants
    from tactful.workers.pool import run_server

    try:
        if all_tenants:
            run_tenants(settings, as_json=as_json)
        else:
            run_server(settings, rebuild=rebuild, as_json=as_json)
    except TactfulError as error:
        if not _may_pass(error):
            raise
        click.echo(f"tactful: {error}", err=True)
        raise SystemExit(RESTART) from error


def _may_pass(error: BaseException | None) -> bool:
    """Return whether an error comes from a log that cannot be reached now."""
    while error is not None and not isinstance(error, LogUnreachableError):
        error = error.__cause__
    return error is not None


@click.command(epilog=cli.example("tactful worker --config tactful.toml --supervise"))
@cli.settings_with(threads="worker.threads", fired_topic="worker.fired_topic")
@click.option(
    "--threads", type=click.IntRange(1, 256), help="Members of the worker group in this process."
)
@click.option("--fired-topic", help="Topic for fired windows.")
@click.option("--matches-topic", help="Topic for matches of sequences and pairs of joins.")
@click.option(
    "--supervise", is_flag=True, help="Restart the worker after a crash, a kill or exit code 75."
)
@click.option("--idle-exit", type=click.FloatRange(min=0), help="End after so many idle seconds.")
@_accept_loss
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object a line.")
def worker(
    settings: Settings,
    matches_topic: str | None,
    supervise: bool,
    idle_exit: float | None,
    accept_loss: bool,
    as_json: bool,
) -> None:
    """Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.

    Start as many as there are cores, on any number of hosts: they share the partitions, and take
    over those of a worker that ends or dies. With engine.kind = flink they copy to Redis what the
    Flink job computes. Exit code 75: start it again.
    """
    if settings.log.in_files:
        raise ConfigError('log.kind is "embedded": workers share the partitions of a log in Kafka')
    if supervise:
        if accept_loss:
            raise click.UsageError("--supervise not with --accept-loss: a crash would repeat it")
        supervise_this(again=RESTART)
    if accept_loss:
        _accept_losses(settings)
    from tactful.feature_workers.run import run_workers  # not in a supervising process

    if not run_workers(settings, matches_topic, idle_exit=idle_exit, as_json=as_json):
        raise SystemExit(RESTART)


def _accept_losses(settings: Settings) -> None:
    """Repair every log below the data directory, and use metadata and vault as they are."""
    # Not in a supervising process.
    from tactful.event_log.encryption import VAULT_LOSS
    from tactful.metadata.connections import METADATA, METADATA_LOSS, open_installation
    from tactful.metadata.file_identity import accept_file
    from tactful.metadata.lease import FILE_LEDGER, give_up_claim
    from tactful_streaming.log.embedded_log import EmbeddedLog

    data = settings.storage.data
    accept_file(data, data / METADATA, METADATA_LOSS)
    accept_file(data, settings.vault, VAULT_LOSS)
    if settings.shared:
        with closing(open_installation(settings, create=True)) as metadata:
            give_up_claim(metadata, FILE_LEDGER)
    with cli.reported_as(StorageError, StreamingError):
        for path in sorted({file.parent for name in _LOG_FILES for file in data.rglob(name)}):
            EmbeddedLog(path, accept_loss=True).close()
