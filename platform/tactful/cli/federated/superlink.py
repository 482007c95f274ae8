"""Runs of Flower's own command line: ``tactful federated superlink``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.cli.federated import options
from tactful.errors import ConfigError, TactfulError
from tactful.util.signals import leave, on_stop_signals
from tactful_federated.errors import FederatedError, SettingsError
from tactful_federated.transport.submitted_runs import SubmittedRuns, project_hash
from tactful_federated.transport.superlink import SuperLink

_POLL_S = 1.0


@click.command(
    "superlink", epilog=cli.example("tactful federated superlink runs/flower --app my-flower-app")
)
@click.argument("directory", type=cli.any_directory)
@click.option(
    "--app",
    "projects",
    type=cli.existing_directory,
    multiple=True,
    required=True,
    help="Folder of a Flower project whose runs are led; repeatable.",
)
@click.option(
    "--host", "hosts", multiple=True, help="Host name of the proxy for the certificate; repeatable."
)
@options.link_options
def superlink_command(
    directory: Path, projects: tuple[Path, ...], hosts: tuple[str, ...], link: options.Link
) -> None:
    """Lead the runs that `flwr run` submits of the projects --app, refuse all others.

    They run in the clear, without noise, on stock Flower nodes. The port is on 127.0.0.1; forward
    it to an operator's machine by SSH.
    """
    with cli.reported_as(ConfigError, SettingsError):
        hashes = {project_hash(project): project for project in projects}
    tls = link.tls(directory, hosts)
    with (
        cli.reported_as(TactfulError, FederatedError),
        on_stop_signals(leave),
        SuperLink(directory, tls, port=link.port) as superlink,
        SubmittedRuns(superlink, tls.authority, hashes) as runs,
    ):
        click.echo(_connection(superlink, tls.authority), err=True)
        for bundle, project in hashes.items():
            click.echo(f"{project}: bundle {bundle}", err=True)
        while True:
            task = runs.step()
            if task is not None:
                verdict = "led" if task.bundle in hashes else "refused"
                click.echo(f"run {task.run}: {verdict}", err=True)
            time.sleep(_POLL_S)


def _connection(superlink: SuperLink, authority: Path) -> str:
    """Return the lines of Flower's `config.toml` by which `flwr` connects."""
    return (
        "put into config.toml of $FLWR_HOME (~/.flwr by default):\n"
        f'[superlink.shop]\naddress = "{superlink.address}"\n'
        f'root-certificates = "{authority.resolve()}"'
    )
