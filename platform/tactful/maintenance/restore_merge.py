"""What a restore must not take back: spent budgets, erasures, decisions, keys that are gone.

==================  ==============================================================================
``ledger.db``       both copies together: all that either says was released, asked and granted
``metadata.db``     the one in place, if it is later than the backup's; it holds decisions, erasures
                    and API keys; the backup's where there is none, or an empty one
``keyring.json``    likewise: keys that were destroyed since stay destroyed
``vault.db``        both together, until the erased are gone from what came; then without their keys
==================  ==============================================================================

Where the data directory is lost, the backup's are all there is. Then only the file of tombstones
says who was erased since, so without one a restore is refused; and of the ledger nobody knows what
it granted since, so nothing is released of a day on which that may have been.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tactful.config.ledger_location import LEDGER
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import BackupError, StorageError
from tactful.metadata.store import (
    api_keys,
    consent_decisions,
    erasures,
    open_metadata,
    suppressions,
)
from tactful.statistics.counter import NOT_BEFORE
from tactful.subjects.suppression import open_suppression
from tactful_privacy.errors import KeyringError
from tactful_privacy.ledger.merge import merge_ledger
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault_merge import merge_vault

METADATA = "metadata.db"
VAULT = "vault.db"

_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Parts:
    """Where the parts that never go back came from.

    Attributes:
        ledger: ``both``, ``backup``, ``elsewhere`` or ``none``.
        metadata: ``present``, ``backup`` or ``elsewhere``.
        keyring: ``present``, ``backup`` or ``elsewhere``.
        erased_since: people whose erasure the backup did not know of, as far as that is known.
    """

    ledger: str
    metadata: str
    keyring: str
    erased_since: int


def keep_what_never_goes_back(
    settings: Settings,
    staged: Path,
    *,
    clock: Callable[[], int],
    without_tombstones: bool = False,
) -> Parts:
    """Replace, in what was gathered from a backup, what is known better in the data directory.

    Args:
        settings: of the installation, whose data directory this process holds.
        staged: the files of the backup.
        clock: now in epoch milliseconds.
        without_tombstones: go on although nothing says who was erased since the backup.

    Raises:
        BackupError: if present and restored parts are not of one installation, or it cannot be
            known who was erased.
        StorageError: if one of them cannot be used.
    """
    data = settings.storage.data
    keyring = _keyring(settings, staged)
    metadata = _metadata(settings, staged, same=keyring != "backup")
    stones = settings.consent.tombstones
    known = metadata in ("present", "elsewhere") or (stones != Path() and stones.exists())
    if not known and not without_tombstones:
        raise BackupError(
            f"nothing says who was erased since this backup: {data} has no metadata of it, and "
            f"{stones if stones != Path() else 'consent.tombstones'} "
            f"{'is not there' if stones != Path() else 'names no file'}. Give the file of "
            "tombstones with --tombstones, or say --without-tombstones if nobody was"
        )
    ledger = _ledger(settings, staged)
    # Released of today it may have been by a ledger that is lost, or of events that are.
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
                f"the backup holds {LEDGER}, and statistics.ledger_url_env names another ledger:"
                " what one has released the other would draw a second time. Restore it with the"
                " settings that it was made with"
            )
        return "elsewhere"
    if not present.exists():
        return "backup" if restored.exists() else "none"
    # A copy of the one in place, so that this is untouched if anything fails.
    merged = staged / f".{LEDGER}"
    _copy_database(present, merged)
    if restored.exists():
        merge_ledger(merged, restored)
        for path in (merged, restored):
            _into_one_file(path)
    merged.replace(restored)
    return "both"


def _metadata(settings: Settings, staged: Path, *, same: bool) -> str:
    """Decide which metadata go on; `same` says that the keyring in place is of the backup's."""
    if settings.metadata.url_env:
        return "elsewhere"
    present, restored = settings.storage.data / METADATA, staged / METADATA
    if not present.exists():
        return "backup"
    copy = staged / f".{METADATA}"
    _copy_database(present, copy)
    if not restored.exists():
        copy.replace(restored)
        return "present"
    mine, theirs = _identity(copy), _identity(restored)
    if not any(mine.values()) and (any(theirs.values()) or not same):
        copy.unlink()
        return "backup"
    if not all(theirs[name] <= mine[name] for name in ("keys", "erased")):
        raise BackupError(
            f"{present} is neither empty nor later than the backup's: it lacks API keys or erased "
            "people that the backup knows. If it does not belong to this installation, move it away"
        )
    copy.replace(restored)
    return "present"


def _identity(path: Path) -> dict[str, set[object]]:
    """Of whose installation a database is, and how far it has come."""
    with contextlib.closing(open_metadata(path)) as metadata:

        def rows(*columns: sa.Column[Any]) -> set[object]:
            return {tuple(row) for row in metadata.fetch(sa.select(*columns))}

        found = {
            "keys": rows(api_keys.c.id),
            "erased": rows(suppressions.c.key_id, suppressions.c.digest),
            "decisions": rows(consent_decisions.c.version),
            "erasures": rows(erasures.c.receipt),
        }
    _into_one_file(path)
    return found


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
    """Let the restored metadata know of all who were erased since; how many there were."""
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
    """Where a file of the data directory is among the restored ones; None if it lies elsewhere."""
    path, data = path.absolute(), settings.storage.data.absolute()
    return staged / path.relative_to(data) if path.is_relative_to(data) else None


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o600)


def _vault(settings: Settings, staged: Path) -> None:
    """Keep the keys in place, and add the backup's, by which what came can be read and erased.

    Those of the erased are dropped when that is done, see `tactful.erasure.erase.complete_erasures`.
    """
    present, restored = settings.vault, _place_of(settings.vault, settings, staged)
    if restored is None or not present.exists():
        return
    kept = staged / f".{VAULT}"
    _copy_database(present, kept)
    if restored.exists():
        merge_vault(kept, restored)
        _into_one_file(kept)
    restored.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    kept.replace(restored)


def _copy_database(source: Path, target: Path) -> None:
    from tactful.maintenance.backup import copy_database

    copy_database(source, target)


def _into_one_file(path: Path) -> None:
    """Fold what lies beside a database into its file, which is about to be moved."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
