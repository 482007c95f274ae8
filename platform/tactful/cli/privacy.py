"""Commands around private statistics: ``tactful privacy …``."""

from __future__ import annotations

import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from tqdm import tqdm

from tactful.cli.options import config_option, data_option
from tactful.config.ledger_location import existing_ledger, named
from tactful.config.load import load_settings
from tactful.errors import ConfigError
from tactful.maintenance.key_rotation import begin_epoch, change_master_key
from tactful.metadata.directory_lock import exclusive
from tactful.statistics.export_job import publish
from tactful.statistics.ledger_view import as_text, day_of, report_month
from tactful.util.clock import now_ms
from tactful_privacy.audit.audit import QUICK, THOROUGH, audit
from tactful_privacy.errors import ParameterError, PrivacyError
from tactful_privacy.ledger.budget import date_of
from tactful_privacy.ledger.ledger import Ledger

_AUDIT_IN_VAIN = 5


@click.group()
def privacy() -> None:
    """Audit, report and manage private statistics."""


@privacy.command("audit")
@click.option("--quick", is_flag=True, help="Fewer trials; takes half a minute.")
@click.option("--cap", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option(
    "--epsilon",
    default="1",
    show_default=True,
    help="Claimed epsilon; an exact number, such as 1/2.",
)
@click.option("--canaries", type=click.IntRange(min=1_000), help="Number of trials of the attack.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--plots", type=click.Path(file_okay=False, path_type=Path), help="Directory for plots."
)
def audit_command(
    quick: bool,
    cap: int,
    epsilon: str,
    canaries: int | None,
    as_json: bool,
    plots: Path | None,
) -> None:
    """Attack the published counts, and check that the attack detects planted bugs."""
    effort = QUICK if quick else THOROUGH
    if canaries is not None:
        effort = replace(effort, canaries=canaries)
    try:
        with tqdm(unit="pipeline", disable=not sys.stderr.isatty()) as bar:

            def done(name: str) -> None:
                bar.set_postfix_str(name)
                bar.update()

            report = audit(cap, epsilon, effort, progress=done)
    except ParameterError as error:
        raise ConfigError(str(error)) from error
    if plots is not None:
        from tactful.statistics.plots import write_plots

        write_plots(report, plots)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=2))
    else:
        click.echo(str(report))
    if not report.passed:
        raise SystemExit(1)
    if not report.trustworthy:
        raise SystemExit(_AUDIT_IN_VAIN)


@privacy.command("ledger")
@config_option
@data_option
@click.option(
    "--day", type=click.DateTime(["%Y-%m-%d"]), help="Last day of the month that is reported."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def ledger_command(
    config: Path | None, data: Path | None, day: datetime | None, as_json: bool
) -> None:
    """Report the privacy loss of one user in a month, so far and at its end."""
    place = existing_ledger(load_settings(config, overrides={"storage.data": data}))
    moment = datetime.now(UTC) if day is None else day.replace(tzinfo=UTC)
    try:
        ledger = Ledger(place)
        try:
            report = report_month(ledger, day_of(int(moment.timestamp() * 1_000)))
        finally:
            ledger.close()
    except PrivacyError as error:
        raise ConfigError(f"{named(place)}: {error}") from error
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2))
    else:
        click.echo(as_text(report))


@privacy.command("release")
@config_option
@data_option
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Directory of files.")
@click.option("--topic", help="Kafka topic, in the cluster of the settings' log.")
@click.option("--follow", is_flag=True, help="Repeat every 15 s until SIGTERM or Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def release_command(
    config: Path | None,
    data: Path | None,
    out: Path | None,
    topic: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Write published numbers from the ledger as JSON lines, to files or a Kafka topic.

    Each number comes with its interval, epsilon, unit, pane and method.
    """
    if out is None and topic is None:
        raise click.UsageError("give --out, --topic or both")
    done = publish(
        load_settings(config, overrides={"storage.data": data}), out, topic, follow=follow
    )
    if as_json:
        click.echo(msgspec.json.encode(done))
    else:
        click.echo(f"{done.files} files and {done.records} records written")


@privacy.command("retire")
@click.argument("name")
@config_option
@data_option
def retire_command(name: str, config: Path | None, data: Path | None) -> None:
    """End the statistic NAME for good; its share of the budget is free from tomorrow.

    Before, remove it from statistics.yaml and stop the servers that count it.
    """
    place = existing_ledger(load_settings(config, overrides={"storage.data": data}))
    try:
        ledger = Ledger(place)
        try:
            last = ledger.retire(name)
        finally:
            ledger.close()
    except PrivacyError as error:
        raise ConfigError(f"{named(place)}: {error}") from error
    click.echo(f"{name} takes its part of the budget up to {date_of(last)}, and none afterwards")


@privacy.command("rotate")
@config_option
@data_option
@click.option(
    "--master-key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File with a new master key; the vault is wrapped by it, the old key is destroyed.",
)
@click.option("--pseudonyms", is_flag=True, help="Begin a new epoch of pseudonyms.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rotate_command(
    config: Path | None,
    data: Path | None,
    master_key_file: Path | None,
    pseudonyms: bool,
    as_json: bool,
) -> None:
    """Change the master key of the vault, or the key of the pseudonyms.

    For the master key the server must be stopped. After a kill, run the same command again.
    """
    if master_key_file is None and not pseudonyms:
        raise click.UsageError("give --master-key-file, --pseudonyms or both")
    settings = load_settings(config, overrides={"storage.data": data})
    told: dict[str, object] = {}
    if master_key_file is not None:
        quiet = as_json or not sys.stderr.isatty()
        with exclusive(settings.storage.data), tqdm(unit="key", disable=quiet) as bar:
            changed = change_master_key(settings, master_key_file, advanced=bar.update)
        told |= msgspec.to_builtins(changed)
    if pseudonyms:
        told["epoch"] = begin_epoch(settings, clock=now_ms)
    if as_json:
        click.echo(msgspec.json.encode(told))
        return
    if master_key_file is not None:
        click.echo(f"{changed.wrapped} keys were wrapped anew")
        if changed.todo:
            click.echo(f"Yet to do: {changed.todo}")
    if pseudonyms:
        click.echo(f"new pseudonyms are made by key {told['epoch']}; earlier ones are still known")
