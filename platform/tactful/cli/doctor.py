"""``tactful doctor``: a check of everything that a server needs."""

from __future__ import annotations

import click

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.config.settings import Settings
from tactful.maintenance.doctor import examine


@click.command(epilog=cli.example("tactful doctor", "tactful doctor --config tactful.toml --json"))
@cli.settings_with(opens=False, port="server.port")
@click.option("--port", type=int, help="Port to check.")
@cli.json_option
def doctor(settings: Settings, as_json: bool) -> None:
    """Check everything that a server needs; fail if something is missing."""
    checks = []
    for check in examine(settings):
        checks.append(check)
        if not as_json:
            click.echo(f"{check.state:<8} {check.name:<16} {check.said}")
    if as_json:
        cli.print_json(checks)
    if any(check.state == "failed" for check in checks):
        raise SystemExit(ExitCode.PROBLEM_FOUND)
