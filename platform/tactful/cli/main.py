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

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"tactful: {self.message}", err=True)


class _Commands(LazyGroup):
    """A group whose commands fail with one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            raise _Failure(str(error), 2) from error
        except ConnectionFailed as error:
            raise _Failure(str(error), 3) from error
        except ApiError as error:
            raise _Failure(str(error), 4) from error
        except TactfulError as error:
            raise _Failure(str(error), 1) from error


_COMMANDS = {
    "serve": LazyCommand(
        "tactful.cli.serve:serve",
        "Run a server: ingestion, engine and recommendation, in one process or several.",
    ),
    "keys": LazyCommand("tactful.cli.keys:keys", "Create, list and revoke API keys."),
    "ingest": LazyCommand(
        "tactful.cli.client:ingest", "Send an NDJSON file to a server; run it again to resume."
    ),
    "recommend": LazyCommand(
        "tactful.cli.client:recommend", "Request recommendations from a server."
    ),
    "doctor": LazyCommand(
        "tactful.cli.doctor:doctor",
        "Check everything that a server needs; fail if something is missing.",
    ),
    "dashboard": LazyCommand(
        "tactful.cli.dashboard:dashboard",
        "Open the dashboard of a server; its key comes from TACTFUL_API_KEY.",
    ),
    "train": LazyCommand(
        "tactful.cli.train:train", "Train a ranking model from the log and register it in MLflow."
    ),
    "models": LazyCommand(
        "tactful.cli.models:models", "List, promote, roll back and fetch model versions."
    ),
    "demo": LazyCommand(
        "tactful.cli.demo:demo",
        "Replay real purchases through the platform and measure the recommendations.",
    ),
    "features": LazyCommand(
        "tactful.cli.features:features",
        "Check feature definitions, and migrate a state to changed definitions.",
    ),
    "federated": LazyCommand(
        "tactful.cli.federated.commands:federated",
        "Plan, simulate and run private training on devices.",
    ),
    "privacy": LazyCommand(
        "tactful.cli.privacy:privacy", "Audit, report and manage private statistics."
    ),
    "rules": LazyCommand(
        "tactful.cli.rules:rules", "Test cleaning rules, and list or resend dead letters."
    ),
    "experiment": LazyCommand(
        "tactful.cli.experiment:experiment", "Check, plan, roll out and evaluate experiments."
    ),
    "coupons": LazyCommand(
        "tactful.cli.coupons:coupons",
        "Check coupon campaigns, report their effect, and learn weights for users.",
    ),
    "tuner": LazyCommand(
        "tactful.cli.tuner:tuner",
        "Train and evaluate models that set objective weights by the situation.",
    ),
    "user": LazyCommand("tactful.cli.user:user", "Manage consent, export and erasure of one user."),
    "backup": LazyCommand(
        "tactful.cli.backup:backup",
        "Copy the installation to the new directory TARGET, with or without a running server.",
    ),
    "restore": LazyCommand(
        "tactful.cli.backup:restore",
        "Replace the data directory by the backup SOURCE; no server may be running.",
    ),
    "expire": LazyCommand(
        "tactful.cli.expire:expire",
        "Remove backups, exports and models that are older than [retention] allows.",
    ),
    "worker": LazyCommand(
        "tactful.cli.worker:worker",
        "Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.",
    ),
    "sink": LazyCommand(
        "tactful.cli.sink:sink",
        "Write fired windows from Kafka to Redis, MySQL or MariaDB, until SIGTERM or Ctrl-C.",
    ),
    "flink": LazyCommand("tactful.cli.flink:flink", "Run feature definitions on a Flink cluster."),
}


@click.group(cls=_Commands, lazy=_COMMANDS)
@click.version_option(package_name="tactful", prog_name="tactful")
def main() -> None:
    """Real-time personalisation that does not hold people's data hostage."""
