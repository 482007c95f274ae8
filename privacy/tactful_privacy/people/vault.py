"""Vault of data keys: deleting a person's key makes their sealed bytes unreadable.

Each person has a data key. Deleting it makes everything sealed under it unreadable, in every copy:
this erases data that cannot be rewritten. It is a safeguard, not anonymity: the bytes remain, and
remain personal data while a copy of the key may exist. Backups hold keys too, so restore the vault
together with the list of erased people.

A master key, stored elsewhere, wraps the data keys, so the file alone opens nothing. `rewrap_vault`
replaces it. Data and keys are sealed by AES-256-GCM (NIST SP 800-38D), with random nonces of 96
bits: at most 2**32 messages may be sealed for one person.

In the file a person is a random reference, found by any of their pseudonyms. So this is the only
place that links pseudonyms of different epochs:

    pseudonyms (key_id, digest) -> reference -> people (wrapped data key)

    sealed bytes: version 1 | reference 16 | nonce 12 | ciphertext and tag
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tactful_privacy.errors import ParameterError, SealError, VaultError
from tactful_privacy.people.pseudonyms import Keyring
from tactful_privacy.sqlite import (
    empty_write_ahead_log,
    transaction,
    use_write_ahead_log,
)

KEY = 32
"""Bytes of a key."""

NONCE = 12
"""Bytes of a nonce: 96 bits, drawn at random."""

TAG = 16
"""Bytes of the authentication tag."""

_PROVES = b"master"


class Cipher:
    """AES-256-GCM under one key."""

    def __init__(self, key: bytes) -> None:
        """Use a key of 32 bytes."""
        # Imported late: few processes have a vault.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher = AESGCM(key)
        self._changed = InvalidTag

    def seal(self, nonce: bytes, content: bytes, about: bytes) -> bytes:
        """Encrypt content; `about` is authenticated and needed to open it."""
        return self._cipher.encrypt(nonce, content, about)

    def open(self, nonce: bytes, sealed: bytes, about: bytes) -> bytes | None:
        """Decrypt content; None if the key, the bytes or `about` differ."""
        try:
            return self._cipher.decrypt(nonce, sealed, about)
        except self._changed:
            return None


class MasterKey:
    """Wraps data keys, each bound to its reference."""

    def __init__(self, key: bytes, random: Callable[[int], bytes]) -> None:
        """Use a key of 32 bytes, and secure random bytes for nonces."""
        if len(key) != KEY:
            raise ParameterError(f"a master key has {KEY} bytes, not {len(key)}")
        self._cipher = Cipher(key)
        self._random = random

    def wrap(self, reference: bytes, key: bytes) -> bytes:
        """Encrypt a data key for storage."""
        nonce = self._random(NONCE)
        return nonce + self._cipher.seal(nonce, key, reference)

    def unwrap(self, reference: bytes, wrapped: bytes) -> bytes | None:
        """Decrypt a data key; None if it was changed or wrapped by another master key."""
        return self._cipher.open(wrapped[:NONCE], wrapped[NONCE:], reference)

    def proof(self) -> bytes:
        """Return an empty message sealed by this key, to recognise the key later."""
        return self.wrap(_PROVES, b"")

    def proved_by(self, proof: bytes) -> bool:
        """Whether a proof was made by this key."""
        return self.unwrap(_PROVES, proof) is not None


_T = TypeVar("_T")

_VERSION = b"\x01"
_REFERENCE = 16
_HEAD = len(_VERSION) + _REFERENCE + NONCE
_WAIT_S = 60.0
_BATCH = 500
_ANY_KEY = "SELECT reference, wrapped FROM people LIMIT 1"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS people (
    reference BLOB PRIMARY KEY, wrapped BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pseudonyms (
    key_id INTEGER NOT NULL, digest BLOB NOT NULL, reference BLOB NOT NULL,
    PRIMARY KEY (key_id, digest)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pseudonyms_of ON pseudonyms (reference);
CREATE TABLE IF NOT EXISTS erased (number INTEGER NOT NULL);
INSERT INTO erased SELECT 0 WHERE NOT EXISTS (SELECT * FROM erased);
CREATE TABLE IF NOT EXISTS master (number INTEGER NOT NULL, proof BLOB NOT NULL);
"""


