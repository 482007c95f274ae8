"""Commands that define, move and show rollouts; they belong to ``tactful experiment``."""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli.options import by_option, config_option, data_option, json_option
from tactful.config.load import load_settings
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
@config_option
@data_option
@click.option("--reason", default="", help="Reason, for the audit log.")
@by_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def apply(config: Path | None, data: Path | None, reason: str, by: str | None, file: Path) -> None:
    """Store the rollouts in FILE, and start those that ask for it."""
    found = load_rollouts(file)
    with _opened(config, data) as (store, _):
        for definition in found:
            changed = store.apply(
                definition,
                by=by or login_and_host(),
                reason=reason or f"applied from {file.name}",
            )
            click.echo(f"{definition.key}: {'applied' if changed else 'as it was'}")


@click.command("list")
@config_option
@data_option
@json_option
def list_rollouts(config: Path | None, data: Path | None, as_json: bool) -> None:
    """List the rollouts with their states."""
    with _opened(config, data) as (store, _):
        found = [rollout_info(each) for each in store.all()]
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for each in found:
        state = each.state if each.decision is None else f"{each.state}: {each.decision}"
        archived = "  archived" if each.archived else ""
        click.echo(f"{each.key}  {state}  {each.share:.2%}  {each.looks} looks{archived}")


@click.command("show")
@config_option
@data_option
@click.argument("key")
@json_option
def show(config: Path | None, data: Path | None, key: str, as_json: bool) -> None:
    """Show state, history and looks of the rollout KEY."""
    with _opened(config, data) as (store, _):
        stored = store.find(key)
        if stored is None:
            raise ConfigError(f"there is no rollout {key!r}")
        found = details(store, stored)
    if as_json:
        click.echo(msgspec.json.encode(found))
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
        config: Path | None,
        data: Path | None,
        key: str,
        reason: str,
        by: str | None,
        decision: str | None = None,
    ) -> None:
        with _opened(config, data) as (store, _):
            after = move(
                store, key, name, by=by or login_and_host(), reason=reason, decision=decision
            )
        click.echo(f"{key} is {after.rollout.state}, {after.rollout.share:.2%} get it", err=True)

    command: Callable[..., Any] = work
    for option in (
        click.argument("key"),
        by_option,
        click.option("--reason", required=True, help="Reason, for the audit log."),
        data_option,
        config_option,
        *options,
    ):
        command = option(command)
    return click.command(name, help=words)(wraps(work)(command))


start = _mover("start", "Start the shadow of the rollout KEY.")
advance = _mover("advance", "Start the first stage of KEY, or continue after a hold.")
rollback = _mover("rollback", "End KEY and serve everybody as before it.")
decide = _mover(
    "decide",
    "End KEY by hand before its last stage is over.",
    click.option(
        "--decision",
        type=click.Choice(["ship", "keep", "inconclusive"]),
        required=True,
        help="Whether the change replaces what was.",
    ),
)
archive = _mover("archive", "Archive KEY, which has ended; its change is no longer served.")


@click.command("record")
@config_option
@data_option
@click.argument("key")
def record_end(config: Path | None, data: Path | None, key: str) -> None:
    """Record the end of the rollout KEY in MLflow; a shipped model becomes the champion."""
    with _opened(config, data) as (store, settings):
        click.echo(record(store, settings, key))


@contextlib.contextmanager
def _opened(config: Path | None, data: Path | None) -> Iterator[tuple[RolloutStore, Settings]]:
    settings = load_settings(config, overrides={"storage.data": data})
    with contextlib.closing(open_installation(settings)) as metadata:
        yield RolloutStore(metadata, clock=now_ms), settings
