"""The command line.

Results go to standard output, everything else to standard error; `ExitCode` says how it ended.
"""

from __future__ import annotations

import errno
from typing import Any

import click

from tactful.cli.exit_codes import code_of
from tactful.errors import TactfulError
from tactful.util.extras import missing_module
from tactful.util.lazy_commands import LazyCommand, LazyGroup


class _Failure(click.ClickException):
    """Ends the command with one line and an exit code."""

    def __init__(self, error: TactfulError) -> None:
        super().__init__(str(error))
        self.exit_code = code_of(error)  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        click.echo(f"tactful: {self.message}", err=True)


class _Commands(LazyGroup):
    """A group whose commands fail with one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TactfulError as error:
            raise _Failure(error) from error
        except ImportError as error:
            if (missing := missing_module(error)) is None:
                raise
            raise _Failure(TactfulError(missing)) from error
        except OSError as error:
            if error.filename is None and error.errno not in _FULL:
                raise
            place = "" if error.filename is None else f"{error.filename}: "
            raise _Failure(TactfulError(f"{place}{error.strerror}")) from error


_FULL = (errno.ENOSPC, errno.EDQUOT)  # a write names no file

_HELP = {
    "serve": "Run a server: ingestion, engine and recommendation, in one process or several.",
    "keys": "Create, list, limit, rotate and revoke API keys; print the public key of signatures.",
    "import": "Send events, items or users of FILE to a server; run it again to resume.",
    "check-data": "Check FILE before it is imported: missing values, types, ranges, duplicates.",
    "ingest": "Send FILE to a server: the former name of ``tactful import``.",
    "recommend": "Request recommendations from a server, for one user or for all of a file.",
    "items": "Read the catalogue of a server, and lists of similar, popular or new items.",
    "export": "Deliver recommendations or a segment of users to a webhook or to Redis.",
    "alerts": "List and acknowledge alerts of a server, read their rules, silence and test them.",
    "doctor": "Check everything that a server needs; fail if something is missing.",
    "dashboard": "Open the dashboard of a server; its key comes from TACTFUL_API_KEY.",
    "top": "Show how a server does: its machine, metrics of the last hour, jobs and workers.",
    "train": "Train a ranking model from the log and register it in MLflow.",
    "models": "List, promote, roll back, fetch and sign model versions.",
    "demo": "Replay real purchases through the platform and measure the recommendations.",
    "features": "Propose and check feature definitions, and migrate a state to new ones.",
    "federated": "Plan, simulate and run private training on devices.",
    "privacy": "Audit, report and manage private statistics.",
    "speech": "Prepare a model for questions by voice, and try it.",
    "domains": "Manage keys of this domain, and find people that another domain knows, too.",
    "rules": "Test cleaning rules, and list or resend dead letters.",
    "sources": "Check mappings of other programs' messages, and try them.",
    "experiment": "Check, plan, roll out and evaluate experiments.",
    "flags": "Check, evaluate, apply and kill feature flags and their experiments.",
    "metrics": "Check and list the metrics of experiments, and register analyses.",
    "bandit": "Apply, list, judge and stop bandits: arms that are chosen by what pays.",
    "coupons": "Check coupon campaigns, report their effect, and learn weights for users.",
    "tuner": "Train and evaluate models that set objective weights by the situation.",
    "user": "Manage consent, look-up, export and erasure of users.",
    "tenants": "List, add and remove the shops of one installation.",
    "backup": "Copy the installation to TARGET, with or without a running server.",
    "restore": "Replace the data directory by the backup SOURCE; no server may be running.",
    "expire": "Remove backups, exports and models that are older than [retention] allows.",
    "worker": "Compute features on a share of the log in Kafka, until SIGTERM or Ctrl-C.",
    "sink": "Write fired windows from Kafka to Redis or a SQL database, until SIGTERM or Ctrl-C.",
    "flink": "Run feature definitions on a Flink cluster.",
}
# Commands whose module has another name.
_MODULES = {
    **dict.fromkeys(("recommend", "dashboard"), "remote.recommend"),
    **dict.fromkeys(("import", "ingest"), "remote.import_file"),
    **{name: f"remote.{name}" for name in ("items", "export")},
    "top": "monitoring.top",
    "alerts": "monitoring.alerts",
    **dict.fromkeys(("restore", "expire"), "backup"),
    "metrics": "experiments.metrics",
    "worker": "serve",
    "check-data": "check_data",
    "flags": "flags.files",
    "tenants": "tenants.manage",
    "domains": "domains.keys",
    **{name: f"streaming.{name}" for name in ("sink", "flink")},
}
_ATTRIBUTES = {"import": "import_", "check-data": "check_data"}  # other names in Python
_COMMANDS = {
    name: LazyCommand(f"tactful.cli.{_MODULES.get(name, name)}:{_ATTRIBUTES.get(name, name)}", text)
    for name, text in _HELP.items()
}


_SETTINGS = {"show_default": True, "help_option_names": ["-h", "--help"]}


@click.group(cls=_Commands, lazy=_COMMANDS, context_settings=_SETTINGS)
@click.version_option(package_name="tactful", prog_name="tactful")
def main() -> None:
    """Real-time personalisation that does not hold people's data hostage."""
