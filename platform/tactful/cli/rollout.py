"""Commands that define, move and show rollouts; they belong to ``tactful experiment``."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.experiments.definitions import load_rollouts
from tactful.experiments.messages import details, move, rollout_info
from tactful.experiments.store import RolloutStore
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import login_and_host
from tactful.models.record_rollout import record
from tactful.util.clock import now_ms


@click.command("apply")
@cli.with_settings
@cli.reason_option
@cli.by_option
@click.argument("file", type=cli.existing_file)
def apply_command(settings: Settings, reason: str, by: str | None, file: Path) -> None:
    """Store the rollouts in FILE, and start those that ask for it."""
    found = load_rollouts(file)
    with _rollouts(settings) as store:
        for definition in found:
            changed = store.apply(
                definition, by=by or login_and_host(), reason=reason or f"applied from {file.name}"
            )
            click.echo(f"{definition.key}: {'applied' if changed else 'as it was'}")


@click.command("list")
@cli.with_settings
@cli.json_option
def list_command(settings: Settings, as_json: bool) -> None:
    """List the rollouts with their states."""
    with _rollouts(settings) as store:
        found = [rollout_info(each) for each in store.all()]
    if as_json:
        cli.print_json(found)
        return
    for each in found:
        state = each.state if each.decision is None else f"{each.state}: {each.decision}"
        archived = "  archived" if each.archived else ""
        click.echo(f"{each.key}  {state}  {each.share:.2%}  {each.looks} looks{archived}")


@click.command("show")
@cli.with_settings
@click.argument("key")
@cli.json_option
def show_command(settings: Settings, key: str, as_json: bool) -> None:
    """Show state, history and looks of the rollout KEY."""
    with _rollouts(settings) as store:
        stored = store.find(key)
        if stored is None:
            raise ConfigError(f"there is no rollout {key!r}")
        found = details(store, stored)
    if as_json:
        cli.print_json(found)
        return
    click.echo(f"{found.rollout.key}  {found.rollout.state}  {found.rollout.share:.2%}")
    for line in found.history:
        at = dt.datetime.fromtimestamp(line.at / 1000, dt.UTC)
        click.echo(
            f"{at:%Y-%m-%d %H:%M:%S}Z  {line.action}  {line.share:.2%}  {line.changed_by}  "
            f"{line.reason}".rstrip()
        )
    for look in found.looks:
        verdicts = ", ".join(f"{metric} {said}" for metric, said in look.guardrails.items())
        click.echo(f"look {look.number}, stage {look.stage}: {look.sample_ratio}; {verdicts}")


def _mover(name: str, words: str, *options: Any) -> click.Command:
    """Return a command for one of the steps of `tactful.experiments.messages.move`."""

    def work(
        settings: Settings, key: str, reason: str, by: str | None, decision: str | None = None
    ) -> None:
        with _rollouts(settings) as store:
            after = move(
                store, key, name, by=by or login_and_host(), reason=reason, decision=decision
            )
        click.echo(f"{key} is {after.rollout.state}, {after.rollout.share:.2%} get it", err=True)

    reason_required = click.option("--reason", required=True, help="Reason, for the audit log.")
    shared = (cli.with_settings, reason_required, cli.by_option, click.argument("key"))
    return click.command(name, help=words)(cli.with_options(*options, *shared)(work))


start_command = _mover("start", "Start the shadow of the rollout KEY.")
advance_command = _mover("advance", "Start the first stage of KEY, or continue after a hold.")
rollback_command = _mover("rollback", "End KEY and serve everybody as before it.")
decide_command = _mover(
    "decide",
    "End KEY by hand before its last stage is over.",
    click.option(
        "--decision",
        type=click.Choice(["ship", "keep", "inconclusive"]),
        required=True,
        help="Whether the change replaces what was.",
    ),
)
archive_command = _mover("archive", "Archive KEY, which has ended; its change is no longer served.")


@click.command("record")
@cli.with_settings
@click.argument("key")
def record_command(settings: Settings, key: str) -> None:
    """Record the end of the rollout KEY in MLflow; a shipped model becomes the champion."""
    with _rollouts(settings) as store:
        click.echo(record(store, settings, key))


@contextlib.contextmanager
def _rollouts(settings: Settings) -> Iterator[RolloutStore]:
    with contextlib.closing(open_installation(settings)) as metadata:
        yield RolloutStore(metadata, clock=now_ms)
