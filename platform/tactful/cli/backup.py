"""``tactful backup`` and ``tactful restore``: copy an installation, and restore it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from tqdm import tqdm

from tactful.config.load import load_settings
from tactful.erasure.erase import complete_erasures
from tactful.maintenance.backup import make_backup
from tactful.maintenance.restore import check_backup, restore_backup
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms

F = TypeVar("F", bound=Callable[..., Any])


def _options(command: F) -> F:
    """Add the options of both commands."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--data", type=click.Path(path_type=Path), help="Data directory."),
        click.option("--config", type=click.Path(path_type=Path), help="Settings file."),
    ):
        command = option(command)
    return command


@click.command()
@_options
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only check the backup that is there.")
def backup(
    target: Path, config: Path | None, data: Path | None, as_json: bool, check: bool
) -> None:
    """Copy the installation to the new directory TARGET, with or without a running server.

    TARGET appears when it is complete, with the checksum of every file. It holds personal data:
    encrypt it, and delete it when its retention is over.
    """
    with _progress(target.name, quiet=as_json) as copied:
        if check:
            manifest = check_backup(target, copied=copied)
        else:
            settings = load_settings(config, overrides={"storage.data": data})
            manifest = make_backup(settings, target, clock=now_ms, copied=copied)
    if as_json:
        _print({**msgspec.to_builtins(manifest), "files": len(manifest.files), **_sum(manifest)})
        return
    click.echo(f"{target}: {len(manifest.files)} files, {manifest.size / 1e6:,.1f} MB, all intact")
    for line in manifest.elsewhere:
        click.echo(f"not in it: {line}", err=True)


@click.command()
@_options
@click.argument("source", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--replace", is_flag=True, help="Replace what is in the data directory.")
@click.option(
    "--tombstones",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
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
            with _progress(source.name, quiet=as_json) as copied:
                manifest, parts = restore_backup(
                    settings,
                    source,
                    clock=now_ms,
                    replace=replace,
                    without_tombstones=without_tombstones,
                    copied=copied,
                )
            told |= {"begun_at": manifest.begun_at, "log": manifest.log, "state": manifest.state}
            told |= {"files": len(manifest.files), **_sum(manifest), "parts": parts}
        with contextlib.closing(open_installation(settings)) as metadata:
            suppression = open_suppression(settings, metadata, clock=now_ms)
            erased = complete_erasures(Installation(settings, metadata, suppression, now_ms))
        told["erasures"] = len(erased)
    if as_json:
        _print(told)
        return
    click.echo(f"{settings.storage.data}: restored; {len(erased)} people were erased once more")
    if source is not None:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.begun_at / 1000))
        click.echo(f"what was acknowledged up to {at} UTC is there")
        click.echo(f"ledger: {parts.ledger}, metadata: {parts.metadata}, keyring: {parts.keyring}")


@contextlib.contextmanager
def _progress(name: str, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    hidden = quiet or not sys.stderr.isatty()
    with tqdm(unit="B", unit_scale=True, disable=hidden, desc=name) as bar:

        def copied(size: int) -> None:
            bar.update(size)

        yield copied


def _sum(manifest: Any) -> dict[str, int]:
    return {"bytes": manifest.size}


def _print(value: Any) -> None:
    click.echo(msgspec.json.encode(value).decode())
