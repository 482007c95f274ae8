"""Start of a server from its settings: socket, platform, application, workers."""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import Any

import click
import msgspec

from tactful.config import logging as logs
from tactful.config.sections import ServerSettings
from tactful.config.settings import Settings
from tactful.errors import TactfulError
from tactful.http.routes import make_application
from tactful.http.uvicorn_server import listen, make_server, run
from tactful.metadata.directory_lock import exclusive
from tactful.recommend.recommender import build, open_shown
from tactful.server.platform import Platform
from tactful.statistics.service import open_statistics
from tactful.workers.pool import run_pool
from tactful_streaming.errors import StreamingError


def run_server(settings: Settings, *, rebuild: bool, as_json: bool) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        TactfulError: the address is taken, the data cannot be opened, or the server cannot start.
    """
    logs.configure(settings.logging)
    server = settings.server
    try:
        listener = listen(server.host, server.port)
    except OSError as error:
        raise TactfulError(f"{server.host}:{server.port}: {error.strerror or error}") from error
    with listener:
        with exclusive(settings.storage.data):
            pass  # completes an interrupted restore before anything is opened
        try:
            statistics = open_statistics(settings)
            consumers: dict[str, Any] = {} if statistics is None else statistics.counter.consumers()
            trends = None if statistics is None else statistics.trends()
            shown = open_shown(settings)
            if shown is not None:
                consumers["shown"] = shown
            platform = Platform.open(
                settings,
                partial(build, shown=shown, rising=None if trends is None else trends.look),
                consumers=consumers,
                statistics=statistics,
                rebuild=rebuild,
            )
        except StreamingError as error:
            raise TactfulError(str(error)) from error
        started = partial(_announce, platform, server, listener, as_json)
        if server.workers:
            served = run_pool(
                platform,
                listener,
                build="tactful.recommend.recommender:build",
                count=server.workers,
                started=started,
                shown=shown,
                trends=trends,
            )
        else:
            served = run(make_server(make_application(platform), server), listener, started=started)
        if statistics is not None:
            statistics.close()
        if not served:
            platform.close()
            raise TactfulError("the server could not start; its log says why")


def _announce(
    platform: Platform, server: ServerSettings, listener: socket.socket, as_json: bool
) -> None:
    """Print the address of the server that has started."""
    bound = listener.getsockname()[1]
    name = f"[{server.host.strip('[]')}]" if ":" in server.host else server.host
    url = f"http://{name}:{bound}"
    if as_json:
        click.echo(msgspec.json.encode({"url": url, "pid": os.getpid(), "dev": server.dev}))
    else:
        click.echo(f"tactful serves on {url}{' without API keys' if server.dev else ''}")
    if not server.dev and not any(key.revoked_at is None for key in platform.keys.list()):
        click.echo(
            "There is no API key yet: `tactful keys create --scope admin` makes one.", err=True
        )
