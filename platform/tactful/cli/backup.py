"""``tactful backup`` and ``tactful restore``: copy an installation, and restore it."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.erasure.erase import complete_erasures
from tactful.maintenance.backup import make_backup
from tactful.maintenance.restore import check_backup, restore_backup
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms


@click.command()
@cli.with_settings
@cli.json_option
@click.argument("target", type=cli.any_path)
@click.option("--check", is_flag=True, help="Only check the backup that is there.")
def backup(target: Path, settings: Settings, as_json: bool, check: bool) -> None:
    """Copy the installation to the new directory TARGET, with or without a running server.

    TARGET appears when it is complete, with the checksum of every file. It holds personal data:
    encrypt it, and delete it when its retention is over.
    """
    with cli.progress_bar(quiet=as_json, unit="B", unit_scale=True, desc=target.name) as bar:
        if check:
            manifest = check_backup(target, copied=bar.update)
        else:
            manifest = make_backup(settings, target, clock=now_ms, copied=bar.update)
    if as_json:
        counts = {"files": len(manifest.files), "bytes": manifest.size}
        cli.print_json(msgspec.to_builtins(manifest) | counts)
        return
    click.echo(f"{target}: {len(manifest.files)} files, {manifest.size / 1e6:,.1f} MB, all intact")
    for line in manifest.elsewhere:
        click.echo(f"not in it: {line}", err=True)


@click.command()
@cli.with_options(cli.config_option, cli.data_option, cli.json_option)
@click.argument("source", required=False, type=cli.any_directory)
@click.option("--replace", is_flag=True, help="Replace what is in the data directory.")
@click.option(
    "--tombstones",
    type=cli.existing_file,
    help="File with the ids of erased users, if the settings name none.",
)
@click.option(
    "--without-tombstones", is_flag=True, help="Confirm that nobody was erased since the backup."
)
@click.option("--finish", is_flag=True, help="Only finish an interrupted restore.")
def restore(
    source: Path | None,
    config: Path | None,
    data: Path | None,
    as_json: bool,
    replace: bool,
    tombstones: Path | None,
    without_tombstones: bool,
    finish: bool,
) -> None:
    """Replace the data directory by the backup SOURCE; no server may be running.

    Users erased since the backup are erased from the restored data, before this command ends or, if
    it is interrupted, before a server answers. Spent privacy budgets stay spent.
    """
    if (source is None) != finish:
        raise click.UsageError("name the backup, or say --finish")
    settings = load_settings(
        config, overrides={"storage.data": data, "consent.tombstones": tombstones}
    )
    told: dict[str, Any] = {"data": str(settings.storage.data)}
    with exclusive(settings.storage.data):
        if source is not None:
            with cli.progress_bar(
                quiet=as_json, unit="B", unit_scale=True, desc=source.name
            ) as bar:
                manifest, parts = restore_backup(
                    settings,
                    source,
                    clock=now_ms,
                    replace=replace,
                    without_tombstones=without_tombstones,
                    copied=bar.update,
                )
            told |= {"begun_at": manifest.begun_at, "log": manifest.log, "state": manifest.state}
            told |= {"files": len(manifest.files), "bytes": manifest.size, "parts": parts}
        with contextlib.closing(open_installation(settings)) as metadata:
            suppression = open_suppression(settings, metadata, clock=now_ms)
            erased = complete_erasures(Installation(settings, metadata, suppression, now_ms))
        told["erasures"] = len(erased)
    if as_json:
        cli.print_json(told)
        return
    click.echo(f"{settings.storage.data}: restored; {len(erased)} people were erased once more")
    if source is not None:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.begun_at / 1000))
        click.echo(f"what was acknowledged up to {at} UTC is there")
        click.echo(f"ledger: {parts.ledger}, metadata: {parts.metadata}, keyring: {parts.keyring}")