class Vault:
    """Data keys of people in an SQLite file, shared by threads and processes.

    Recently used keys are cached. Each call first checks for erasures since, in this or another
    process, and clears the cache after one. Methods raise `VaultError` if the file cannot be used
    or has another master key.
    """

    def __init__(
        self,
        path: Path,
        master: bytes,
        keyring: Keyring,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
        remembered: int = 20_000,
    ) -> None:
        """Open a vault; create it if the file does not exist.

        Args:
            path: path of the file.
            master: master key that wraps the data keys, 32 bytes; keep it apart from the file.
            keyring: keys of the pseudonyms that identify people.
            random: cryptographically secure bytes.
            remembered: size of the key cache; each key takes some 3 kB.

        Raises:
            ParameterError: if the master key does not have 32 bytes.
            VaultError: if the file cannot be used.
        """
        self._path = path
        self._master = MasterKey(master, random)
        self._keyring = keyring
        self._random = random
        self._remembered = remembered
        self._erased = 0
        self._proved = b""
        self._references: dict[str, bytes] = {}
        self._ciphers: dict[bytes, Cipher] = {}
        self._lock = threading.Lock()
        with self._translated_errors():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
            )
            use_write_ahead_log(self._connection)
            self._connection.executescript(_SCHEMA)
            path.chmod(0o600)

    def seal(self, person: str, content: bytes, *, context: bytes = b"") -> bytes:
        """Seal `content` so that only this vault opens it, until the person is erased.

        Args:
            person: key of the person, who gets a data key if they have none.
            content: bytes to seal.
            context: location of the bytes, such as a table and a row; opening needs the same
                context, so that sealed bytes cannot be moved elsewhere.
        """
        return self.seal_many([person], [content], context=context)[0]

    def seal_many(
        self, people: Sequence[str], contents: Sequence[bytes], *, context: bytes = b""
    ) -> list[bytes]:
        """Seal each content for the person at the same position, see `seal`.

        New keys are on disk when this returns.
        """
        ciphers = self._ciphers_of(people)
        nonces = self._random(NONCE * len(contents))
        sealed = []
        for number, (person, content) in enumerate(zip(people, contents, strict=True)):
            reference, cipher = ciphers[person]
            nonce = nonces[NONCE * number : NONCE * (number + 1)]
            head = _VERSION + reference + nonce
            sealed.append(head + cipher.seal(nonce, content, head + context))
        return sealed

    def open(self, sealed: bytes, *, context: bytes = b"") -> bytes:
        """Open sealed bytes; `SealError` if their key is gone, or they were changed or moved."""
        content = self.open_many([sealed], context=context)[0]
        if content is None:
            raise SealError("the key of these bytes was deleted, or is in another vault")
        return content

    def open_many(self, sealed: Sequence[bytes], *, context: bytes = b"") -> list[bytes | None]:
        """Open several sealed bytes; None where the key is absent.

        Changed or moved bytes raise `SealError`.
        """
        heads = [message[:_HEAD] for message in sealed]
        for message in sealed:
            if len(message) < _HEAD + TAG or message[: len(_VERSION)] != _VERSION:
                raise SealError("these bytes are not sealed by a vault of this version")
        ciphers = self._ciphers_at({head[1 : 1 + _REFERENCE] for head in heads})
        contents: list[bytes | None] = []
        for head, message in zip(heads, sealed, strict=True):
            cipher = ciphers.get(head[1 : 1 + _REFERENCE])
            if cipher is None:
                contents.append(None)
                continue
            content = cipher.open(head[-NONCE:], message[_HEAD:], head + context)
            if content is None:
                raise SealError("these sealed bytes were changed, or belong elsewhere")
            contents.append(content)
        return contents

    def check(self) -> None:
        """Check the master key against one data key, if there is any."""
        with self._translated_errors(), self._lock:
            row = self._connection.execute(_ANY_KEY).fetchone()
        if row is not None:
            self._unwrapped(*row)

    def reference(self, person: str) -> bytes | None:
        """Return a person's reference, 16 random bytes; None without a key.

        A person found by the pseudonym of an earlier epoch also gets one of the current epoch.
        """
        return self._change(lambda: self._find_reference(person))

    def erase(self, person: str) -> bool:
        """Delete the data key and pseudonyms of a person; return whether there was a key.

        While another process reads the key's old page, it raises `VaultError`: repeat the call.
        """

        def delete() -> bool:
            reference = self._find_reference(person)
            if reference is None:
                return False
            for table in ("people", "pseudonyms"):
                self._connection.execute(f"DELETE FROM {table} WHERE reference = ?", (reference,))
            self._connection.execute("UPDATE erased SET number = number + 1")
            return True

        deleted = self._change(delete)
        with self._translated_errors(), self._lock:
            emptied = empty_write_ahead_log(self._connection, wait_s=_WAIT_S)
        if not emptied:
            raise VaultError(
                f"{self._path}: the key is deleted, but its bytes are in the write-ahead log while"
                " another process reads it: stop that process, and repeat the erasure"
            )
        return deleted

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _find_reference(self, person: str) -> bytes | None:
        """Find the reference of a person, within a transaction.

        The keyring is read inside the transaction, so an epoch begun by another process is used
        before anybody is stored under it: otherwise a person could get a second key that an erasure
        does not find.
        """
        self._keyring.follow()
        for key_id in reversed(self._keyring.key_ids):
            row = self._connection.execute(
                "SELECT reference FROM pseudonyms WHERE key_id = ? AND digest = ?",
                self._keyring.pseudonym(person, key_id=key_id),
            ).fetchone()
            if row is not None:
                if key_id != self._keyring.current:
                    self._store_pseudonym(person, row[0])
                return bytes(row[0])
        return None

    def _store_pseudonym(self, person: str, reference: bytes) -> None:
        self._connection.execute(
            "INSERT INTO pseudonyms (key_id, digest, reference) VALUES (?, ?, ?)",
            (*self._keyring.pseudonym(person), reference),
        )

    def _ciphers_of(self, people: Sequence[str]) -> dict[str, tuple[bytes, Cipher]]:
        """Return references and ciphers of people; create missing keys."""
        with self._translated_errors(), self._lock:
            self._clear_after_erasure()
            cached = {p: r for p in people if (r := self._references.get(p)) is not None}
            if len(cached) == len(set(people)) and all(r in self._ciphers for r in cached.values()):
                return {person: (r, self._ciphers[r]) for person, r in cached.items()}
        erased, keys = self._change(
            lambda: (self._count_erased(), {p: self._key_of(p) for p in set(people)})
        )
        ciphers = {person: (reference, Cipher(key)) for person, (reference, key) in keys.items()}
        with self._lock:
            self._make_room(len(ciphers))
            if erased == self._erased:  # otherwise some of the keys may be deleted already
                for person, (reference, cipher) in ciphers.items():
                    self._references[person] = reference
                    self._ciphers[reference] = cipher
        return ciphers

    def _ciphers_at(self, references: set[bytes]) -> dict[bytes, Cipher]:
        """Return the ciphers of references that have a key."""
        with self._translated_errors(), self._lock:
            self._clear_after_erasure()
            ciphers = {r: c for r in references if (c := self._ciphers.get(r)) is not None}
            absent = sorted(references - ciphers.keys())
            self._make_room(len(absent))
            for start in range(0, len(absent), _BATCH):
                batch = absent[start : start + _BATCH]
                marks = ",".join("?" * len(batch))
                for reference, wrapped in self._connection.execute(
                    f"SELECT reference, wrapped FROM people WHERE reference IN ({marks})", batch
                ):
                    cipher = Cipher(self._unwrapped(reference, wrapped))
                    ciphers[reference] = self._ciphers[reference] = cipher
        return ciphers

    def _clear_after_erasure(self) -> None:
        erased = self._count_erased()
        if erased != self._erased:
            self._references.clear()
            self._ciphers.clear()
            self._erased = erased

    def _count_erased(self) -> int:
        return int(self._connection.execute("SELECT number FROM erased").fetchone()[0])

    def _make_room(self, count: int) -> None:
        if len(self._ciphers) + count > self._remembered:
            self._references.clear()
            self._ciphers.clear()

    def _key_of(self, person: str) -> tuple[bytes, bytes]:
        reference = self._find_reference(person)
        if reference is not None:
            (wrapped,) = self._connection.execute(
                "SELECT wrapped FROM people WHERE reference = ?", (reference,)
            ).fetchone()
            return reference, self._unwrapped(reference, wrapped)
        self._prove_master()
        reference, key = self._random(_REFERENCE), self._random(KEY)
        self._connection.execute(
            "INSERT INTO people (reference, wrapped) VALUES (?, ?)",
            (reference, self._master.wrap(reference, key)),
        )
        self._store_pseudonym(person, reference)
        return reference, key

    def _prove_master(self) -> None:
        """Refuse to wrap a new key by a master key that another process has replaced."""
        row = self._connection.execute("SELECT proof FROM master").fetchone()
        if row is None:  # a vault of an older version, or an empty one
            any_key = self._connection.execute(_ANY_KEY).fetchone()
            if any_key is not None:
                self._unwrapped(*any_key)
            proof = self._master.proof()
            self._connection.execute("INSERT INTO master (number, proof) VALUES (0, ?)", (proof,))
        elif row[0] != self._proved:
            if not self._master.proved_by(row[0]):
                raise self._wrong_master_key()
            self._proved = row[0]

    def _unwrapped(self, reference: bytes, wrapped: bytes) -> bytes:
        key = self._master.unwrap(reference, wrapped)
        if key is None:
            raise self._wrong_master_key()
        return key

    def _wrong_master_key(self) -> VaultError:
        return VaultError(
            f"{self._path}: a data key cannot be unwrapped: this is not the master key of this "
            "vault, or the file is damaged; if the master key was changed, start again with the "
            "new one"
        )

    def _change(self, work: Callable[[], _T]) -> _T:
        with self._translated_errors(), self._lock, transaction(self._connection):
            return work()

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise VaultError(f"{self._path}: the vault cannot be used: {error}") from error
