"""A server of several tenants, from the settings of the installation."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import click
import msgspec

from tactful.config import logging as logs
from tactful.config.load import load_tenant
from tactful.config.settings import Settings
from tactful.config.tenants import check_apart, tenant_names
from tactful.errors import ConfigError, TactfulError
from tactful.http.uvicorn_server import make_server, run
from tactful.pipeline.backends import memory_limit
from tactful.tenants.application import TenantsApplication, make_tenant
from tactful.workers.pool import OpenedServer, open_listener, open_server, url_of

logger = logging.getLogger(__name__)

_MEBIBYTE = 1024 * 1024
_LEAST_MB = 64


def read_tenants(settings: Settings) -> list[Settings]:
    """Read the settings of all tenants, with their shares of the memory.

    Raises:
        ConfigError: if a file is wrong, two tenants share a place, or the process cannot serve
            tenants.
    """
    server = settings.server
    if server.dev:
        raise ConfigError("server.dev serves without API keys, which choose the tenant: leave it")
    if server.workers:
        raise ConfigError(
            "server.workers is for one shop: with tenants set it to 0, or serve a large shop by a "
            "server of its own, `tactful serve --tenant NAME --workers N`"
        )
    names = tenant_names(settings)
    tenants = [share_memory(settings, load_tenant(settings, name), len(names)) for name in names]
    check_apart(tenants)
    return tenants


def share_memory(settings: Settings, tenant: Settings, count: int) -> Settings:
    """Give a tenant without `engine.memory_mb` of its own an equal share of the process's."""
    whole = memory_limit(settings.engine)
    if tenant.engine.memory_mb != "auto" or whole is None:
        return tenant
    share = max(_LEAST_MB, whole // _MEBIBYTE // max(count, 1))
    return replace(tenant, engine=replace(tenant.engine, memory_mb=share))


def run_tenants(settings: Settings, *, as_json: bool) -> None:
    """Serve all tenants until SIGTERM or Ctrl-C.

    Raises:
        TactfulError: settings are wrong, the address is taken, or data cannot be opened; the
            message names the tenant.
    """
    logs.configure(settings.logging)
    tenants = read_tenants(settings)
    with open_listener(settings.server) as listener, ExitStack() as stack:
        opened = [(it.tenants.name, _open(it, stack)) for it in tenants]
        application = TenantsApplication(
            [make_tenant(name, server.platform) for name, server in opened]
        )
        started = partial(_announce, settings, [name for name, _ in opened], listener, as_json)
        if not run(make_server(application, settings.server), listener, started=started):
            raise TactfulError("the server could not start; its log says why")


def _open(settings: Settings, stack: ExitStack) -> OpenedServer:
    try:
        opened = open_server(settings, rebuild=False)
    except TactfulError as error:
        raise type(error)(f"tenant {settings.tenants.name!r}: {error}") from error
    if opened.statistics is not None:
        stack.callback(opened.statistics.close)
    stack.callback(opened.platform.close)
    return opened


def _announce(
    settings: Settings, names: Sequence[str], listener: socket.socket, as_json: bool
) -> None:
    url = url_of(settings.server, listener)
    if as_json:
        click.echo(msgspec.json.encode({"url": url, "pid": os.getpid(), "tenants": names}))
    else:
        click.echo(f"tactful serves {len(names)} tenants on {url}")
    if not names:
        click.echo("There is no tenant yet: `tactful tenants add NAME` makes one.", err=True)
