"""Seals what the log holds of a person under a key of theirs, which an erasure deletes.

Then nothing opens it any more: not in a topic that nobody can rewrite, nor in a copy that was made
before. It is a measure beside deletion, not in its place; see ``docs/decisions``.
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
from tactful_privacy.errors import KeyringError, SealError, VaultError
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.people.vault import Vault
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, EntryFormat, Tick, encode_entry
from tactful_streaming.errors import LogCorruptedError, LogError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.encrypted_log import SealedLog
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)

_SEALED = b"\x01"
_REFERENCE = slice(1, 17)
_CONTEXT = b"log"
_KEY_BYTES = 32


class _Names(msgspec.Struct):
    """What of an entry says whose it is."""

    user_id: str | None = None
    device_id: str | None = None
    target: str | None = None
    event: _Names | None = None


_from_json = msgspec.json.Decoder(_Names).decode
_from_msgpack = msgspec.msgpack.Decoder(_Names).decode


class RecordSeal:
    """A :class:`tactful_streaming.Seal` whose keys are in a vault."""

    def __init__(self, vault: Vault, *, format: EntryFormat, writes: bool) -> None:
        """Use the keys of `vault`, which is closed with this object.

        Args:
            vault: holds the key of each person.
            format: how entries are written.
            writes: whether to seal; otherwise records are only opened.
        """
        self._vault = vault
        self._writes = writes
        self._blank = encode_entry(Tick(timestamp=0), format)
        self._told = False

    def seal(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Each entry as it is to lie in the log; those of nobody stay as they are.

        Raises:
            LogError: if the vault cannot be used.
        """
        sealed = list(payloads)
        if not self._writes:
            return sealed
        people = [person_of(payload) for payload in payloads]
        places = [place for place, person in enumerate(people) if person is not None]
        try:
            found = self._vault.seal_many(
                [person for person in people if person is not None],
                [payloads[place] for place in places],
                context=_CONTEXT,
            )
        except (VaultError, KeyringError) as error:
            raise LogError(f"records cannot be sealed: {error}") from error
        for place, record in zip(places, found, strict=True):
            sealed[place] = record
        return sealed

    def open(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Each entry as it was; one whose key is gone is a tick that moves no clock.

        Raises:
            LogError: if the vault cannot be used.
            LogCorruptedError: if a record was changed.
        """
        opened = list(payloads)
        places = [n for n, payload in enumerate(payloads) if payload[:1] == _SEALED]
        if not places:
            return opened
        try:
            found = self._vault.open_many([payloads[n] for n in places], context=_CONTEXT)
        except SealError as error:
            raise LogCorruptedError(f"a sealed record of the log is damaged: {error}") from error
        except VaultError as error:
            raise LogError(f"sealed records cannot be opened: {error}") from error
        if None in found and not self._told:
            self._told = True
            logger.warning(
                "there are sealed records whose keys are gone: of people who were erased, unless "
                "the vault is another one than they were sealed with"
            )
        for place, content in zip(places, found, strict=True):
            opened[place] = self._blank if content is None else content
        return opened

    def references(self, people: Collection[str]) -> frozenset[bytes]:
        """What records of these people, sealed as they are, have in them.

        Raises:
            StorageError: if the vault cannot be used.
        """
        with _explained():
            found = (self._vault.reference(person) for person in people)
            return frozenset(reference for reference in found if reference is not None)

    def erase(self, people: Collection[str]) -> int:
        """Delete the keys of people; how many there were.

        Raises:
            StorageError: if the vault cannot be used.
        """
        with _explained():
            return sum(self._vault.erase(person) for person in people)

    def close(self) -> None:
        """Close the vault."""
        self._vault.close()


def person_of(payload: bytes) -> str | None:
    """Key of the person whom an entry is of; None for one of nobody, or that cannot be read."""
    try:
        names = (_from_json if payload[:1] == b"{" else _from_msgpack)(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
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
    return settings.privacy.sealed_log or settings.vault.exists()


def open_seal(settings: Settings, *, clock: Callable[[], int]) -> RecordSeal | None:
    """What seals the records of an installation's log, and opens those that are.

    Returns:
        None if no record is to be sealed, and none ever was.

    Raises:
        ConfigError: if there is no master key, or it is none.
        StorageError: if the vault or the keyring cannot be used, or the master key is another one.
    """
    if not is_sealed(settings):
        return None
    master = master_key(settings)
    with _explained():
        vault = Vault(settings.vault, master, Keyring(settings.keyring, clock=clock))
        try:
            vault.check()
        except VaultError:
            vault.close()
            raise
    format: EntryFormat = "msgpack" if settings.log.in_files else "json"
    return RecordSeal(vault, format=format, writes=settings.privacy.sealed_log)


@contextlib.contextmanager
def log_in_files(settings: Settings, *, clock: Callable[[], int]) -> Iterator[EventLog]:
    """The log of the data directory, to be read beside the server, with its records opened.

    Raises:
        ConfigError: if records are sealed and there is no master key.
        LogError: if there is no log, or it cannot be read.
        StorageError: if the vault cannot be used.
    """
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
    """What the keys of people are wrapped by, 32 bytes.

    Raises:
        ConfigError: if there is none where the settings say, or it is none.
    """
    privacy = settings.privacy
    text = secret("privacy.master_key_env", privacy.master_key_env)
    if text is None:
        text = secret("privacy.master_key_file", "", privacy.master_key_file)
    if text is None:
        raise ConfigError(
            "privacy.master_key_env or privacy.master_key_file is missing: records of the log are "
            "sealed, so say where the key is that the keys of people are wrapped by"
        )
    return read_master_key(text, "privacy.master_key_env, privacy.master_key_file")


def read_master_key(text: str, where: str) -> bytes:
    """A master key as people write it down.

    Args:
        text: 32 bytes in hexadecimal or Base64.
        where: it is from, for the message.

    Raises:
        ConfigError: if it is none.
    """
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
