"""Rotation of keys: master key of the vault, epoch of pseudonyms.

A new master key is in a file of its own until the vault is wrapped by it. Then it replaces the old
key in the file of the settings, for the next start. After a kill at any step the vault's key is
still readable, and the same command resumes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from tactful.config.settings import Settings, secret
from tactful.errors import ConfigError, StorageError
from tactful.event_log.encryption import VAULT_LOSS, master_key, read_master_key
from tactful.metadata.file_identity import check_identity
from tactful_privacy.durable_files import replace_file, sync
from tactful_privacy.errors import KeyringError, VaultError
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault_file import rewrap_vault


class MasterKeyChanged(msgspec.Struct, kw_only=True, frozen=True):
    """Result of a change of the master key."""

    wrapped: int  # number of data keys that this run wrapped anew
    destroyed: bool  # whether the old master key was overwritten; otherwise the operator does that
    todo: str  # remaining steps of the operator; empty if there are none


def change_master_key(
    settings: Settings,
    new: Path,  # file with the new key; removed when the settings' file has it
    *,
    advanced: Callable[[int], object] = lambda count: None,
) -> MasterKeyChanged:
    """Wrap the vault by the master key in the file `new`, and destroy the old one.

    The caller holds the data directory: no server may use the old key meanwhile. `advanced` is
    called with the number of keys wrapped since its last call.

    Raises:
        ConfigError: if one of the keys is missing or invalid.
        StorageError: if vault or files cannot be used, or the vault has a third master key.
    """
    current = settings.privacy.master_key_file
    in_file = current != Path() and not settings.privacy.master_key_env
    if in_file and new.exists() and current.exists() and new.samefile(current):
        raise ConfigError(f"{new} holds the present master key: write the new one to another file")
    after = read_master_key(secret("--master-key-file", "", new) or "", str(new))
    before = master_key(settings)
    check_identity(settings.storage.data, settings.vault, VAULT_LOSS)
    try:
        wrapped = rewrap_vault(settings.vault, before, after, advanced=advanced)
    except VaultError as error:
        raise StorageError(str(error)) from error
    if not in_file:
        name = settings.privacy.master_key_env
        todo = f"set {name} to the new key before the start, and destroy the old one"
        return MasterKeyChanged(wrapped=wrapped, destroyed=False, todo=todo)
    try:
        if before != after:
            _replace(current, new.read_bytes())
        new.unlink()
        sync(new.parent)
    except OSError as error:
        raise StorageError(
            f"{current}: the vault has the new key but this file has not, or {new} is left: "
            f"{error}; run the same command again"
        ) from error
    return MasterKeyChanged(wrapped=wrapped, destroyed=True, todo="")


def begin_epoch(settings: Settings, *, clock: Callable[[], int]) -> int:
    """Begin an epoch of pseudonyms and return the number of its key.

    The keys of earlier epochs stay: without them, erased users and users with a key in the vault
    would not be recognised. Running servers read the changed file. A keyring that cannot be used
    raises StorageError.
    """
    try:
        return Keyring(settings.keyring, clock=clock).rotate()
    except KeyringError as error:
        raise StorageError(str(error)) from error


def _replace(path: Path, content: bytes) -> None:
    """Replace the content of a file, and overwrite the old content on disk."""
    with path.open("r+b") as old:
        replace_file(path, content, private=True)
        os.pwrite(old.fileno(), bytes(os.fstat(old.fileno()).st_size), 0)
        os.fsync(old.fileno())
