"""``tactful serve``: the server."""

from __future__ import annotations

from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.load import load_settings
from tactful.util.supervisor import supervise_this


@click.command()
@cli.config_option
@cli.data_option
@click.option("--host", help="Address to listen on.")
@click.option("--port", type=int, help="TCP port; 0 takes a free one.")
@click.option("--dev", is_flag=True, default=None, help="No API keys; loopback only.")
@click.option("--workers", type=int, help="Number of additional processes that answer requests.")
@click.option("--rebuild", is_flag=True, help="Compute all features again from the log.")
@click.option("--supervise", is_flag=True, help="Restart the server after a crash.")
@cli.json_option
def serve(
    config: Path | None,
    data: Path | None,
    host: str | None,
    port: int | None,
    dev: bool | None,
    workers: int | None,
    rebuild: bool,
    supervise: bool,
    as_json: bool,
) -> None:
    """Run a server: ingestion, engine and recommendation, in one process or several."""
    settings = load_settings(
        config,
        overrides={
            "storage.data": data,
            "server.host": host,
            "server.port": port,
            "server.dev": dev,
            "server.workers": workers,
        },
    )
    if supervise:
        if rebuild:
            raise click.UsageError("--supervise not with --rebuild: a crash would begin it again")
        supervise_this()
    from tactful.workers.run_server import (
        run_server,  # 150 MB that a supervising process does without
    )

    run_server(settings, rebuild=rebuild, as_json=as_json)
