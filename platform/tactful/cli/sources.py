"""Commands around sources: ``tactful sources check`` and ``try``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.errors import DatasetError
from tactful.sources.mapping import SOURCES, SourceMapping, SourceName
from tactful.sources.preview import Preview, preview
from tactful.sources.read_mapping import read_mappings
from tactful.sources.request_file import likely_source, read_request
from tactful.util.clock import now_ms


@click.group()
def sources() -> None:
    """Check mappings of other programs' messages, and try them."""


@sources.command("check", epilog=cli.example("tactful sources check mappings.yaml"))
@click.argument("file", type=cli.existing_file)
@cli.json_option
def check(file: Path, as_json: bool) -> None:
    """Check the mappings in FILE; a mistake is named with its line."""
    mappings = read_mappings(file)
    counts = {source: len(mapping.rules) for source, mapping in mappings.items()}
    if as_json:
        cli.print_json(counts)
        return
    for source in SOURCES:
        rules = f"{counts[source]} rules" if source in counts else "no rules: all is ignored"
        click.echo(f"{source:<12} {rules}")


@sources.command("try", epilog=cli.example("tactful sources try mappings.yaml messages.json"))
@click.argument("file", type=cli.existing_file)
@click.argument("messages", type=cli.existing_file)
@click.option("--source", type=click.Choice(SOURCES), help="Sender; else the fields decide.")
@cli.json_option
def try_messages(file: Path, messages: Path, source: SourceName | None, as_json: bool) -> None:
    """Print what the mappings in FILE make of MESSAGES, and store nothing.

    MESSAGES is the body of a request, one message, an array, or for plain events one a line.
    Consent is not considered.
    """
    mappings, body, now = read_mappings(file), messages.read_bytes(), now_ms()
    name = source or likely_source(body)
    mapping = mappings.get(name) or SourceMapping(name)
    try:
        made = preview(read_request(body, mapping, now=now), mapping, now=now)
    except ValueError as error:
        raise DatasetError(f"{messages}: not what {name} sends: {error}") from error
    if as_json:
        cli.print_json({"source": name, "messages": made})
    else:
        _print(name, made)
    if any(it.problems for it in made):
        raise SystemExit(ExitCode.PROBLEM_FOUND)


def _print(source: str, made: Sequence[Preview]) -> None:
    click.echo(f"As {source}:")
    for it in made:
        what = "ignored, no rule fits" if it.rule is None else f"rule {it.rule}"
        if it.rule is None and it.problems:
            what = "refused"
        number = f"{it.index + 1} " if it.index >= 0 else ""
        click.echo(f"{number}{it.kind}: {what}")
        for event in it.events:
            moment = datetime.fromtimestamp(event.timestamp / 1000, UTC).isoformat(sep=" ")
            fields = {
                name: value
                for name, value in msgspec.to_builtins(event).items()
                if name not in ("kind", "type", "timestamp")
            }
            click.echo(f"    {event.type} at {moment} {msgspec.json.encode(fields).decode()}")
        if it.user is not None:
            traits = msgspec.json.encode(it.user.properties).decode()
            click.echo(f"    user {it.user.user_id} {traits}")
        for problem in it.problems:
            click.echo(f"    refused: {problem.code}: {problem.message}")
