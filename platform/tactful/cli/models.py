"""``tactful models``: list, promote, roll back and fetch model versions."""

from __future__ import annotations

import datetime as dt

import click

from tactful.cli.options import by_option, json_option, print_json, reason_option, with_settings
from tactful.config.settings import Settings
from tactful.models.audit_log import open_model_log
from tactful.models.mlflow_registry import Registry, audited_registry

_name_option = click.option("--name", default="ranker", help="Model name.")


@click.group()
def models() -> None:
    """List, promote, roll back and fetch model versions."""


@models.command("list")
@with_settings
@_name_option
@json_option
def models_list(settings: Settings, name: str, as_json: bool) -> None:
    """List the versions, newest first."""
    found = Registry(name, settings.models).versions()
    if as_json:
        print_json(found)
        return
    for version in found:
        click.echo(f"{version['version']:>4}  {version['run_id']}  {version['aliases']}")


@models.command("promote")
@with_settings
@_name_option
@reason_option
@by_option
@click.argument("version")
def models_promote(
    settings: Settings, name: str, reason: str, by: str | None, version: str
) -> None:
    """Make VERSION the champion; a running server loads it within seconds."""
    with audited_registry(settings, name, by=by) as registry:
        registry.promote(version, reason=reason)
    click.echo(f"{name} {version} is the champion.", err=True)


@models.command("rollback")
@with_settings
@_name_option
@click.option("--reason", required=True, help="Reason, for the audit log.")
@by_option
def models_rollback(settings: Settings, name: str, reason: str, by: str | None) -> None:
    """Make the previous champion the champion again."""
    with audited_registry(settings, name, by=by) as registry:
        version = registry.rollback(reason=reason)
    click.echo(f"{name} {version} is the champion again.", err=True)


@models.command("log")
@with_settings
@click.option("--limit", type=click.IntRange(min=1), default=50)
@json_option
def models_log(settings: Settings, limit: int, as_json: bool) -> None:
    """List trainings, promotions and rollbacks with author and reason, newest first."""
    with open_model_log(settings) as log:
        changes = log.changes(limit=limit)
    if as_json:
        print_json(changes)
        return
    for change in changes:
        at = dt.datetime.fromtimestamp(change.begun_at / 1000, dt.UTC)
        state = "" if change.state == "done" else f" ({change.state})"
        click.echo(
            f"{at:%Y-%m-%d %H:%M:%S}Z  {change.action:<8}  {change.name} {change.version or '-'}"
            f"{state}  {change.changed_by}  {change.reason}".rstrip()
        )


@models.command("pull")
@with_settings
@_name_option
@click.argument("version")
def models_pull(settings: Settings, name: str, version: str) -> None:
    """Fetch the files of VERSION from MLflow."""
    directory = Registry(name, settings.models).pull(version)
    click.echo(str(directory))
