"""``tactful alerts``: list and acknowledge alerts, read rules, silence, and test routes."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any, Literal

import click

from tactful.alerts.rules import load_alerts
from tactful.cli import options as cli
from tactful.client import Client
from tactful.client.routes import alerts as routes
from tactful.errors import ClientError
from tactful.schemas.alerts import AlertInfo, AlertRule

_LIMIT = 1_000
_server = (cli.url_option, cli.key_file_option, cli.json_option)


@click.group()
def alerts() -> None:
    """List and acknowledge alerts of a server, read their rules, silence and test them."""


@alerts.command("list", epilog=cli.example("tactful alerts list --state all --rule engine_lag"))
@click.option("--state", type=click.Choice(["open", "cleared", "all"]), default="open")
@click.option("--rule", help="Only alerts of this rule.")
@click.option("--limit", type=click.IntRange(1, _LIMIT), default=50, help="Most alerts.")
@cli.with_options(*_server)
def list_(
    state: Literal["open", "cleared", "all"],
    rule: str | None,
    limit: int,
    url: str,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """List alerts, newest first."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        page = client.run(routes.alerts(state=state, rule=rule, limit=limit))
    if as_json:
        cli.print_json(page)
        return
    for alert in page.alerts:
        click.echo(_line(alert))
    if not page.alerts:
        click.echo("No alert is open." if state == "open" else "There is no alert.", err=True)
    if page.evaluated_at is None:
        click.echo("No server has evaluated the rules yet.", err=True)


@alerts.command(
    "rules", epilog=cli.example("tactful alerts rules", "tactful alerts rules --check alerts.yaml")
)
@click.option("--check", type=cli.existing_file, help="Check this file of a shop instead.")
@cli.with_options(*_server)
def rules(check: Path | None, url: str, key_file: Path | None, as_json: bool) -> None:
    """List the rules as they are evaluated now, or check a file of them."""
    if check is not None:
        file = load_alerts(check)
        if as_json:
            cli.print_json(file)
            return
        click.echo(f"{check} is right: {len(file.own)} rules and {len(file.routes)} routes.")
        return
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        page = client.run(routes.rules(limit=_LIMIT))
    if as_json:
        cli.print_json(page)
        return
    for info in page.rules:
        rule = info.rule
        state = "" if rule.enabled else ", disabled"
        edited = f" by {info.changed_by}" if info.changed_by else ""
        click.echo(
            f"{rule.name}: {_condition(rule)}, {rule.severity}{state} ({info.source}{edited})"
        )


@alerts.command("ack", epilog=cli.example("tactful alerts ack 17 --note 'on it'"))
@click.argument("number", type=click.IntRange(1))
@click.option("--note", default="", help="Words for the others.")
@cli.with_options(*_server)
def ack(number: int, note: str, url: str, key_file: Path | None, as_json: bool) -> None:
    """Acknowledge the alert NUMBER: you take care of it."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        alert = client.run(routes.acknowledge(number, note))
    if as_json:
        cli.print_json(alert)
        return
    click.echo(f"Alert {alert.id} is acknowledged by {alert.acknowledged_by}.")


@alerts.command(
    "silence",
    epilog=cli.example("tactful alerts silence 'engine_*' --minutes 30 --reason migration"),
)
@click.argument("rule", required=False)
@click.option("--minutes", type=click.IntRange(1, 525_600), default=60, help="For how long.")
@click.option("--reason", default="", help="Why.")
@click.option("--end", type=click.IntRange(1), help="End the silence of this number instead.")
@cli.with_options(*_server)
def silence(
    rule: str | None,
    minutes: int,
    reason: str,
    end: int | None,
    url: str,
    key_file: Path | None,
    as_json: bool,
) -> None:
    """Hold back the messages of alerts of RULE; without RULE list the silences."""
    answer: Any
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        if end is not None:
            client.run(routes.end_silence(end))
            click.echo(f"Silence {end} has ended.", err=True)
            return
        if rule is None:
            answer = client.run(routes.silences(limit=_LIMIT))
        else:
            answer = client.run(routes.silence(rule, minutes, reason=reason))
    if as_json:
        cli.print_json(answer)
        return
    for each in [answer] if rule is not None else answer.silences:
        why = f": {_plain(each.reason)}" if each.reason else ""
        click.echo(f"{each.id}  {each.rule} until {_time(each.ends_at)}{why}")


@alerts.command("test", epilog=cli.example("tactful alerts test night_shift"))
@click.argument("route")
@cli.with_options(*_server)
def test(route: str, url: str, key_file: Path | None, as_json: bool) -> None:
    """Send a test message to each sink of ROUTE; fail if one does not take it."""
    with Client(url, cli.api_key(key_file), tls=cli.trust()) as client:
        answer = client.run(routes.test(route))
    if as_json:
        cli.print_json(answer)
    else:
        for name, problem in answer.results.items():
            click.echo(f"{name}: {problem or 'arrived'}")
    if any(answer.results.values()):
        raise ClientError(f"a sink of {route} did not take the test message")


def _line(alert: AlertInfo) -> str:
    marks: list[str] = [alert.severity]
    if alert.state == "cleared" and alert.cleared_at is not None:
        marks.append(f"cleared {_time(alert.cleared_at)}")
    if alert.acknowledged_at is not None:
        marks.append("acknowledged")
    if alert.silenced:
        marks.append("silenced")
    marks += [f"NOT DELIVERED {reason}" for reason in alert.undelivered]
    return f"{alert.id:>5}  {_time(alert.opened_at)}  {_plain(alert.message)}  [{', '.join(marks)}]"


def _condition(rule: AlertRule) -> str:
    """Return the levels of a rule as it is defined: ``above 10, clear 5``."""
    names = ("above", "below", "clear", "rises", "falls", "deviations", "psi")
    levels = {name: getattr(rule, name, None) for name in names}
    unused = {name for name in ("rises", "falls") if levels[name] == 0}
    said = [
        f"{name} {value:g}"
        for name, value in levels.items()
        if value is not None and name not in unused
    ]
    return f"{rule.kind} {', '.join(said)}".rstrip()


def _time(moment: int) -> str:
    return f"{dt.datetime.fromtimestamp(moment / 1000, dt.UTC):%Y-%m-%d %H:%M:%SZ}"


def _plain(text: str) -> str:
    """Return a text without characters that a terminal obeys."""
    return "".join(part if part.isprintable() else "\ufffd" for part in text)
