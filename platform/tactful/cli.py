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
        "tactful.serve_cli:serve",
        "Run a server: ingestion, engine and recommendation, in one process or several.",
    ),
    "keys": LazyCommand("tactful.keys_cli:keys", "Create, list and revoke API keys."),
    "ingest": LazyCommand(
        "tactful.client_cli:ingest", "Send an NDJSON file to a server; run it again to resume."
    ),
    "recommend": LazyCommand(
        "tactful.client_cli:recommend", "Request recommendations from a server."
    ),
    "doctor": LazyCommand(
        "tactful.doctor_cli:doctor",
        "Check everything that a server needs; fail if something is missing.",
    ),
    "dashboard": LazyCommand(
        "tactful.dashboard_cli:dashboard",
        "Open the dashboard of a server; its key comes from TACTFUL_API_KEY.",
    ),
    "train": LazyCommand(
        "tactful.train_cli:train", "Train a ranking model from the log and register it in MLflow."
    ),
    "models": LazyCommand(
        "tactful.model_cli:models", "List, promote, roll back and fetch model versions."
    ),
    "demo": LazyCommand(
        "tactful.demo_cli:demo",
        "Replay real purchases through the platform and measure the recommendations.",
    ),
    "features": LazyCommand(
        "tactful.features_cli:features",
        "Check feature definitions, and migrate a state to changed definitions.",
    ),
    "federated": LazyCommand(
        "tactful.federated_cli:federated", "Plan, simulate and run private training on devices."
    ),
    "privacy": LazyCommand(
        "tactful.privacy_cli:privacy", "Audit, report and manage private statistics."
    ),
    "rules": LazyCommand(
        "tactful.rules_cli:rules", "Test cleaning rules, and list or resend dead letters."
    ),
    "experiment": LazyCommand(
        "tactful.experiment_cli:experiment", "Check, plan, roll out and evaluate experiments."
    ),
    "coupons": LazyCommand(
        "tactful.coupon_cli:coupons",
        "Check coupon campaigns, report their effect, and learn weights for users.",
    ),
    "tuner": LazyCommand(
        "tactful.tuner_cli:tuner",
        "Train and evaluate models that set objective weights by the situation.",
    ),
    "user": LazyCommand("tactful.user_cli:user", "Manage consent, export and erasure of one user."),
    "backup": LazyCommand(
        "tactful.backup_cli:backup",
        "Copy the installation to the new directory TARGET, with or without a running server.",
    ),
    "restore": LazyCommand(
        "tactful.backup_cli:restore",
        "Replace the data directory by the backup SOURCE; no server may be running.",
    ),
    "expire": LazyCommand(
        "tactful.expiry_cli:expire",
        "Remove backups, exports and models that are older than [retention] allows.",
    ),
    "worker": LazyCommand(
        "tactful.worker_cli:worker",
        "Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.",
    ),
    "sink": LazyCommand(
        "tactful.sink_cli:sink",
        "Write fired windows from Kafka to Redis, MySQL or MariaDB, until SIGTERM or Ctrl-C.",
    ),
    "flink": LazyCommand("tactful.flink_cli:flink", "Run feature definitions on a Flink cluster."),
}


@click.group(cls=_Commands, lazy=_COMMANDS)
@click.version_option(package_name="tactful", prog_name="tactful")
def main() -> None:
    """Real-time personalisation that does not hold people's data hostage."""
