"""Commands around cleaning: ``tactful rules check``, ``letters`` and ``redrive``."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cleaning.redrive import as_sent
from tactful.cleaning.redrive import redrive as send
from tactful.cleaning.rule_check import check_file
from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.client import Client
from tactful.config.settings import Settings
from tactful.errors import ConfigError, DatasetError
from tactful.event_log.encryption import open_seal
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.errors import LogError, RuleError
from tactful_streaming.log.dead_letters import DeadLetters
from tactful_streaming.rules.rules import load_rules

_DIRECTORY = "dead-letters"
_LATE = "late"
_PROGRESS = "redriven.json"

_rule_option = click.option(
    "--rule", "rules", multiple=True, help="Only dead letters of this rule; may be repeated."
)


@click.group()
def rules() -> None:
    """Test cleaning rules, and list or resend dead letters."""


@rules.command("check", epilog=cli.example("tactful rules check rules.yaml events.ndjson"))
@click.argument("rules_file", metavar="RULES", type=cli.existing_file)
@click.argument("file", type=cli.existing_file)
@click.option(
    "--source",
    type=click.Choice(["door", "topic"]),
    default="door",
    help="Content of FILE: requests of clients (door) or unchecked records of a topic.",
)
@click.option("--items", type=cli.existing_file, help="Item upserts, for rules on item.*.")
@click.option("--samples", type=click.IntRange(0, 100), default=3)
@click.option("--expect-clean", is_flag=True, help="Fail if an event is dropped or set aside.")
@cli.json_option
def check(
    rules_file: Path,
    file: Path,
    source: str,
    items: Path | None,
    samples: int,
    expect_clean: bool,
    as_json: bool,
) -> None:
    """Test the rules of RULES on the events of FILE: JSON or NDJSON, also gzipped."""
    size = file.stat().st_size
    with (
        cli.progress_bar(
            quiet=as_json, total=size, unit="B", unit_scale=True, desc=file.name
        ) as bar,
        cli.reported_as(ConfigError, RuleError),
    ):
        report = check_file(
            file,
            load_rules(rules_file),
            source=source,  # type: ignore[arg-type]
            items=items,
            samples=samples,
            advanced=bar.update,
        )
    if as_json:
        cli.print_json(report)
    else:
        _print_report(report, rules_file)
    if report.refused or (expect_clean and report.clean < report.events):
        raise SystemExit(ExitCode.PROBLEM_FOUND)


@rules.command("letters", epilog=cli.example("tactful rules letters --rule price_missing"))
@cli.with_settings
@_rule_option
@click.option("--late", is_flag=True, help="List late events by feature instead.")
@cli.json_option
def letters(settings: Settings, rules: tuple[str, ...], late: bool, as_json: bool) -> None:
    """Count the dead letters by rule; --json prints them with their personal data."""
    with _opened(settings, _LATE if late else _DIRECTORY) as (kept, _):
        found = kept.read(rules=rules or None)
        if as_json:
            for position, letter in found:
                cli.print_json(_as_data(position, letter))
            return
        counts: dict[str, list[Any]] = {}
        for _, letter in found:
            count = counts.setdefault(letter.rule, [0, letter.reason])
            count[0] += 1
    for rule, (number, reason) in sorted(counts.items(), key=lambda c: -c[1][0]):
        click.echo(f"{number:>9,}  {rule}: {reason}")
    if not counts:
        click.echo("No late events." if late else "No dead letters.", err=True)


@rules.command("redrive", epilog=cli.example("tactful rules redrive --mend mend.yaml"))
@cli.with_settings
@_rule_option
@click.option(
    "--mend", type=cli.existing_file, help="Rules file that corrects each event before it is sent."
)
@click.option("--restart", is_flag=True, help="Send everything again instead of resuming.")
@cli.key_file_option
@cli.url_option
@cli.json_option
def redrive(
    settings: Settings,
    rules: tuple[str, ...],
    mend: Path | None,
    restart: bool,
    key_file: Path | None,
    url: str,
    as_json: bool,
) -> None:
    """Send dead letters again; run it again to resume."""
    with cli.reported_as(ConfigError, RuleError):
        mending = None if mend is None else load_rules(mend)
    with (
        _opened(settings) as (kept, directory),
        Client(url, cli.api_key(key_file), tls=cli.trust()) as client,
    ):
        counts = collections.Counter(letter.rule for _, letter in kept.read(rules=rules or None))
        chosen = rules or tuple(counts)
        with cli.progress_bar(
            quiet=as_json, total=counts.total(), unit="letter", desc="redrive"
        ) as bar:
            done = send(
                client,
                kept,
                directory / _PROGRESS,
                chosen,
                mending=mending,
                restart=restart,
                advanced=bar.update,
            )
    if as_json:
        cli.print_json(done)
    else:
        for refusal in done.refusals:
            click.echo(f"letter {refusal.position}: {refusal.code}: {refusal.message}", err=True)
        click.echo(
            f"{done.accepted} accepted, {done.duplicates} known before, {done.rejected} refused, "
            f"{done.held_back} held back by the mending rules, {done.unreadable} no event"
        )
    if done.rejected:
        raise SystemExit(ExitCode.PARTLY_DONE)


@contextlib.contextmanager
def _opened(settings: Settings, name: str = _DIRECTORY) -> Iterator[tuple[DeadLetters, Path]]:
    """Open the dead letters of a data directory; returns them and their directory."""
    directory = settings.storage.data / name
    with contextlib.ExitStack() as stack:
        seal = open_seal(settings, clock=now_ms)
        if seal is not None:
            stack.callback(seal.close)
        try:
            kept = DeadLetters.open(directory, read_only=True, seal=seal)
        except LogError as error:
            found, keep = "dead letters", ""
            if name == _LATE:
                found, keep = "late events", "; they are kept where engine.keep_late is set"
            raise DatasetError(
                f"{directory}: no {found} here: {error}; name the server's data directory with "
                f"--data{keep}"
            ) from error
        stack.callback(kept.close)
        with cli.reported_as(DatasetError, LogError):
            yield kept, directory


def _as_data(position: int, letter: Any) -> dict[str, Any]:
    entry, received = letter.entry(), letter.received
    if received is not None:
        moment = datetime.fromtimestamp(received / 1000, UTC)
        received = moment.isoformat(timespec="milliseconds")
    return {
        "position": position,
        "rule": letter.rule,
        "reason": letter.reason,
        "partition": letter.partition,
        "offset": letter.offset,
        "received": received,
        "event": as_sent(entry) if isinstance(entry, Event) else None,
    }


def _print_report(report: Any, rules_file: Path) -> None:
    click.echo(
        f"{report.events:,} events: {report.clean:,} clean ({report.changed:,} of them changed), "
        f"{report.dropped:,} dropped, {report.dead_lettered:,} set aside; "
        f"{report.refused:,} lines are no event"
    )
    width = max((len(outcome.rule) for outcome in report.rules), default=0)
    for outcome in report.rules:
        share = outcome.events / report.events if report.events else 0.0
        click.echo(f"{outcome.events:>9,} {share:>7.2%}  {outcome.rule:<{width}}  {outcome.action}")
    for outcome in report.rules:
        if outcome.samples:
            said = f": {outcome.reason}" if outcome.reason else ""
            click.echo(f"\n{outcome.rule} ({rules_file.name}:{outcome.line}){said}")
        for sample in outcome.samples:
            event = msgspec.json.encode(sample.event).decode()
            click.echo(f"  {sample.place}: {event}")
            if sample.after is not None:
                click.echo(f"    becomes {_difference(sample.event, sample.after)}")
    for refusal in report.refusals:
        click.echo(f"{report.file}:{refusal.place}: {refusal.code}: {refusal.message}", err=True)


def _difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return the changed fields of an event as JSON; null for removed ones."""
    names = {*before, *after}
    changed = {
        name: after.get(name) for name in sorted(names) if before.get(name) != after.get(name)
    }
    return msgspec.json.encode(changed).decode()
