"""``tactful backup``, ``restore`` and ``expire``: copies of an installation."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
from tqdm import tqdm

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.config.settings import Settings
from tactful.erasure.erase import complete_erasures
from tactful.maintenance import expiry
from tactful.maintenance.backup import (
    Manifest,
    Trust,
    check_origin,
    make_backup,
    read_signed_manifest,
)
from tactful.maintenance.backup_source import BackupSource, FolderSource
from tactful.maintenance.point_in_time import PointInTime
from tactful.maintenance.restore import Parts, check_backup, restore_backup
from tactful.maintenance.stored_backup import (
    expire_stored_backups,
    open_stored_backup,
    store_backup,
)
from tactful.metadata.connections import open_installation
from tactful.metadata.directory_lock import exclusive
from tactful.models.mlflow_registry import audited_registry
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.clock import now_ms
from tactful.util.jobs import tracked
from tactful.util.signing import open_signing_key, read_public_key


@click.command(
    epilog=cli.example(
        "tactful backup /backups/monday",
        "tactful backup s3://bucket/tactful/monday",
        "tactful backup /backups/monday --check",
    )
)
@cli.with_settings
@cli.json_option
@click.argument("target", type=cli.place)
@click.option("--check", is_flag=True, help="Only check the backup that is there.")
@cli.verify_key_option
@cli.accept_unsigned_option
def backup(
    target: Path | str,
    settings: Settings,
    as_json: bool,
    check: bool,
    verify_key: Path | None,
    accept_unsigned: bool,
) -> None:
    """Copy the installation to TARGET, with or without a running server.

    TARGET is a new directory, or s3://BUCKET/PREFIX. It appears when it is complete, signed, with
    the checksum of every file. It holds personal data: encrypt it, and delete it when its retention
    is over.
    """
    if check:
        source = _source(target)
        data = settings.storage.data
        own = open_signing_key(data).public if data.is_dir() else ""
        trust = _trust(verify_key, accept_unsigned)
        signed, signer = read_signed_manifest(source)
        check_origin(source, signer, own, trust)
        with _bytes_bar(as_json, "check", signed.size) as bar:
            manifest = check_backup(source, copied=_counting(bar))
    else:
        with tracked(settings.storage.data, "backup"):
            manifest = _make(settings, target, quiet=as_json)
    if as_json:
        counts = {"files": len(manifest.files), "bytes": manifest.size}
        cli.print_json(msgspec.to_builtins(manifest) | counts)
        return
    click.echo(f"{target}: {len(manifest.files)} files, {manifest.size / 1e6:,.1f} MB, all intact")
    for line in manifest.elsewhere:
        click.echo(f"not in it: {line}", err=True)


def _make(settings: Settings, target: Path | str, *, quiet: bool) -> Manifest:
    """Make a backup in a directory, or in a place of objects with a bar for each stage."""
    with contextlib.ExitStack() as stack:
        copying = stack.enter_context(_bytes_bar(quiet, "copy"))
        if isinstance(target, Path):
            return make_backup(settings, target, clock=now_ms, copied=_counting(copying))

        def sending(size: int) -> Callable[[int], None]:
            return _counting(stack.enter_context(_bytes_bar(quiet, "send", size)))

        return store_backup(
            settings, target, clock=now_ms, copied=_counting(copying), sending=sending
        )


def _source(place: Path | str) -> BackupSource:
    return FolderSource(place) if isinstance(place, Path) else open_stored_backup(place)


def _bytes_bar(
    quiet: bool, stage: str, size: int | None = None
) -> contextlib.AbstractContextManager[tqdm[Any]]:
    return cli.progress_bar(quiet=quiet, total=size, unit="B", unit_scale=True, desc=stage)


@click.command(
    epilog=cli.example(
        "tactful restore /backups/monday --replace",
        "tactful restore /backups/monday --replace --until 2026-03-14T15:00:00Z --show",
    )
)
@cli.settings_with(tombstones="consent.tombstones")
@cli.json_option
@click.argument("source", required=False, type=cli.place)
@click.option("--replace", is_flag=True, help="Replace what is in the data directory.")
@click.option(
    "--tombstones",
    type=cli.existing_file,
    help="File with the ids of erased users, if the settings name none.",
)
@click.option(
    "--without-tombstones", is_flag=True, help="Confirm that nobody was erased since the backup."
)
@cli.verify_key_option
@cli.accept_unsigned_option
@click.option(
    "--until",
    type=cli.moment,
    metavar="TIME",
    help="Restore what was received before TIME, such as 2026-03-14T15:00:00Z.",
)
@click.option("--show", is_flag=True, help="With --until: only show what would be lost.")
@click.option("--finish", is_flag=True, help="Only finish an interrupted restore.")
def restore(
    settings: Settings,
    source: Path | str | None,
    as_json: bool,
    replace: bool,
    without_tombstones: bool,
    verify_key: Path | None,
    accept_unsigned: bool,
    until: int | None,
    show: bool,
    finish: bool,
) -> None:
    """Replace the data directory by the backup SOURCE; no server may be running.

    Users erased since the backup are erased from the restored data, before this command ends or, if
    it is interrupted, before a server answers. Spent privacy budgets stay spent. With --until the
    log goes on beyond the backup, if the data directory has it, and ends at that time.
    """
    if (source is None) != finish:
        raise click.UsageError("name the backup, or say --finish")
    if (until is None and show) or (until is not None and finish):
        raise click.UsageError("--show needs --until, which needs a backup")
    told: dict[str, Any] = {"data": str(settings.storage.data)}
    lines: list[str] = []
    with exclusive(settings.storage.data), tracked(settings.storage.data, "restore") as job:
        if source is not None:
            with _bytes_bar(as_json, "restore") as bar:
                manifest, parts = restore_backup(
                    settings,
                    _source(source),
                    clock=now_ms,
                    replace=replace or show,
                    without_tombstones=without_tombstones,
                    trust=_trust(verify_key, accept_unsigned),
                    point=None if until is None else PointInTime(until, only_show=show),
                    copied=_counting(bar),
                    say=lambda stage: job.advance(0, 0, stage),
                )
            told |= {"begun_at": manifest.begun_at, "log": manifest.log, "state": manifest.state}
            told |= {"files": len(manifest.files), "bytes": manifest.size, "parts": parts}
            lines = list(_result(manifest, parts))
        if not show:
            with contextlib.closing(open_installation(settings)) as metadata:
                suppression = open_suppression(settings, metadata, clock=now_ms)
                erased = complete_erasures(Installation(settings, metadata, suppression, now_ms))
            told["erasures"] = len(erased)
            again = f"restored; {len(erased)} people were erased once more"
            lines.insert(0, f"{settings.storage.data}: {again}")
    if as_json:
        cli.print_json(told)
        return
    for line in lines:
        click.echo(line)


def _result(manifest: Manifest, parts: Parts) -> Iterator[str]:
    """Say up to when an installation is restored, and what is lost."""
    cut = parts.cut
    if cut is None:
        yield f"what was acknowledged up to {_utc(manifest.begun_at)} is there"
    else:
        log = "the log continues that of the backup" if cut.continued else "only the backup's log"
        yield f"restored up to {_utc(cut.until)} ({log}); records lost: {cut.records}"
        if cut.first_at is not None and cut.last_at is not None:
            kinds = ", ".join(f"{count} {kind}" for kind, count in cut.kinds.items())
            yield f"lost: received {_utc(cut.first_at)} to {_utc(cut.last_at)}: {kinds}"
        if cut.state == "computed":
            yield "features: computed from the log at the next start"
        yield "releases, decisions of users and erasures after that time stay"
    yield f"ledger: {parts.ledger}, metadata: {parts.metadata}, keyring: {parts.keyring}"


def _utc(time_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms / 1000))


@click.command(epilog=cli.example("tactful expire --backups /backups --models --dry-run"))
@cli.with_settings
@click.option("--backups", type=cli.place, help="Directory or s3://BUCKET/PREFIX with backups.")
@click.option("--exports", type=cli.existing_directory, help="Directory that holds users' exports.")
@click.option("--models", is_flag=True, help="Remove unused model versions from MLflow.")
@click.option(
    "--older-than", type=float, metavar="DAYS", help="Maximum age in days, instead of the settings."
)
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@cli.json_option
def expire(
    settings: Settings,
    backups: Path | str | None,
    exports: Path | None,
    models: bool,
    older_than: float | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove backups, exports and models that are older than [retention] allows.

    Exit code 6 if something too old stays, such as a model in service or an unreadable backup.
    """
    if older_than is not None and not 0 < older_than < float("inf"):
        raise click.UsageError("--older-than is a number of days above 0")
    if backups is None and exports is None and not models:
        raise click.UsageError("give --backups, --exports or --models")
    before = now_ms() - expiry.kept_for(settings, older_than)
    found: list[expiry.Expired] = []
    if isinstance(backups, str):
        found += expire_stored_backups(backups, before, dry_run=dry_run)
    elif backups is not None:
        if not backups.is_dir():
            raise click.UsageError(f"--backups {backups} is no directory")
        found += expiry.expire_backups(backups, before, dry_run=dry_run)
    if exports is not None:
        found += expiry.expire_exports(exports, before, dry_run=dry_run)
    if models:
        with audited_registry(settings, settings.training.name) as registry:
            found += expiry.expire_models(registry.ages(), before, registry.forget, dry_run=dry_run)
    if as_json:
        cli.print_json(found)
    else:
        for one in found:
            made = time.strftime("%Y-%m-%d", time.gmtime(one.made_at / 1000)) if one.made_at else ""
            does = "removed" if one.removed else one.note or "would be removed"
            click.echo(f"{one.kind} {one.what} {made}: {does}")
        click.echo(f"{sum(one.removed for one in found)} removed", err=True)
    if any(one.note for one in found):
        raise SystemExit(ExitCode.PARTLY_DONE)


def _trust(verify_key: Path | None, accept_unsigned: bool) -> Trust:
    key = None if verify_key is None else read_public_key(verify_key)
    return Trust(key, accept_unsigned)


def _counting(bar: tqdm[Any]) -> Callable[[int], None]:
    def count(size: int) -> None:
        bar.update(size)

    return count
