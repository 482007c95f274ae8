"""The command line.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 no server answers, 4 the server
refused. Results go to standard output, everything else to standard error.
"""

from __future__ import annotations

from typing import Any

import click

from tactful.errors import ApiError, ConfigError, ConnectionFailed, TactfulError
from tactful.lazy_commands import LazyCommand, LazyGroup


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
        "Run ingestion, engine and recommendation; in one process, or with several to answer.",
    ),
    "keys": LazyCommand("tactful.keys_cli:keys", "Make, list and revoke API keys."),
    "ingest": LazyCommand(
        "tactful.client_cli:ingest", "Send an NDJSON file; run it again to go on where it stopped."
    ),
    "recommend": LazyCommand("tactful.client_cli:recommend", "Ask a server for recommendations."),
    "doctor": LazyCommand(
        "tactful.doctor_cli:doctor",
        "Check everything a server needs; fails when something needed is missing.",
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
        "Replay real shopping through the whole platform and measure what it recommends.",
    ),
    "features": LazyCommand(
        "tactful.features_cli:features",
        "Check feature definitions, and bring a state up to changed ones.",
    ),
    "federated": LazyCommand(
        "tactful.federated_cli:federated",
        "Plan private training on devices, simulate it, and do it.",
    ),
    "privacy": LazyCommand(
        "tactful.privacy_cli:privacy", "Attack the published numbers, and see what they cost."
    ),
    "rules": LazyCommand(
        "tactful.rules_cli:rules", "Try cleaning rules, and look after what they set aside."
    ),
    "experiment": LazyCommand(
        "tactful.experiment_cli:experiment", "Check, plan, roll out and read out experiments."
    ),
    "coupons": LazyCommand(
        "tactful.coupon_cli:coupons",
        "Check coupon campaigns, read out what they bring, and learn whom they move.",
    ),
    "tuner": LazyCommand(
        "tactful.tuner_cli:tuner",
        "Train what sets objective weights by the situation, judge it, and see what it would do.",
    ),
    "user": LazyCommand(
        "tactful.user_cli:user", "What one person has agreed to, and their erasure."
    ),
    "backup": LazyCommand(
        "tactful.backup_cli:backup",
        "Copy the installation into the new directory TARGET, also while a server uses it.",
    ),
    "restore": LazyCommand(
        "tactful.backup_cli:restore",
        "Put the backup SOURCE in the place of the data directory, which no server may use.",
    ),
    "expire": LazyCommand(
        "tactful.expiry_cli:expire",
        "Remove backups, exports and models that are older than [retention] keeps anything.",
    ),
    "worker": LazyCommand(
        "tactful.worker_cli:worker",
        "Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.",
    ),
    "sink": LazyCommand(
        "tactful.sink_cli:sink",
        "Write fired windows from Kafka to Redis, MySQL or MariaDB, until SIGTERM or Ctrl-C.",
    ),
    "flink": LazyCommand("tactful.flink_cli:flink", "Hand the definitions to a Flink cluster."),
}


@click.group(cls=_Commands, lazy=_COMMANDS)
@click.version_option(package_name="tactful", prog_name="tactful")
def main() -> None:
    """Real-time personalisation that does not hold people's data hostage."""
