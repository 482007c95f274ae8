"""``tactful recommend`` and ``dashboard``: uses of a server over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import click
import msgspec

from tactful.cli import options as cli
from tactful.client import Client
from tactful.errors import TactfulError
from tactful.schemas.recommendations import RecommendRequest


@click.command()
@click.option("--user", "user_id", help="User id.")
@click.option("--device", "device_id", help="Device id, if the user is unknown.")
@click.option("--count", type=click.IntRange(1, 200), default=10)
@click.option("--category", help="Only items of this category.")
@click.option("--after", help="Wait until the log is applied up to this position.")
@click.option("--explain", is_flag=True, help="Explain the recommendation.")
@cli.url_option
@cli.key_file_option
@cli.json_option
def recommend(
    user_id: str | None,
    device_id: str | None,
    count: int,
    category: str | None,
    after: str | None,
    explain: bool,
    url: str,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Request recommendations from a server."""
    request = RecommendRequest(
        user_id=user_id,
        device_id=device_id,
        count=count,
        category=category,
        after=int(after) if after is not None and after.isdecimal() else after,
        explain=explain,
    )
    with Client(url, cli.api_key(key_file)) as client:
        answer = client.recommend(request)
    if as_json:
        cli.print_json(answer)
        return
    for place, item in enumerate(answer.items, 1):
        click.echo(f"{place:>3}  {item.item_id}  {item.score:.4f}  {item.channel}")
    if answer.fallback:
        click.echo(answer.fallback, err=True)
    if answer.explanation:
        click.echo(msgspec.json.format(msgspec.json.encode(answer.explanation)).decode())


@click.command()
@cli.url_option
@click.option("--port", default=8501, help="Port of the dashboard.")
def dashboard(url: str, port: int) -> None:
    """Open the dashboard of a server; its key comes from TACTFUL_API_KEY."""
    package = util.find_spec("tactful_ui")
    if util.find_spec("streamlit") is None or package is None or package.origin is None:
        raise TactfulError("the dashboard is not installed: pip install 'tactful[dashboard]'")
    page = Path(package.origin).with_name("app.py")
    command = [sys.executable, "-m", "streamlit", "run", str(page), f"--server.port={port}"]
    command += ["--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
    raise SystemExit(subprocess.call(command, env={**os.environ, "TACTFUL_URL": url}))
