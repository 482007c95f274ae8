"""Commands of ``tactful flags`` that use a server: apply, list, show, kill, revive, why."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.client import Client
from tactful.client.request import Request, following
from tactful.client.routes import flags as routes
from tactful.errors import ConfigError
from tactful.schemas.experiments.flags import FlagDetails, FlagDifference, FlagIndex, FlagInfo

_server = (cli.url_option, cli.key_file_option, cli.json_option)
_reason = click.option("--reason", required=True, help="Why, for the audit trail.")


@click.command(
    "apply",
    epilog=cli.example(
        "tactful flags apply flags.yaml --reason 'cart on one page'",
        "tactful flags apply flags.yaml --check",
    ),
)
@click.argument("file", type=cli.existing_file)
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option("--check", is_flag=True, help="Print the differences, and apply nothing.")
@cli.with_options(*_server)
def apply_(
    file: Path, reason: str, check: bool, url: str, key_file: Path | None, as_json: bool
) -> None:
    """Replace all flags of a server by those of FILE, in one step.

    A file with an error changes nothing, and so does one that changes the arms of an experiment
    under its units.
    """
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8: {error}") from error
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        request = routes.apply(text, name=str(file)[-255:], reason=reason, check=check)
        answer = client.run(request)
    if as_json:
        cli.print_json(answer)
        return
    _print_differences(answer.differences)
    if not answer.changed:
        click.echo(f"Nothing changes: version {answer.version} has these flags.", err=True)
    elif check:
        click.echo("Nothing was applied: this was a check.", err=True)
    else:
        click.echo(f"Version {answer.version} is served.", err=True)


@click.command("list", epilog=cli.example("tactful flags list", "tactful flags list --stale"))
@click.option("--stale", is_flag=True, help="Only flags that may be removed.")
@cli.with_options(*_server)
def list_(stale: bool, url: str, key_file: Path | None, as_json: bool) -> None:
    """List the flags of a server, with the reasons to remove them."""
    found: list[FlagInfo] = []
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        request: Request[FlagIndex] | None = routes.flags(limit=1_000)
        while request is not None:
            page = client.run(request)
            found += [flag for flag in page.flags if flag.stale or not stale]
            request = following(request, page)
    if as_json:
        cli.print_json(found)
        return
    for flag in found:
        click.echo(_line(flag))
    if not found:
        click.echo("No flag is stale." if stale else "No flag was applied yet.", err=True)


@click.command("show", epilog=cli.example("tactful flags show new-cart"))
@click.argument("key")
@cli.with_options(*_server)
def show(key: str, url: str, key_file: Path | None, as_json: bool) -> None:
    """Show the flag KEY: its rules, and the versions that changed it."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        details = client.run(routes.flag(key))
    if as_json:
        cli.print_json(details)
        return
    click.echo(_line(details.flag))
    for rule in details.rules:
        click.echo(f"  {rule.id}: {_plain(rule.words)}")
    click.echo(f"  else: {_text(details.flag.default)}")
    for change in details.history:
        why = f": {_plain(change.reason)}" if change.reason else ""
        by = _plain(change.by)
        click.echo(f"version {change.version}, {_time(change.at)}, {by}, {change.change}{why}")
        for line in change.lines:
            click.echo(f"  {_plain(line)}")


@click.command("kill", epilog=cli.example("tactful flags kill new-cart --reason 'loses items'"))
@click.argument("key")
@_reason
@cli.with_options(*_server)
def kill(key: str, reason: str, url: str, key_file: Path | None, as_json: bool) -> None:
    """Give every unit the default value of the flag KEY until it is revived."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        _switched(client.run(routes.kill(key, reason)), as_json)


@click.command("revive", epilog=cli.example("tactful flags revive new-cart --reason repaired"))
@click.argument("key")
@_reason
@cli.with_options(*_server)
def revive(key: str, reason: str, url: str, key_file: Path | None, as_json: bool) -> None:
    """End the kill of the flag KEY."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        _switched(client.run(routes.revive(key, reason)), as_json)


@click.command("why", epilog=cli.example("tactful flags why new-cart --unit u-17 --set country=CH"))
@click.argument("key")
@click.option("--unit", required=True, help="User id, or device: and a device id.")
@click.option("--set", "given", multiple=True, help="Attribute as NAME=VALUE; JSON or a text.")
@cli.with_options(*_server)
def why(
    key: str, unit: str, given: tuple[str, ...], url: str, key_file: Path | None, as_json: bool
) -> None:
    """Explain the value of the flag KEY for a unit; the look is recorded."""
    attributes = msgspec.json.encode(_attributes(given)).decode()
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        answer = client.run(routes.why(key, unit, attributes=attributes))
    if as_json:
        cli.print_json(answer)
        return
    click.echo(f"{key} is {_text(answer.result.value)}: {_plain(answer.result.reason)}")
    if not answer.consented:
        click.echo("The unit has not agreed to measurement: no experiment applies.")
    for step in answer.steps:
        click.echo(f"  {step.rule}: {_plain(step.why)}")
    for experiment, arm in answer.sticky.items():
        click.echo(f"  keeps {_plain(arm)} of {_plain(experiment)}")


def _attributes(given: tuple[str, ...]) -> Mapping[str, Any]:
    found = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--set")
        try:
            found[name] = msgspec.json.decode(text)
        except msgspec.DecodeError:
            found[name] = text
    return found


def _switched(details: FlagDetails, as_json: bool) -> None:
    if as_json:
        cli.print_json(details)
    else:
        click.echo(_line(details.flag))


def _print_differences(differences: list[FlagDifference]) -> None:
    for difference in differences:
        click.echo(f"{_plain(difference.flag)} is {difference.change}")
        for line in difference.lines:
            click.echo(f"  {_plain(line)}")


def _line(flag: FlagInfo) -> str:
    marks = [flag.state, *flag.stale, *(["remote"] if flag.remote else [])]
    experiments = f", experiments {', '.join(flag.experiments)}" if flag.experiments else ""
    about = f"  {flag.description}" if flag.description else ""
    text = f"{flag.key}  {flag.kind}, {flag.rules} rules{experiments}  [{', '.join(marks)}]{about}"
    return _plain(text)


def _time(moment: int) -> str:
    return f"{dt.datetime.fromtimestamp(moment / 1000, dt.UTC):%Y-%m-%d %H:%M:%SZ}"


def _text(value: Any) -> str:
    return _plain(msgspec.json.encode(value).decode())


def _plain(text: str) -> str:
    """Return a text without characters that a terminal obeys."""
    return "".join(part if part.isprintable() else "\ufffd" for part in text)
