"""``tactful demo``: real purchases through the whole platform, or a made-up shop to click in."""

from __future__ import annotations

import signal
import sys
import webbrowser
from functools import partial
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.demo.demo import DemoOptions, run, summary

_SHOP = Path("tactful-data/shop")
_OF_THE_REPLAY = ("data", "path", "quick", "reports")


@click.command(epilog=cli.example("tactful demo --quick", "tactful demo --shop"))
@click.option(
    "--data", type=click.Choice(["completejourney", "online-retail"]), default="completejourney"
)
@click.option("--path", type=cli.any_path, help="The UCI Online Retail file: xlsx, csv or parquet.")
@click.option("--quick", is_flag=True, help="Replay a small part of the data, in a few minutes.")
@click.option("--shop", is_flag=True, help="Open a small web shop instead, with made-up items.")
@click.option(
    "--directory",
    type=cli.any_path,
    default=Path("tactful-data/demo"),
    help=f"Data directory of the run; it is replaced. With --shop, {_SHOP} by default.",
)
@click.option("--reports", type=cli.any_path, default=Path("reports"))
@click.option(
    "--port", default=8420, help="Port of the server, with --shop of its pages; 0 takes a free one."
)
@click.option("--no-open", is_flag=True, help="With --shop: do not open a browser.")
@cli.json_option
@cli.grouped("options", DemoOptions)
@click.pass_context
def demo(
    context: click.Context, options: DemoOptions, shop: bool, no_open: bool, as_json: bool
) -> None:
    """Replay real purchases through the platform and measure the recommendations.

    Or, with --shop, open a web shop to click in.
    """
    # A stop from outside ends the demo's server as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    given = {name for name in context.params if _is_given(context, name)}
    if shop:
        if others := [name for name in _OF_THE_REPLAY if name in given]:
            named = ", ".join(f"--{name}" for name in others)
            raise click.UsageError(f"--shop replays nothing: leave out {named}")
        from tactful.demo.shop.run import ShopOptions, run_shop

        directory = options.directory if "directory" in given else _SHOP
        run_shop(ShopOptions(directory, options.port), partial(_opened, as_json, not no_open))
        return
    if no_open:
        raise click.UsageError("--no-open belongs to --shop")
    report = run(options)
    if as_json:
        cli.print_json(report)
    else:
        click.echo(summary(report, options))


def _opened(as_json: bool, opens: bool, address: str, server: str) -> None:
    if as_json:
        cli.print_json({"url": address, "server": server})
    if opens:
        webbrowser.open(address)


def _is_given(context: click.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not click.core.ParameterSource.DEFAULT
