"""``tactful federated enrol-pages``: certifies the keys of web pages until stopped."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.errors import ConfigError
from tactful.util.signals import on_stop_signals
from tactful_federated.core.invitation import read_invitation
from tactful_federated.errors import FederatedError
from tactful_federated.serving.rounds import authority_key
from tactful_federated.transport.page_enrolment import PageEnrolments, enrolment_route
from tactful_federated.transport.page_server import PageApp, serving_pages


@click.command(
    "enrol-pages",
    epilog=cli.example("tactful federated enrol-pages runs/intent-1 --origin https://shop.example"),
)
@click.argument("directory", type=cli.existing_directory)
@click.option(
    "--origin",
    "origins",
    multiple=True,
    required=True,
    help="Origin of the pages, such as https://shop.example; repeatable.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=9095,
    help="Port on loopback; 0 is a free one.",
)
@click.option(
    "--account-header",
    default="X-Account",
    help="Header in which the proxy states the account that it authenticated.",
)
@click.option(
    "--per-hour",
    type=click.IntRange(1),
    default=1000,
    help="Largest number of new pages in an hour.",
)
def enrol_pages_command(
    directory: Path, origins: tuple[str, ...], port: int, account_header: str, per_hour: int
) -> None:
    """Enrol web pages until stopped: one key for an account.

    DIRECTORY holds invitation.json and authority.key, and gets the register page-enrolments.db.
    The TLS proxy of the shop authenticates visitors and passes /v1/device/enrol to this command;
    the proxy of deploy/page-proxy.conf does. In tiers that hide updates, run the command elsewhere
    than the server.
    """
    with cli.reported_as(ConfigError, FederatedError):
        key = authority_key(directory)
        invitation = read_invitation(directory / "invitation.json")
        if key.public_key().public_bytes_raw() != invitation.authority:
            raise ConfigError(
                f"{directory / 'authority.key'} is not the key that {directory / 'invitation.json'}"
                " names: use the key and the invitation of one run"
            )
        register = PageEnrolments(directory / "page-enrolments.db", key, per_hour=per_hour)
    stop = threading.Event()
    app = PageApp(enrolment_route(register, account_header), origins)
    with (
        cli.reported_as(ConfigError, FederatedError),
        closing(register),
        on_stop_signals(stop.set),
        serving_pages(app, port) as address,
    ):
        click.echo(
            f"enrolment on {address}: pass /v1/device/enrol of a TLS proxy that sets"
            f" {account_header} to it",
            err=True,
        )
        stop.wait()
