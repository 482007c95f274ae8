"""``tactful models``: list, promote, roll back, fetch and sign model versions."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.models.audit_log import open_model_log
from tactful.models.mlflow_registry import Registry, audited_registry
from tactful.util.signing import read_public_key

_name_option = click.option("--name", default="ranker", help="Model name.")


@click.group()
def models() -> None:
    """List, promote, roll back, fetch and sign model versions."""


@models.command("list", epilog=cli.example("tactful models list"))
@cli.with_settings
@_name_option
@cli.json_option
def models_list(settings: Settings, name: str, as_json: bool) -> None:
    """List the versions, newest first."""
    found = Registry(name, settings.models).versions()
    if as_json:
        cli.print_json(found)
        return
    if not found:
        click.echo(f"There is no version of {name}: `tactful train` makes one.", err=True)
    for version in found:
        click.echo(f"{version['version']:>4}  {version['run_id']}  {version['aliases']}")


@models.command(
    "promote", epilog=cli.example("tactful models promote 2 --reason 'better at carts'")
)
@cli.with_settings
@_name_option
@cli.reason_option
@cli.by_option
@click.argument("version")
@cli.json_option
def models_promote(
    settings: Settings, name: str, reason: str, by: str | None, version: str, as_json: bool
) -> None:
    """Make VERSION the champion; a running server loads it within seconds."""
    with audited_registry(settings, name, by=by) as registry:
        registry.promote(version, reason=reason)
    if as_json:
        cli.print_json({"name": name, "version": version, "alias": "champion"})
    else:
        click.echo(f"{name} {version} is the champion.", err=True)


@models.command("rollback", epilog=cli.example("tactful models rollback --reason 'fewer clicks'"))
@cli.with_settings
@_name_option
@click.option("--reason", required=True, help="Reason, for the audit log.")
@cli.by_option
@cli.json_option
def models_rollback(
    settings: Settings, name: str, reason: str, by: str | None, as_json: bool
) -> None:
    """Make the previous champion the champion again."""
    with audited_registry(settings, name, by=by) as registry:
        version = registry.rollback(reason=reason)
    if as_json:
        cli.print_json({"name": name, "version": version, "alias": "champion"})
    else:
        click.echo(f"{name} {version} is the champion again.", err=True)


@models.command("log", epilog=cli.example("tactful models log --limit 10"))
@cli.with_settings
@click.option("--limit", type=click.IntRange(min=1), default=50)
@cli.json_option
def models_log(settings: Settings, limit: int, as_json: bool) -> None:
    """List trainings, promotions and rollbacks with author and reason, newest first."""
    with open_model_log(settings) as log:
        changes = log.changes(limit=limit)
    if as_json:
        cli.print_json(changes)
        return
    if not changes:
        click.echo("Nothing was trained or promoted yet.", err=True)
    for change in changes:
        at = dt.datetime.fromtimestamp(change.begun_at / 1000, dt.UTC)
        state = "" if change.state == "done" else f" ({change.state})"
        click.echo(
            f"{at:%Y-%m-%d %H:%M:%S}Z  {change.action:<8}  {change.name} {change.version or '-'}"
            f"{state}  {change.changed_by}  {change.reason}".rstrip()
        )


@models.command("quality", epilog=cli.example("tactful models quality"))
@cli.with_settings
@cli.json_option
def models_quality(settings: Settings, as_json: bool) -> None:
    """Measure the quality of logged recommendations by day; a server does it every hour."""
    from tactful.models.measure_quality import measure_quality

    quality = measure_quality(settings)
    if as_json:
        cli.print_json(quality)
        return
    if not quality.days:
        click.echo("There is no recommendation whose outcome time is over.", err=True)
    for day in quality.days:
        figures = " ".join(
            f"{name} {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
            for name, figure in (("hr20", day.hr20), ("ndcg20", day.ndcg20))
            if figure is not None
        )
        click.echo(f"{day.day}  {day.recommendations:>8,} recommendations  {figures}".rstrip())


@models.command("pull", epilog=cli.example("tactful models pull 2"))
@cli.with_settings
@_name_option
@cli.verify_key_option
@cli.accept_unsigned_option
@click.argument("version")
@cli.json_option
def models_pull(
    settings: Settings,
    name: str,
    verify_key: Path | None,
    accept_unsigned: bool,
    version: str,
    as_json: bool,
) -> None:
    """Fetch the files of VERSION from MLflow, check their signature and sign them here."""
    trusted = [] if verify_key is None else [read_public_key(verify_key)]
    with audited_registry(settings, name) as registry:
        directory = registry.pull(version, trusted=trusted, accept_unsigned=accept_unsigned)
    if as_json:
        cli.print_json({"name": name, "version": version, "directory": str(directory)})
    else:
        click.echo(str(directory))


@models.command("sign", epilog=cli.example("tactful models sign 2"))
@cli.with_settings
@_name_option
@click.argument("version")
@cli.json_option
def models_sign(settings: Settings, name: str, version: str, as_json: bool) -> None:
    """Sign the files of VERSION, which you know to be genuine, for this installation."""
    with audited_registry(settings, name) as registry:
        registry.sign(version)
    if as_json:
        cli.print_json({"name": name, "version": version, "signed": True})
    else:
        click.echo(f"{name} {version} is signed.", err=True)
