"""Restore of a backup into a data directory, in which erased users stay erased.

Files are copied and checked under ``.restoring``. Then the journal with the files to move is
written; from there on, the restore is completed by the next process that holds the data directory,
after a kill, too. Until then the present files are untouched.

Some data must not be reset to the time of the backup: spent privacy budgets, erased users,
decisions on consent, revoked API keys and destroyed keys. If the directory still has them, it keeps
them:

==================  ==============================================================================
``ledger.db``       both merged: every release, request and grant of either
``metadata.db``     the present one, if it is later than the backup's; it holds decisions, erasures
                    and API keys; the backup's if there is none, or an empty one
``keyring.json``    likewise: keys that were destroyed since stay destroyed
``vault.db``        both merged, until erased users are removed; then without their keys
==================  ==============================================================================

Users erased since the backup are erased again before a server starts. If the data directory is
lost, only the backup's parts exist. Then users erased since are known only from the file of
tombstones, so a restore without one is refused; and grants of the ledger since are unknown, so
nothing is released of the days that they may concern.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import sqlalchemy as sa

from tactful.config.ledger_location import LEDGER
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.erasure.erase import RESTORED
from tactful.errors import BackupError, SignatureError, StorageError
from tactful.maintenance.backup import (
    Copied,
    Manifest,
    Trust,
    check_origin,
    copy_checked,
    copy_database,
    read_manifest,
    read_signed_manifest,
)
from tactful.maintenance.backup_paths import is_code, secret_files
from tactful.maintenance.backup_source import BackupSource, FolderSource, source_of
from tactful.maintenance.point_in_time import Cut, PointInTime, check_until, cut_log
from tactful.metadata.connections import METADATA
from tactful.metadata.directory_lock import foreign_file
from tactful.metadata.restore_journal import READY, RESTORING, STAGED, Ready, finish_restore
from tactful.metadata.store import open_metadata
from tactful.metadata.tables import api_keys, consent_decisions, erasures, suppressions
from tactful.metrics.history import FILE as METRICS
from tactful.statistics.counter import NOT_BEFORE
from tactful.subjects.suppression import open_suppression
from tactful.util.jobs import FOLDER as JOBS
from tactful.util.signing import SigningKey, check_directory, open_signing_key, sign_directory
from tactful_privacy.durable_files import replace_file, sync
from tactful_privacy.errors import KeyringError, PrivacyError
from tactful_privacy.ledger.merge import merge_ledger
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault_file import merge_vault
from tactful_streaming.engine.erasure import drop_consumer
from tactful_streaming.errors import StreamingError
from tactful_streaming.state.store import RocksState

_logger = logging.getLogger(__name__)

_DAY_MS = 86_400_000
_STAYS = ("lock", RESTORING, JOBS, METRICS)  # what is about the machine, not its data


def check_backup(backup: Path | BackupSource, *, copied: Copied = lambda size: None) -> Manifest:
    """Read every file of a backup and compare it with the manifest.

    One that is damaged or partial raises BackupError, which says what and where.
    """
    source = source_of(backup)
    manifest = read_manifest(source)
    for file in manifest.files:
        copy_checked(source, file, None, copied)
    return manifest


def restore_backup(
    settings: Settings,
    backup: Path | BackupSource,
    *,
    clock: Callable[[], int],  # epoch milliseconds
    replace: bool = False,  # whether present data may be replaced
    without_tombstones: bool = False,  # users erased since the backup are unknown: continue
    trust: Trust = Trust(),  # noqa: B008
    point: PointInTime | None = None,  # time at which the restored data end; None: the backup's
    copied: Copied = lambda size: None,
    say: Callable[[str], None] = lambda stage: None,  # called with each stage
) -> tuple[Manifest, Parts]:
    """Replace the content of a data directory, which this process holds, by a backup.

    Raises:
        BackupError: if the backup is damaged or partial, not signed by a trusted key, belongs to
            another installation, or users erased since are unknown. The data directory is
            unchanged.
    """
    if point is not None:
        check_until(settings)
    data, source = settings.storage.data, source_of(backup)
    finish_restore(data)
    manifest, signer = read_signed_manifest(source)
    key = open_signing_key(data)
    check_origin(source, signer, key.public, trust)
    secrets = secret_files(settings)
    _check_target(data, source, manifest, secrets, replace=replace)
    present = sorted(path.name for path in data.iterdir() if path.name not in _STAYS)
    restoring = data / RESTORING
    staged = restoring / STAGED
    try:
        shutil.rmtree(restoring, ignore_errors=True)
        staged.mkdir(mode=0o700, parents=True)
        say("copy")
        for file in manifest.files:
            # Compiled code of an earlier version: it is compiled again.
            code = is_code(PurePosixPath(file.path))
            copy_checked(source, file, None if code else staged / file.path, copied)
        say("keep")
        _sign_models(settings, staged, signer, key)
        for path in secrets:
            if path.exists():
                _copy_file(path, staged / path.relative_to(data))
        cut = None
        if point is not None:
            cut = cut_log(settings, staged, manifest, point.until, copied)
        if (staged / "state" / "CURRENT").exists():
            _stop_counting(staged / "state")
        parts = keep_what_never_goes_back(
            settings, staged, clock=clock, without_tombstones=without_tombstones
        )
        parts = dataclasses.replace(parts, cut=cut)
        if point is not None and point.only_show:
            shutil.rmtree(restoring)
            return manifest, parts
        made = {"backup": manifest.begun_at, "at": clock()}
        replace_file(staged / RESTORED, msgspec.json.encode(made))
        say("place")
        restored = sorted(path.name for path in staged.iterdir())
        for directory in (*(path for path in staged.rglob("*") if path.is_dir()), staged):
            sync(directory)
        replace_file(restoring / READY, msgspec.json.encode(Ready(present, restored)))
        sync(data)
    except BackupError:
        shutil.rmtree(restoring, ignore_errors=True)
        raise
    except (OSError, sqlite3.Error, StreamingError, PrivacyError) as error:
        shutil.rmtree(restoring, ignore_errors=True)
        raise BackupError(f"{source}: was not restored, nothing has changed: {error}") from error
    finish_restore(data)
    return manifest, parts


def _check_target(
    data: Path,
    source: BackupSource,
    manifest: Manifest,
    secrets: Collection[Path],
    *,
    replace: bool,
) -> None:
    if foreign := {data / file.path for file in manifest.files}.intersection(secrets):
        raise BackupError(f"{source}: it would replace the secret {min(foreign)}; use another one")
    if any((data / name).exists() for name in ("log", "state")) and not replace:
        raise BackupError(f"{data} has a log and a state already: --replace replaces them")
    if other := foreign_file(data):
        raise BackupError(f"{data} is no data directory, it has {other!r}: use an empty one")
    inside = isinstance(source, FolderSource) and source.folder.absolute()
    if inside and inside.is_relative_to(data.absolute()):
        raise BackupError(f"{source} lies in the data directory; move it out first")


def _sign_models(settings: Settings, staged: Path, signer: str | None, key: SigningKey) -> None:
    """Sign the models of another installation that it had signed; all if it signed nothing."""
    models = _place_of(settings.models, settings, staged)
    if models is None or signer == key.public:
        return
    for model in (models / "versions").glob("[!.]*"):
        try:
            if signer is not None:
                check_directory(model, {signer})
            sign_directory(model, key)
        except SignatureError as error:
            _logger.warning("%s; the server will refuse it", error)


def _stop_counting(state: Path) -> None:
    """Restart published statistics on a day of which nothing was released.

    Contributions between the backup and now are missing in the restored counters, but may be in
    releases: users could contribute twice to one day.
    """
    with contextlib.closing(RocksState(state, sync=True)) as store:
        for name in ("statistics", "statistics.changes"):
            drop_consumer(store, name)
        store.purge()


@dataclass(frozen=True)
class Parts:
    """Origins of the parts that are never reset."""

    ledger: str  # ``both``, ``backup``, ``elsewhere`` or ``none``
    metadata: str  # ``present``, ``backup`` or ``elsewhere``
    keyring: str  # ``present``, ``backup`` or ``elsewhere``
    erased_since: int  # known number of users erased after the backup
    cut: Cut | None = None  # where the log was cut, of a restore up to a time


def keep_what_never_goes_back(
    settings: Settings,
    staged: Path,
    *,
    clock: Callable[[], int],  # epoch milliseconds
    without_tombstones: bool = False,  # users erased since the backup are unknown: continue
) -> Parts:
    """Replace parts of a backup by newer ones of the data directory.

    Parts of two installations, or unknown users erased since, raise BackupError, and a part that
    cannot be used StorageError.
    """
    data = settings.storage.data
    keyring = _keyring(settings, staged)
    metadata = _metadata(settings, staged, same=keyring != "backup")
    stones = settings.consent.tombstones
    known = metadata in ("present", "elsewhere") or (stones != Path() and stones.exists())
    if not known and not without_tombstones:
        raise BackupError(
            f"the users erased since this backup are unknown: {data} has no metadata of it, and "
            f"{stones if stones != Path() else 'consent.tombstones'} "
            f"{'does not exist' if stones != Path() else 'names no file'}. Give the file of "
            "tombstones with --tombstones, or --without-tombstones if no user was erased"
        )
    ledger = _ledger(settings, staged)
    # A lost ledger may have released statistics of today, or of lost events.
    tomorrow = (clock() // _DAY_MS + 1) * _DAY_MS
    (staged / NOT_BEFORE).write_text(f"{tomorrow}\n")
    erased_since = _take_tombstones(settings, staged, clock)
    _vault(settings, staged)
    return Parts(ledger, metadata, keyring, erased_since)


def _ledger(settings: Settings, staged: Path) -> str:
    present, restored = settings.storage.data / LEDGER, staged / LEDGER
    if settings.statistics.ledger_url_env:
        if restored.exists():
            raise BackupError(
                f"the backup holds {LEDGER}, but statistics.ledger_url_env names another ledger,"
                " which would release the same statistics again. Restore it with the settings of"
                " the backup"
            )
        return "elsewhere"
    if not present.exists():
        return "backup" if restored.exists() else "none"
    # A copy of the present one, which stays untouched if anything fails.
    merged = staged / f".{LEDGER}"
    copy_database(present, merged)
    if restored.exists():
        merge_ledger(merged, restored)
        for path in (merged, restored):
            _into_one_file(path)
    merged.replace(restored)
    return "both"


def _metadata(settings: Settings, staged: Path, *, same: bool) -> str:
    """Choose the metadata; `same`: the present keyring is that of the backup."""
    if settings.metadata.url_env:
        return "elsewhere"
    present, restored = settings.storage.data / METADATA, staged / METADATA
    if not present.exists():
        return "backup"
    copy = staged / f".{METADATA}"
    copy_database(present, copy)
    if not restored.exists():
        copy.replace(restored)
        return "present"
    present_ids, restored_ids = _identity(copy), _identity(restored)
    if not any(present_ids.values()) and (any(restored_ids.values()) or not same):
        copy.unlink()
        return "backup"
    if not all(restored_ids[name] <= present_ids[name] for name in ("keys", "erased")):
        raise BackupError(
            f"{present} is neither empty nor later than the backup's: it lacks API keys or erased "
            "users of the backup. If it does not belong to this installation, move it away"
        )
    copy.replace(restored)
    return "present"


def _identity(path: Path) -> dict[str, set[object]]:
    """Read ids that identify the installation of a database and its age."""
    with contextlib.closing(open_metadata(path)) as metadata:

        def rows(*columns: sa.Column[Any]) -> set[object]:
            return {tuple(row) for row in metadata.fetch(sa.select(*columns))}

        ids = {
            "keys": rows(api_keys.c.id),
            "erased": rows(suppressions.c.key_id, suppressions.c.digest),
            "decisions": rows(consent_decisions.c.version),
            "erasures": rows(erasures.c.receipt),
        }
    _into_one_file(path)
    return ids


def _keyring(settings: Settings, staged: Path) -> str:
    present, restored = settings.keyring, _place_of(settings.keyring, settings, staged)
    if restored is None:
        return "elsewhere"
    if not present.exists():
        return "backup"
    if restored.exists():
        try:
            kept = set(Keyring(present, clock=lambda: 0).key_ids)
            if kept.isdisjoint(Keyring(restored, clock=lambda: 0).key_ids):
                return "backup"
        except KeyringError as error:
            raise StorageError(str(error)) from error
    _copy_file(present, restored)
    return "present"


def _take_tombstones(settings: Settings, staged: Path, clock: Callable[[], int]) -> int:
    """Add users erased since to the restored metadata and return their number."""
    if settings.metadata.url_env:
        return 0
    keyring = _place_of(settings.keyring, settings, staged) or settings.keyring
    moved = replace(
        settings,
        storage=StorageSettings(data=staged),
        consent=replace(settings.consent, keyring=keyring),
    )
    path = staged / METADATA
    with contextlib.closing(open_metadata(path)) as metadata:
        taken = open_suppression(moved, metadata, clock=clock).take_tombstones()
    _into_one_file(path)
    stones = settings.consent.tombstones
    restored = None if stones == Path() else _place_of(stones, settings, staged)
    if restored is not None and stones.exists():
        _copy_file(stones, restored)
    return taken


def _place_of(path: Path, settings: Settings, staged: Path) -> Path | None:
    """Return the restored path of a file; None if it lies outside the data directory."""
    path, data = path.absolute(), settings.storage.data.absolute()
    return staged / path.relative_to(data) if path.is_relative_to(data) else None


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _vault(settings: Settings, staged: Path) -> None:
    """Merge the present keys and the backup's, with which its records are erased.

    `tactful.erasure.erase.complete_erasures` then deletes the keys of erased users.
    """
    present, restored = settings.vault, _place_of(settings.vault, settings, staged)
    if restored is None or not present.exists():
        return
    kept = staged / ".vault.db"
    copy_database(present, kept)
    if restored.exists():
        merge_vault(kept, restored)
        _into_one_file(kept)
    restored.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept.replace(restored)


def _into_one_file(path: Path) -> None:
    """Merge the journal of a database into its file, which is about to be moved."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
