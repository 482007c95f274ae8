"""Commands around bandits: ``tactful bandit apply``, ``list``, ``show``, ``judge`` and ``stop``."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click

from tactful.bandits.definitions import load_bandits, numbers_of
from tactful.bandits.report import outcomes_of, read_decisions
from tactful.bandits.store import BanditStore, StoredBandit
from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.coupons.definitions import load_coupons, require_offered
from tactful.errors import ConfigError
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import login_and_host
from tactful.schemas.experiments.bandits import BanditOutcomes
from tactful.subjects.consented_log import measured_partitions
from tactful.util.clock import now_ms
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError

_DAY_MS = 86_400_000


@click.group()
def bandit() -> None:
    """Apply, list, judge and stop bandits: arms that are chosen by what pays."""


@bandit.command("apply", epilog=cli.example("tactful bandit apply bandits.yaml --reason 'spring'"))
@cli.with_settings
@cli.json_option
@cli.reason_option
@cli.by_option
@click.argument("file", type=cli.existing_file)
def apply_command(
    settings: Settings, as_json: bool, reason: str, by: str | None, file: Path
) -> None:
    """Store the bandits in FILE with their states; a running server follows within a second."""
    with cli.reported_as(ConfigError, DefinitionError):
        features = numbers_of(load_definitions(settings.features))
    campaigns = load_coupons(path) if (path := settings.coupons.definitions).name else []
    check = partial(require_offered, campaigns=campaigns)
    found = load_bandits(file, features=features, check=check)
    applied = []
    with _bandits(settings) as store:
        for definition in found:
            changed = store.apply(
                definition,
                by=by or login_and_host(),
                reason=reason or f"applied from {file.name}",
            )
            applied.append({"key": definition.key, "state": definition.state, "changed": changed})
            if not as_json:
                words = "applied" if changed else "as it was"
                click.echo(f"{definition.key}: {words}, {definition.state}")
    if as_json:
        cli.print_json(applied)
    elif not found:
        click.echo(f"{file} has no bandits.", err=True)


@bandit.command("list", epilog=cli.example("tactful bandit list"))
@cli.with_settings
@cli.json_option
def list_command(settings: Settings, as_json: bool) -> None:
    """List the bandits with their states."""
    with _bandits(settings) as store:
        found = [each.info() for each in store.all()]
    if as_json:
        cli.print_json(found)
        return
    if not found:
        click.echo("There are no bandits: `tactful bandit apply FILE` makes some.", err=True)
    for each in found:
        click.echo(f"{each.key}  {each.state}  {each.policy}  {', '.join(each.arms)}")


@bandit.command("show", epilog=cli.example("tactful bandit show home-banner"))
@cli.with_settings
@click.argument("key")
@cli.json_option
def show_command(settings: Settings, key: str, as_json: bool) -> None:
    """Show state and definition of the bandit KEY."""
    with _bandits(settings) as store:
        held = _existing(store, key)
    if as_json:
        cli.print_json({"bandit": held.info(), "definition": held.definition})
        return
    info = held.info()
    at = dt.datetime.fromtimestamp(info.changed_at / 1000, dt.UTC)
    click.echo(f"{info.key}  {info.state}  {at:%Y-%m-%d %H:%M:%S}Z  {info.changed_by}")
    click.echo(f"{info.policy} over {', '.join(info.arms)}; {info.default} is the default")
    click.echo(f"reward: {info.reward} within {info.within_hours:g} hours")
    if info.features:
        click.echo(f"features: {', '.join(info.features)}")


@bandit.command("judge", epilog=cli.example("tactful bandit judge home-banner --days 14"))
@cli.with_settings
@click.argument("key")
@click.option("--days", type=click.FloatRange(0, 400, min_open=True), default=28.0)
@cli.json_option
def judge_command(settings: Settings, key: str, days: float, as_json: bool) -> None:
    """Judge the bandit KEY by the log: its shadow against what served, and every arm.

    The estimates are off-policy, with intervals of 95 %. `inconclusive` is a result.
    """
    with _bandits(settings) as store:
        definition = _existing(store, key).definition
    now = now_ms()
    since = now - int(days * _DAY_MS)
    with measured_partitions(settings, clock=now_ms) as logs:
        found, waiting = read_decisions(logs, definition, since=since, now=now)
    outcomes = outcomes_of(definition, found, waiting=waiting, since=since, now=now)
    if as_json:
        cli.print_json(outcomes)
        return
    for line in _words(outcomes):
        click.echo(line)


@bandit.command("stop", epilog=cli.example("tactful bandit stop home-banner --reason 'it is over'"))
@cli.with_settings
@click.argument("key")
@click.option("--reason", required=True, help="Reason, for the audit log.")
@cli.by_option
@cli.json_option
def stop_command(settings: Settings, key: str, reason: str, by: str | None, as_json: bool) -> None:
    """Switch the bandit KEY off: its default arm serves, and nothing is learnt."""
    with _bandits(settings) as store:
        stopped = store.stop(key, by=by or login_and_host(), reason=reason)
    if as_json:
        cli.print_json(stopped.info())
    else:
        click.echo(f"{key} is off", err=True)


def _words(outcomes: BanditOutcomes) -> Iterator[str]:
    yield f"{outcomes.decisions} decisions, {outcomes.waiting} wait for a reward"
    for arm in outcomes.arms:
        value = "no estimate"
        if arm.value is not None and arm.interval is not None:
            value = f"{arm.value:.4f} [{arm.interval.low:.4f}, {arm.interval.high:.4f}]"
        few = "" if arm.reliable else ", few decisions"
        yield f"  {arm.name}  {arm.share:.1%}  {value}{few}"
    if (verdict := outcomes.verdict) is not None:
        low, high = verdict.interval.low, verdict.interval.high
        yield f"shadow: {verdict.verdict}, gain {verdict.gain:+.4f} [{low:+.4f}, {high:+.4f}]"
        yield from (f"  {reason}" for reason in verdict.reasons)
    if (regret := outcomes.regret) is not None:
        low, high = regret.interval.low, regret.interval.high
        yield f"regret against {regret.best}: {regret.regret:+.4f} [{low:+.4f}, {high:+.4f}]"
    yield from outcomes.reasons


def _existing(store: BanditStore, key: str) -> StoredBandit:
    held = store.find(key)
    if held is None:
        raise ConfigError(f"there is no bandit {key!r}: `tactful bandit list` shows all")
    return held


@contextlib.contextmanager
def _bandits(settings: Settings) -> Iterator[BanditStore]:
    with contextlib.closing(open_installation(settings)) as metadata:
        yield BanditStore(metadata, clock=now_ms)
