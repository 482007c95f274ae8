"""``tactful expire``: remove backups, exports and models after their retention."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.maintenance.expiry import (
    Expired,
    expire_backups,
    expire_exports,
    expire_models,
    kept_for,
)
from tactful.models.mlflow_registry import audited_registry
from tactful.util.clock import now_ms


@click.command()
@cli.with_settings
@click.option("--backups", type=cli.existing_directory, help="Directory that holds backups.")
@click.option(
    "--exports", type=cli.existing_directory, help="Directory that contains exports of users."
)
@click.option("--models", is_flag=True, help="Remove unused model versions from MLflow.")
@click.option(
    "--older-than", type=float, metavar="DAYS", help="Maximum age in days, instead of the settings."
)
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@cli.json_option
def expire(
    settings: Settings,
    backups: Path | None,
    exports: Path | None,
    models: bool,
    older_than: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove backups, exports and models that are older than [retention] allows.

    Exit code 1 if something too old stays, such as a model in service or an unreadable backup.
    """
    if older_than is not None and not 0 < older_than < float("inf"):
        raise click.UsageError("--older-than is a number of days above 0")
    if backups is None and exports is None and not models:
        raise click.UsageError("give --backups, --exports or --models")
    before = now_ms() - kept_for(settings, older_than)
    found: list[Expired] = []
    if backups is not None:
        found += expire_backups(backups, before, dry_run=dry_run)
    if exports is not None:
        found += expire_exports(exports, before, dry_run=dry_run)
    if models:
        with audited_registry(settings, settings.training.name) as registry:
            found += expire_models(registry.ages(), before, registry.forget, dry_run=dry_run)
    if as_json:
        cli.print_json(found)
    else:
        for one in found:
            made = time.strftime("%Y-%m-%d", time.gmtime(one.made_at / 1000)) if one.made_at else ""
            does = "removed" if one.removed else one.note or "would be removed"
            click.echo(f"{one.kind} {one.what} {made}: {does}")
        click.echo(f"{sum(one.removed for one in found)} removed", err=True)
    if any(one.note for one in found):
        raise SystemExit(1)
