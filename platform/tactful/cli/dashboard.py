"""``tactful dashboard``: the dashboard of a server, in Streamlit."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.errors import TactfulError


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
