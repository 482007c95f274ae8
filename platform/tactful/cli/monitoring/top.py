"""``tactful top``: the state of a server in a terminal."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from tactful.cli import options as cli


@click.command(epilog=cli.example("tactful top", "tactful top --url https://api.shop.example"))
@cli.url_option
@cli.key_file_option
@click.option(
    "--every", type=click.FloatRange(1, 3600), default=5.0, help="Seconds between two readings."
)
def top(url: str, key_file: Path | None, every: float) -> None:
    """Show how a server does: its machine, metrics of the last hour, jobs and workers.

    The key needs the scope `monitor`. Press q to leave.
    """
    # textual is an extra, and takes longer to import than most commands run
    from tactful.cli.monitoring.top_screen import Top, read_state
    from tactful.client import AsyncClient

    async def watch() -> None:
        async with AsyncClient(
            url, cli.api_key(key_file), tls=cli.trust(), retries=0, timeout=5.0
        ) as client:
            await Top(lambda: read_state(client), url=url, every=every, now=time.time).run_async()

    asyncio.run(watch())
