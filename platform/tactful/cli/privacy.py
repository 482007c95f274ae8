"""Commands around private statistics: ``tactful privacy …``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.config.ledger_location import existing_ledger, named
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.maintenance.key_rotation import begin_epoch, change_master_key
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive, open_directory
from tactful.metadata.privacy_audits import keep_audit
from tactful.schemas.subjects.privacy import AuditFinding, PrivacyAudit
from tactful.statistics.export import publish
from tactful.statistics.ledger_view import as_text, day_of, report_month
from tactful.util.clock import now_ms
from tactful.util.jobs import tracked
from tactful_privacy.audit.audit import QUICK, THOROUGH, AuditReport, audit
from tactful_privacy.errors import ParameterError, PrivacyError
from tactful_privacy.ledger.budget import date_of
from tactful_privacy.ledger.ledger import Ledger


@click.group()
def privacy() -> None:
    """Audit, report and manage private statistics."""


@privacy.command("audit", epilog=cli.example("tactful privacy audit --quick"))
@click.option("--quick", is_flag=True, help="Fewer trials; takes half a minute.")
@click.option("--cap", type=click.IntRange(1, 100), default=5)
@click.option("--epsilon", default="1", help="Claimed epsilon; an exact number, such as 1/2.")
@click.option("--canaries", type=click.IntRange(min=1_000), help="Number of trials of the attack.")
@cli.json_option
@click.option("--plots", type=cli.any_directory, help="Directory for plots.")
@click.option("--keep", is_flag=True, help="Keep the result, for the page on privacy.")
@cli.settings_with(opens=False)
def audit_command(
    settings: Settings,
    quick: bool,
    cap: int,
    epsilon: str,
    canaries: int | None,
    as_json: bool,
    plots: Path | None,
    keep: bool,
) -> None:
    """Attack the published counts, and check that the attack detects planted bugs."""
    effort = QUICK if quick else THOROUGH
    if canaries is not None:
        effort = replace(effort, canaries=canaries)
    # Before the work, so that nothing is lost where the result cannot be written.
    if keep and settings.storage.data.is_dir():
        open_directory(settings.storage.data)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
    with cli.reported_as(ConfigError, ParameterError), cli.progress_bar(unit="pipeline") as bar:

        def done(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        report = audit(cap, epsilon, effort, progress=done)
    if keep:
        with contextlib.closing(open_installation(settings, create=True)) as metadata:
            keep_audit(metadata, _summary(report))
    if plots is not None:
        from tactful.statistics.plots import write_plots

        write_plots(report, plots)
    if as_json:
        cli.print_json(report.to_dict(), pretty=True)
    else:
        click.echo(str(report))
    if not report.passed:
        raise SystemExit(ExitCode.PROBLEM_FOUND)
    if not report.trustworthy:
        raise SystemExit(ExitCode.UNRELIABLE)


def _summary(report: AuditReport) -> PrivacyAudit:
    return PrivacyAudit(
        at=now_ms(),
        passed=report.passed,
        trustworthy=report.trustworthy,
        epsilon=str(report.epsilon),
        cap=report.cap,
        epsilon_lower_bound=report.epsilon_lower_bound,
        planted_bugs=len(report.planted),
        planted_bugs_caught=sum(not bug.passed for bug in report.planted),
        findings=[
            AuditFinding(
                pipeline=pipeline.name,
                check=str(finding.check),
                passed=finding.passed,
                measured=float(finding.measured),
                allowed=float(finding.allowed),
                detail=finding.detail,
            )
            for pipeline in report.real
            for finding in pipeline.findings
        ],
    )


@privacy.command("ledger", epilog=cli.example("tactful privacy ledger --day 2026-03-31"))
@cli.with_settings
@click.option("--day", type=click.DateTime(["%Y-%m-%d"]), help="Last day of the reported month.")
@cli.json_option
def ledger_command(settings: Settings, day: datetime | None, as_json: bool) -> None:
    """Report the privacy loss of one user in a month, so far and at its end."""
    moment = datetime.now(UTC) if day is None else day.replace(tzinfo=UTC)
    with _ledger(settings) as ledger:
        report = report_month(ledger, day_of(int(moment.timestamp() * 1_000)))
    if as_json:
        cli.print_json(report, pretty=True)
    else:
        click.echo(as_text(report))


@privacy.command("release", epilog=cli.example("tactful privacy release --out released"))
@cli.with_settings
@click.option("--out", type=cli.any_directory, help="Directory of files.")
@click.option("--topic", help="Kafka topic, in the cluster of the settings' log.")
@click.option("--follow", is_flag=True, help="Repeat every 15 s until SIGTERM or Ctrl-C.")
@cli.json_option
def release_command(
    settings: Settings, out: Path | None, topic: str | None, follow: bool, as_json: bool
) -> None:
    """Write published numbers from the ledger as JSON lines, to files or a Kafka topic.

    Each number comes with its interval, epsilon, unit, pane and method.
    """
    if out is None and topic is None:
        raise click.UsageError("give --out, --topic or both")
    done = publish(settings, out, topic, follow=follow)
    if as_json:
        cli.print_json(done)
    else:
        click.echo(f"{done.files} files and {done.records} records written")


@privacy.command("retire", epilog=cli.example("tactful privacy retire views_by_category"))
@click.argument("name")
@cli.with_settings
@cli.json_option
def retire_command(settings: Settings, name: str, as_json: bool) -> None:
    """End the statistic NAME for good; its share of the budget is free from tomorrow.

    Before, remove it from statistics.yaml and stop the servers that count it.
    """
    with _ledger(settings) as ledger:
        last = ledger.retire(name)
    if as_json:
        cli.print_json({"name": name, "last_day": date_of(last)})
        return
    click.echo(f"{name} takes its part of the budget up to {date_of(last)}, and none afterwards")


@privacy.command("rotate", epilog=cli.example("tactful privacy rotate --pseudonyms"))
@cli.with_settings
@click.option(
    "--master-key-file",
    type=cli.any_file,
    help="File with a new master key; the vault is wrapped by it, the old key is destroyed.",
)
@click.option("--pseudonyms", is_flag=True, help="Begin a new epoch of pseudonyms.")
@cli.json_option
def rotate_command(
    settings: Settings, master_key_file: Path | None, pseudonyms: bool, as_json: bool
) -> None:
    """Change the master key of the vault, or the key of the pseudonyms.

    For the master key the server must be stopped. After a kill, run the same command again.
    """
    if master_key_file is None and not pseudonyms:
        raise click.UsageError("give --master-key-file, --pseudonyms or both")
    told: dict[str, object] = {}
    if master_key_file is not None:
        with (
            exclusive(settings.storage.data),
            tracked(settings.storage.data, "key_rotation"),
            cli.progress_bar(quiet=as_json, unit="key") as bar,
        ):
            changed = change_master_key(settings, master_key_file, advanced=bar.update)
        told |= msgspec.to_builtins(changed)
    if pseudonyms:
        told["epoch"] = begin_epoch(settings, clock=now_ms)
    if as_json:
        cli.print_json(told)
        return
    if master_key_file is not None:
        click.echo(f"{changed.wrapped} keys were wrapped anew")
        if changed.todo:
            click.echo(f"Yet to do: {changed.todo}")
    if pseudonyms:
        click.echo(f"new pseudonyms are made by key {told['epoch']}; earlier ones are still known")


@contextlib.contextmanager
def _ledger(settings: Settings) -> Iterator[Ledger]:
    place = existing_ledger(settings)
    try:
        with contextlib.closing(Ledger(place)) as ledger:
            yield ledger
    except PrivacyError as error:
        raise ConfigError(f"{named(place)}: {error}") from error
