"""Encryption of log records with a key for each user, which an erasure deletes.

Without the key no copy can be decrypted: neither a topic, which cannot be rewritten, nor an earlier
backup. It complements deletion and does not replace it; see ``docs/decisions``.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from tactful.config.settings import Settings, secret
from tactful.errors import ConfigError, StorageError
from tactful.metadata.file_identity import check_identity, mark_identity, mark_of
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.errors import KeyringError, SealError, VaultError
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault import Vault
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, EntryFormat, Tick, encode_entry
from tactful_streaming.errors import LogCorruptedError, LogError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import SealedLog
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)

VAULT_LOSS = "the sealed records of the log cannot be read without its keys"
"""Consequence of the loss of the vault."""

_SEALED = b"\x01"
_REFERENCE = slice(1, 17)
_CONTEXT = b"log"
_KEY_BYTES = 32


class _Names(msgspec.Struct):
    """Fields of an entry that identify the user."""

    user_id: str | None = None
    device_id: str | None = None
    target: str | None = None
    event: _Names | None = None


_from_json = msgspec.json.Decoder(_Names).decode
_from_msgpack = msgspec.msgpack.Decoder(_Names).decode


class RecordSeal:
    """A :class:`tactful_streaming.Seal` whose keys are in a vault."""

    def __init__(self, vault: Vault, *, format: EntryFormat, writes: bool) -> None:
        """Use the keys of `vault`, which is closed with this object; seal only if it `writes`."""
        self._vault = vault
        self._writes = writes
        self._blank = encode_entry(Tick(timestamp=0), format)
        self._warned = False

    def seal(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Seal entries for the log; entries without a user stay unsealed."""
        sealed = list(payloads)
        if not self._writes:
            return sealed
        people = [person_of(payload) for payload in payloads]
        places = [place for place, person in enumerate(people) if person is not None]
        try:
            records = self._vault.seal_many(
                [person for person in people if person is not None],
                [payloads[place] for place in places],
                context=_CONTEXT,
            )
        except (VaultError, KeyringError) as error:
            raise LogError(f"records cannot be sealed: {error}") from error
        for place, record in zip(places, records, strict=True):
            sealed[place] = record
        return sealed

    def open(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Open entries; one whose key is deleted becomes a tick at time 0."""
        opened = list(payloads)
        places = [n for n, payload in enumerate(payloads) if payload[:1] == _SEALED]
        if not places:
            return opened
        try:
            contents = self._vault.open_many([payloads[n] for n in places], context=_CONTEXT)
        except SealError as error:
            raise LogCorruptedError(f"a sealed record of the log is damaged: {error}") from error
        except VaultError as error:
            raise LogError(f"sealed records cannot be opened: {error}") from error
        if None in contents and not self._warned:
            self._warned = True
            logger.warning(
                "keys of sealed records are missing: the users were erased, or the records were "
                "sealed with another vault"
            )
        for place, content in zip(places, contents, strict=True):
            opened[place] = self._blank if content is None else content
        return opened

    def references(self, people: Collection[str]) -> frozenset[bytes]:
        """Return bytes that sealed records of these users hold."""
        with _explained():
            references = (self._vault.reference(person) for person in people)
            return frozenset(reference for reference in references if reference is not None)

    def erase(self, people: Collection[str]) -> int:
        """Delete the keys of users and return their number."""
        with _explained():
            return sum(self._vault.erase(person) for person in people)

    def close(self) -> None:
        """Close the vault."""
        self._vault.close()


def person_of(payload: bytes) -> str | None:
    """Return the key of an entry's user; None without a user or for a damaged entry."""
    try:
        names = (_from_json if payload[:1] == b"{" else _from_msgpack)(payload)
    except (ValueError, *DECODE_ERRORS):
        return None
    if names.target is not None:
        return names.target
    if names.event is not None:
        names = names.event
    if names.user_id is not None:
        return names.user_id
    return None if names.device_id is None else DEVICE_PREFIX + names.device_id


def is_sealed(settings: Settings) -> bool:
    """Return whether records are sealed from now on, or any ever was."""
    vault = settings.vault
    return (
        settings.privacy.sealed_log
        or vault.exists()
        or mark_of(settings.storage.data, vault).exists()
    )


def open_seal(settings: Settings, *, clock: Callable[[], int]) -> RecordSeal | None:
    """Open the seal of an installation's log records.

    Raises:
        ConfigError: if the master key is missing or invalid.
        StorageError: if the vault or the keyring cannot be used, the master key differs, or the
            vault was emptied or replaced.
    """
    if not is_sealed(settings):
        return None
    master = master_key(settings)
    check_identity(settings.storage.data, settings.vault, VAULT_LOSS)
    with _explained():
        vault = Vault(settings.vault, master, Keyring(settings.keyring, clock=clock))
        try:
            vault.check()
            mark_identity(settings.storage.data, settings.vault)
        except (VaultError, StorageError):
            vault.close()
            raise
    format: EntryFormat = "msgpack" if settings.log.in_files else "json"
    return RecordSeal(vault, format=format, writes=settings.privacy.sealed_log)


@contextlib.contextmanager
def log_in_files(settings: Settings, *, clock: Callable[[], int]) -> Iterator[EventLog]:
    """Open the log of the data directory beside its server, with unsealed records."""
    with contextlib.ExitStack() as stack:
        log = EmbeddedLog(settings.storage.data / "log", read_only=True)
        stack.callback(log.close)
        seal = open_seal(settings, clock=clock)
        if seal is None:
            yield log
        else:
            stack.callback(seal.close)
            yield SealedLog(log, seal)


def master_key(settings: Settings) -> bytes:
    """Read the master key, which wraps the keys of users, or raise ConfigError."""
    privacy = settings.privacy
    text = secret("privacy.master_key_env", privacy.master_key_env)
    if text is None:
        text = secret("privacy.master_key_file", "", privacy.master_key_file)
    if text is None:
        raise ConfigError(
            "privacy.master_key_env or privacy.master_key_file is missing: records of the log are "
            "sealed, so name the master key, which wraps the keys of users"
        )
    return read_master_key(text, "privacy.master_key_env, privacy.master_key_file")


def read_master_key(text: str, where: str) -> bytes:
    """Parse a master key, 32 bytes in hexadecimal or Base64, or raise ConfigError."""
    try:
        key = bytes.fromhex(text) if len(text) == 2 * _KEY_BYTES else base64.b64decode(text)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigError(
            f"the master key ({where}) is not {_KEY_BYTES} bytes in hexadecimal or Base64: make "
            "one with `openssl rand -hex 32`"
        )
    return key


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (VaultError, KeyringError) as error:
        raise StorageError(str(error)) from error
