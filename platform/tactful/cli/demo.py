"""``tactful demo``: real purchases, replayed through the whole platform."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.demo.demo import DemoOptions, run, summary


@click.command(epilog=cli.example("tactful demo --quick"))
@click.option(
    "--data", type=click.Choice(["completejourney", "online-retail"]), default="completejourney"
)
@click.option("--path", type=cli.any_path, help="The UCI Online Retail file: xlsx, csv or parquet.")
@click.option("--quick", is_flag=True, help="Replay a small part of the data, in a few minutes.")
@click.option(
    "--directory",
    type=cli.any_path,
    default=Path("tactful-data/demo"),
    help="Data directory of the run; it is replaced.",
)
@click.option("--reports", type=cli.any_path, default=Path("reports"))
@click.option("--port", default=8420, help="Port of the server; 0 takes a free one.")
@cli.json_option
@cli.grouped("options", DemoOptions)
def demo(options: DemoOptions, as_json: bool) -> None:
    """Replay real purchases through the platform and measure the recommendations."""
    # A stop from outside ends the demo's server as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    report = run(options)
    if as_json:
        cli.print_json(report)
    else:
        click.echo(summary(report, options))
