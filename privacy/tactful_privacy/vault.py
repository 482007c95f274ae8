"""A vault: what is sealed for a person can be opened until their key is deleted.

Each person has a data key of their own, and what is sealed under it is lost when it is gone,
wherever copies of the sealed bytes lie: so one erases what cannot be rewritten. It is a measure,
not anonymity: the bytes stay, and stay personal data as long as a copy of the key may exist.
Backups keep keys, too, so restore the vault together with the list of the erased.

The data keys are wrapped by a master key that is kept elsewhere, so the file alone opens nothing.
`rewrap_vault` replaces it.
Data and keys are sealed by AES-256-GCM (NIST SP 800-38D), with random nonces of 96 bits: no more
than 2**32 messages may be sealed for one person.

In the file a person is a random reference. It is found by any of their pseudonyms, which makes this
the only place where those of different epochs are joined.
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from tactful_privacy._cipher import KEY, NONCE, TAG, Cipher, MasterKey
from tactful_privacy.errors import SealError, VaultError
from tactful_privacy.pseudonyms import Keyring
from tactful_privacy.sqlite import use_write_ahead_log

_T = TypeVar("_T")

_VERSION = b"\x01"
_REFERENCE = 16
_HEAD = len(_VERSION) + _REFERENCE + NONCE
_WAIT_S = 60.0
_TOGETHER = 500
_ANYBODY = "SELECT reference, wrapped FROM people LIMIT 1"

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
    """The data keys of people, in an SQLite file; for any number of threads and processes.

    The keys used last are remembered. Each call first looks whether anybody was erased since, here
    or in another process, and forgets them all if so.
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
        """Open a vault, or make it.

        Args:
            path: of the file.
            master: key that wraps the data keys, 32 bytes; keep it apart from the file.
            keyring: makes the pseudonyms by which people are found.
            random: cryptographically secure bytes.
            remembered: how many keys to remember; each takes some 3 kB.

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
        with self._explained():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False
            )
            use_write_ahead_log(self._connection)
            # What is deleted is overwritten: a deleted key must not lie in a free page.
            self._connection.execute("PRAGMA secure_delete=ON")
            self._connection.executescript(_SCHEMA)
            path.chmod(0o600)

    def seal(self, person: str, content: bytes, *, context: bytes = b"") -> bytes:
        """Seal `content` so that only this vault opens it, until the person is erased.

        Args:
            person: key of the person, who gets a data key if they have none.
            content: what to seal.
            context: where it belongs, such as a table and a row; the same has to be given to open
                it, so that sealed bytes cannot be moved elsewhere.

        Raises:
            VaultError: if the file cannot be used, or the master key is another one.
        """
        return self.seal_many([person], [content], context=context)[0]

    def seal_many(
        self, people: Sequence[str], contents: Sequence[bytes], *, context: bytes = b""
    ) -> list[bytes]:
        """Seal each of `contents` for the person at its place, as :meth:`seal`.

        New keys are on disk before it returns.

        Raises:
            VaultError: if the file cannot be used, or the master key is another one.
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
        """What was sealed.

        Raises:
            SealError: if its key was deleted, it was changed, or it belongs elsewhere.
            VaultError: if the file cannot be used, or the master key is another one.
        """
        content = self.open_many([sealed], context=context)[0]
        if content is None:
            raise SealError("the key of these bytes was deleted, or is in another vault")
        return content

    def open_many(self, sealed: Sequence[bytes], *, context: bytes = b"") -> list[bytes | None]:
        """What was sealed; None where the key was deleted or is in another vault.

        Raises:
            SealError: if something was changed, or belongs elsewhere.
            VaultError: if the file cannot be used, or the master key is another one.
        """
        heads = [one[:_HEAD] for one in sealed]
        if any(len(one) < _HEAD + TAG or one[: len(_VERSION)] != _VERSION for one in sealed):
            raise SealError("these bytes are not sealed by a vault of this version")
        ciphers = self._ciphers_at({head[1 : 1 + _REFERENCE] for head in heads})
        contents: list[bytes | None] = []
        for head, one in zip(heads, sealed, strict=True):
            cipher = ciphers.get(head[1 : 1 + _REFERENCE])
            if cipher is None:
                contents.append(None)
                continue
            content = cipher.open(head[-NONCE:], one[_HEAD:], head + context)
            if content is None:
                raise SealError("these sealed bytes were changed, or belong elsewhere")
            contents.append(content)
        return contents

    def check(self) -> None:
        """See whether the master key is that of this vault, as far as a key of anybody tells.

        Raises:
            VaultError: if it is another one, or the file cannot be used.
        """
        with self._explained(), self._lock:
            row = self._connection.execute(_ANYBODY).fetchone()
        if row is not None:
            self._unwrapped(*row)

    def reference(self, person: str) -> bytes | None:
        """What stands for a person in all epochs, 16 random bytes; None if they have no key.

        A person who is found by the pseudonym of an earlier epoch is found by that of the current
        one from then on.
        """
        return self._change(lambda: self._found(person))

    def erase(self, person: str) -> bool:
        """Delete the data key of a person and all that leads to it; whether there was one.

        Raises:
            VaultError: if the file cannot be used.
        """

        def delete() -> bool:
            reference = self._found(person)
            if reference is None:
                return False
            for table in ("people", "pseudonyms"):
                self._connection.execute(f"DELETE FROM {table} WHERE reference = ?", (reference,))
            self._connection.execute("UPDATE erased SET number = number + 1")
            return True

        deleted = self._change(delete)
        with self._explained(), self._lock:
            # The write-ahead log holds the page as it was.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return deleted

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _found(self, person: str) -> bytes | None:
        """The reference of a person. Called within a transaction.

        There an epoch that another process has begun is known, before anybody else can be noted
        under it: otherwise a person would get a second key that an erasure does not find.
        """
        self._keyring.follow()
        for key_id in reversed(self._keyring.key_ids):
            row = self._connection.execute(
                "SELECT reference FROM pseudonyms WHERE key_id = ? AND digest = ?",
                self._keyring.pseudonym(person, key_id=key_id),
            ).fetchone()
            if row is not None:
                if key_id != self._keyring.current:
                    self._note(person, row[0])
                return bytes(row[0])
        return None

    def _note(self, person: str, reference: bytes) -> None:
        self._connection.execute(
            "INSERT INTO pseudonyms (key_id, digest, reference) VALUES (?, ?, ?)",
            (*self._keyring.pseudonym(person), reference),
        )

    def _ciphers_of(self, people: Sequence[str]) -> dict[str, tuple[bytes, Cipher]]:
        """The ciphers of people, with their references; who has no key gets one."""
        with self._explained(), self._lock:
            self._forget_erased()
            known = {p: r for p in people if (r := self._references.get(p)) is not None}
            if len(known) == len(set(people)) and all(r in self._ciphers for r in known.values()):
                return {person: (r, self._ciphers[r]) for person, r in known.items()}
        erased, made = self._change(lambda: (self._count_erased(), self._keys_of(people)))
        ciphers = {person: (reference, Cipher(key)) for person, (reference, key) in made.items()}
        with self._lock:
            self._make_room(len(ciphers))
            if erased == self._erased:  # else some of them may be gone already
                for person, (reference, cipher) in ciphers.items():
                    self._references[person] = reference
                    self._ciphers[reference] = cipher
        return ciphers

    def _ciphers_at(self, references: set[bytes]) -> dict[bytes, Cipher]:
        """The ciphers of references, as far as there are keys."""
        with self._explained(), self._lock:
            self._forget_erased()
            found = {r: c for r in references if (c := self._ciphers.get(r)) is not None}
            absent = sorted(references - found.keys())
            self._make_room(len(absent))
            for start in range(0, len(absent), _TOGETHER):
                some = absent[start : start + _TOGETHER]
                marks = ",".join("?" * len(some))
                for reference, wrapped in self._connection.execute(
                    f"SELECT reference, wrapped FROM people WHERE reference IN ({marks})", some
                ):
                    cipher = Cipher(self._unwrapped(reference, wrapped))
                    found[reference] = self._ciphers[reference] = cipher
        return found

    def _forget_erased(self) -> None:
        erased = self._count_erased()
        if erased != self._erased:
            self._references.clear()
            self._ciphers.clear()
            self._erased = erased

    def _count_erased(self) -> int:
        return int(self._connection.execute("SELECT number FROM erased").fetchone()[0])

    def _keys_of(self, people: Sequence[str]) -> dict[str, tuple[bytes, bytes]]:
        return {person: self._key_of(person) for person in set(people)}

    def _make_room(self, count: int) -> None:
        if len(self._ciphers) + count > self._remembered:
            self._references.clear()
            self._ciphers.clear()

    def _key_of(self, person: str) -> tuple[bytes, bytes]:
        reference = self._found(person)
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
        self._note(person, reference)
        return reference, key

    def _prove_master(self) -> None:
        """Refuse to wrap a new key by a master key that another process has replaced."""
        row = self._connection.execute("SELECT proof FROM master").fetchone()
        if row is None:  # of before there were proofs, or nobody is in it yet
            known = self._connection.execute(_ANYBODY).fetchone()
            if known is not None:
                self._unwrapped(*known)
            proof = self._master.proof()
            self._connection.execute("INSERT INTO master (number, proof) VALUES (0, ?)", (proof,))
        elif row[0] != self._proved:
            if not self._master.proved_by(row[0]):
                raise self._of_another_master()
            self._proved = row[0]

    def _unwrapped(self, reference: bytes, wrapped: bytes) -> bytes:
        key = self._master.unwrap(reference, wrapped)
        if key is None:
            raise self._of_another_master()
        return key

    def _of_another_master(self) -> VaultError:
        return VaultError(
            f"{self._path}: a data key cannot be unwrapped: this is not the master key of this "
            "vault, or the file is damaged; where the master key was changed, start again with "
            "the new one"
        )

    def _change(self, work: Callable[[], _T]) -> _T:
        with self._explained(), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work()
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
            return result

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise VaultError(f"{self._path}: the vault cannot be used: {error}") from error
