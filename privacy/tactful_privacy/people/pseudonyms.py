"""Pseudonyms of people under keys that rotate by epoch.

A pseudonym is HMAC-SHA256 of the tenant and the id under the key of an epoch (RFC 2104). Without
the key nobody can compute it from an id or compare it with a list of ids. A person has another
pseudonym in each epoch; after the key of an epoch is destroyed, nobody can link them.

Pseudonyms are still personal data: a safeguard, not anonymity. Keep the keys apart from the data
that holds the pseudonyms.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import create_file, exclusive, replace_file
from tactful_privacy.errors import KeyringError
from tactful_privacy.permissions import secure_file

_SECRET_BYTES = 32


class Pseudonym(NamedTuple):
    """Pseudonym of a person in one epoch.

    Attributes:
        key_id: number of the epoch's key.
        digest: 32 bytes.
    """

    key_id: int
    digest: bytes


class Epoch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Key of one epoch."""

    key_id: int  # number computed from the secret; different keys hardly ever share a number
    secret: bytes  # 32 bytes
    begins_at: int  # first time of use, epoch milliseconds


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    epochs: tuple[Epoch, ...]


class Keyring:
    """Keys of an installation, in a file that only its owner may read.

    The file is JSON: ``{"epochs": [{"key_id": 17, "secret": "…", "begins_at": 1767225600000}]}``.
    A file that is damaged, holds no key, or cannot be used raises `KeyringError`.

    Attributes:
        path: path of the file.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int]) -> None:
        """Open a keyring; create one with one key if the file does not exist.

        Args:
            path: path of the file; all servers of an installation need the same keyring.
            clock: current time, epoch milliseconds.
        """
        self.path = path
        self._clock = clock
        self.reload()

    def reload(self) -> None:
        """Read the file again."""
        path = self.path
        try:
            if not path.exists():
                self._write((_new_epoch(self._clock()),), only_new=True)
            secure_file(path)
            with path.open("rb") as file:
                seen = _version(os.fstat(file.fileno()))
                epochs = msgspec.json.decode(file.read(), type=_File).epochs
        except DECODE_ERRORS as error:
            raise KeyringError(
                f"{path}: not a keyring: {error}; restore it from your backup of keys"
            ) from error
        except OSError as error:
            raise KeyringError(f"{path}: the keyring cannot be used: {error}") from error
        wrong = [e.key_id for e in epochs if e.key_id != key_id_of(e.secret)]
        if wrong or not epochs:
            raise KeyringError(f"{path}: a key is damaged or missing; restore the keyring")
        self._epochs, self._seen = epochs, seen

    def follow(self) -> None:
        """Read the file again if another process has changed it."""
        try:
            seen = _version(self.path.stat())
        except OSError as error:
            raise KeyringError(f"{self.path}: the keyring cannot be used: {error}") from error
        if seen != self._seen:
            self.reload()

    @property
    def current(self) -> int:
        """Number of the key of new pseudonyms."""
        return self._epochs[-1].key_id

    @property
    def key_ids(self) -> tuple[int, ...]:
        """Numbers of all keys, oldest first."""
        return tuple(epoch.key_id for epoch in self._epochs)

    def pseudonym(self, person: str, *, tenant: str = "", key_id: int | None = None) -> Pseudonym:
        """Compute the pseudonym of a person.

        Args:
            person: key of the person.
            tenant: tenant of the person: the same id at two tenants is two people.
            key_id: key of the epoch; None: the current key.

        Raises:
            KeyringError: if the keyring does not hold the key.
        """
        wanted = self.current if key_id is None else key_id
        for epoch in self._epochs:
            if epoch.key_id == wanted:
                # The length of the tenant comes first, so that no two pairs give the same bytes.
                name = tenant.encode()
                message = len(name).to_bytes(4) + name + person.encode()
                return Pseudonym(wanted, hmac.digest(epoch.secret, message, "sha256"))
        raise KeyringError(
            f"{self.path}: there is no key {wanted}: it was destroyed, or belongs to another"
            " keyring"
        )

    def rotate(self) -> int:
        """Begin an epoch and return the number of its key."""
        with self._locked():
            self._store((*self._epochs, _new_epoch(self._clock())))
        return self.current

    def destroy(self, key_id: int) -> None:
        """Destroy the key of a past epoch: its pseudonyms cannot be computed again.

        The current key, or one that is not in the file, raises `KeyringError`.
        """
        with self._locked():
            if key_id == self.current:
                raise KeyringError(
                    f"{self.path}: key {key_id} is in use: begin another epoch first"
                )
            remaining = tuple(epoch for epoch in self._epochs if epoch.key_id != key_id)
            if len(remaining) == len(self._epochs):
                raise KeyringError(f"{self.path}: there is no key {key_id}")
            self._store(remaining)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the file lock and read the newest keys, so that no key is lost."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self.path))
            except OSError as error:
                raise KeyringError(f"{self.path}: cannot be locked: {error}") from error
            self.reload()
            yield

    def _store(self, epochs: tuple[Epoch, ...]) -> None:
        try:
            self._write(epochs, only_new=False)
        except OSError as error:
            raise KeyringError(f"{self.path}: the keyring cannot be written: {error}") from error
        self.reload()

    def _write(self, epochs: tuple[Epoch, ...], *, only_new: bool) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = msgspec.json.encode(_File(epochs))
        if only_new:
            create_file(self.path, content)
        else:
            replace_file(self.path, content, private=True)


class Suppressed:
    """Erased people whose data may not return, stored by pseudonym only."""

    def __init__(self, keyring: Keyring) -> None:
        """Begin without suppressed people."""
        self._keyring = keyring
        self._digests: dict[int, set[bytes]] = {}
        self._cache: dict[str, bool] = {}

    def __len__(self) -> int:
        """Count the suppressed pseudonyms."""
        return sum(map(len, self._digests.values()))

    def add(self, pseudonyms: Iterable[Pseudonym]) -> None:
        """Suppress people; `KeyringError` if the keyring lacks the key of a pseudonym."""
        for key_id, digest in pseudonyms:
            if key_id not in self._keyring.key_ids:
                self._keyring.reload()
            if key_id not in self._keyring.key_ids:
                raise KeyringError(
                    f"{self._keyring.path}: people were erased under key {key_id}, which is not in "
                    "this keyring, so their returning data would not be recognised: use the "
                    "keyring of the installation"
                )
            self._digests.setdefault(key_id, set()).add(digest)
        self._cache.clear()

    def __contains__(self, person: object) -> bool:
        """Whether a person is suppressed; caches recent results."""
        if not self._digests or not isinstance(person, str):
            return False
        suppressed = self._cache.get(person)
        if suppressed is None:
            suppressed = any(
                self._keyring.pseudonym(person, key_id=key_id).digest in digests
                for key_id, digests in self._digests.items()
            )
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[person] = suppressed
        return suppressed


_CACHE_SIZE = 10_000


def _version(status: os.stat_result) -> tuple[int, ...]:
    """Return a value that differs when the file was replaced or changed."""
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def key_id_of(secret: bytes) -> int:
    """Return the number of a key: 31 bits of its hash, which do not reveal the key."""
    return int.from_bytes(hashlib.sha256(b"key id\0" + secret).digest()[:4]) >> 1


def _new_epoch(now: int) -> Epoch:
    secret = secrets.token_bytes(_SECRET_BYTES)
    return Epoch(key_id_of(secret), secret, now)
