"""``tactful models``: list, promote, roll back and fetch model versions."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click
import msgspec

from tactful.cli.options import by_option, config_option, data_option, json_option
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.models.audit_log import open_model_log
from tactful.models.mlflow_registry import Registry, audited_registry

_name_option = click.option("--name", default="ranker", show_default=True, help="Model name.")


@click.group()
def models() -> None:
    """List, promote, roll back and fetch model versions."""


@models.command("list")
@config_option
@data_option
@_name_option
@json_option
def models_list(config: Path | None, data: Path | None, name: str, as_json: bool) -> None:
    """List the versions, newest first."""
    found = Registry(name, _settings(config, data).models).versions()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for version in found:
        click.echo(f"{version['version']:>4}  {version['run_id']}  {version['aliases']}")


@models.command("promote")
@config_option
@data_option
@_name_option
@click.option("--reason", default="", help="Reason, for the audit log.")
@by_option
@click.argument("version")
def models_promote(
    config: Path | None, data: Path | None, name: str, reason: str, by: str | None, version: str
) -> None:
    """Make VERSION the champion; a running server loads it within seconds."""
    with audited_registry(_settings(config, data), name, by=by) as registry:
        registry.promote(version, reason=reason)
    click.echo(f"{name} {version} is the champion.", err=True)


@models.command("rollback")
@config_option
@data_option
@_name_option
@click.option("--reason", required=True, help="Reason, for the audit log.")
@by_option
def models_rollback(
    config: Path | None, data: Path | None, name: str, reason: str, by: str | None
) -> None:
    """Make the previous champion the champion again."""
    with audited_registry(_settings(config, data), name, by=by) as registry:
        version = registry.rollback(reason=reason)
    click.echo(f"{name} {version} is the champion again.", err=True)


@models.command("log")
@config_option
@data_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@json_option
def models_log(config: Path | None, data: Path | None, limit: int, as_json: bool) -> None:
    """List trainings, promotions and rollbacks with author and reason, newest first."""
    with open_model_log(_settings(config, data)) as log:
        changes = log.changes(limit=limit)
    if as_json:
        click.echo(msgspec.json.encode(changes))
        return
    for change in changes:
        at = dt.datetime.fromtimestamp(change.begun_at / 1000, dt.UTC)
        state = "" if change.state == "done" else f" ({change.state})"
        click.echo(
            f"{at:%Y-%m-%d %H:%M:%S}Z  {change.action:<8}  {change.name} {change.version or '-'}"
            f"{state}  {change.changed_by}  {change.reason}".rstrip()
        )


@models.command("pull")
@config_option
@data_option
@_name_option
@click.argument("version")
def models_pull(config: Path | None, data: Path | None, name: str, version: str) -> None:
    """Fetch the files of VERSION from MLflow."""
    directory = Registry(name, _settings(config, data).models).pull(version)
    click.echo(str(directory))


def _settings(config: Path | None, data: Path | None) -> Settings:
    return load_settings(config, overrides={"storage.data": data})
