"""The command line.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no server answers, 4 the server
refused. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

from typing import Any

import click

from tactful.errors import ApiError, ConfigError, ConnectionFailed, TactfulError
from tactful.util.lazy_commands import LazyCommand, LazyGroup


class _Failure(click.ClickException):
    """Ends the command with one line and an exit code."""

    def __init__(self, error: TactfulError) -> None:
        super().__init__(str(error))
        codes = {ConfigError: 2, ConnectionFailed: 3, ApiError: 4}
        code = next((code for kind, code in codes.items() if isinstance(error, kind)), 1)
        self.exit_code = code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"tactful: {self.message}", err=True)


class _Commands(LazyGroup):
    """A group whose commands fail with one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TactfulError as error:
            raise _Failure(error) from error


_HELP = {
    "serve": "Run a server: ingestion, engine and recommendation, in one process or several.",
    "keys": "Create, list and revoke API keys; print the public key of signatures.",
    "ingest": "Send an NDJSON file to a server; run it again to resume.",
    "recommend": "Request recommendations from a server.",
    "export": "Deliver recommendations or a segment of users to a webhook or to Redis.",
    "doctor": "Check everything that a server needs; fail if something is missing.",
    "dashboard": "Open the dashboard of a server; its key comes from TACTFUL_API_KEY.",
    "train": "Train a ranking model from the log and register it in MLflow.",
    "models": "List, promote, roll back, fetch and sign model versions.",
    "demo": "Replay real purchases through the platform and measure the recommendations.",
    "features": "Check feature definitions, and migrate a state to changed definitions.",
    "federated": "Plan, simulate and run private training on devices.",
    "privacy": "Audit, report and manage private statistics.",
    "rules": "Test cleaning rules, and list or resend dead letters.",
    "sources": "Check mappings of other programs' messages, and try them.",
    "experiment": "Check, plan, roll out and evaluate experiments.",
    "coupons": "Check coupon campaigns, report their effect, and learn weights for users.",
    "tuner": "Train and evaluate models that set objective weights by the situation.",
    "user": "Manage consent, look-up, export and erasure of users.",
    "backup": "Copy the installation to a new directory TARGET, with or without a running server.",
    "restore": "Replace the data directory by the backup SOURCE; no server may be running.",
    "expire": "Remove backups, exports and models that are older than [retention] allows.",
    "worker": "Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.",
    "sink": "Write fired windows from Kafka to Redis, MySQL or MariaDB, until SIGTERM or Ctrl-C.",
    "flink": "Run feature definitions on a Flink cluster.",
}
# Commands whose module has another name.
_MODULES = {
    **dict.fromkeys(("ingest", "recommend", "dashboard"), "client"),
    **dict.fromkeys(("restore", "expire"), "backup"),
    "worker": "serve",
}
_COMMANDS = {
    name: LazyCommand(f"tactful.cli.{_MODULES.get(name, name)}:{name}", text)
    for name, text in _HELP.items()
}


@click.group(cls=_Commands, lazy=_COMMANDS, context_settings={"show_default": True})
@click.version_option(package_name="tactful", prog_name="tactful")
def main() -> None:
    """Real-time personalisation that does not hold people's data hostage."""
