"""Encrypted visits of the user of a device, kept for a limited time with consent."""

from __future__ import annotations

import hashlib
import hmac
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tactful_federated.errors import ConsentError, StoreError, require

_DAY_S = 86_400
_NONCE = 12
_SCHEMA = """
CREATE TABLE IF NOT EXISTS visits (number INTEGER PRIMARY KEY, day INTEGER NOT NULL, sealed BLOB);
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS imported (digest BLOB PRIMARY KEY) WITHOUT ROWID;
"""


Telling = Literal["nothing", "moment", "group", "category"]
"""Consent to tell a server of a foresight: that there is one, the group of its trigger, or the
category."""

TELLING: Final[tuple[Telling, ...]] = get_args(Telling)
"""All levels, the least first."""


class _Visit(msgspec.Struct, array_like=True):
    at: float
    categories: list[str]


class StoredVisit(msgspec.Struct, frozen=True):
    """Visit of the user.

    Attributes:
        number: Number of the visit; a later stored one has a higher number.
        at: Time of the visit, seconds since the epoch.
        categories: Categories of its lines.
    """

    number: int
    at: float
    categories: list[str]


class EventStore:
    """Encrypted visits of one user in an SQLite file; a visit is a list of categories.

    Visits are encrypted by ChaCha20-Poly1305; the key is derived from the caller's key and a salt
    in the file. Only the UTC day of a visit is readable, for retention. Nothing is stored without
    consent, and withdrawing it wipes the file: visits are deleted, their pages are overwritten, and
    the salt is replaced, so copies of old pages cannot be decrypted without the old salt.

        visits   number  day (since 1970)  sealed = nonce [12] | ciphertext of (time, categories)
        setting  consent, telling, salt, check (detects a wrong key), imports (`imported` is kept)
        imported keyed digest of a visit and its number among equal ones, until visits are wiped

    Args:
        path: Path of the file.
        key: 32 bytes from the key store of the device.
        now: Returns seconds since the epoch.
        retention_days: Days after which visits are deleted, 1 or more.
        most_visits: Largest number of visits, 1 or more; the oldest are deleted.
        random: Source of cryptographically secure bytes.
    """

    def __init__(
        self,
        path: Path,
        key: bytes,
        *,
        now: Callable[[], float],
        retention_days: int = 365,
        most_visits: int = 2_000,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Open the store, or create it without consent.

        Raises:
            SettingsError: A setting is out of range.
            StoreError: The file has another key or is not a store.
        """
        require(len(key) == 32, f"the key of a store must have 32 bytes, not {len(key)}")
        require(retention_days >= 1, "retention_days must be at least 1")
        require(most_visits >= 1, "most_visits must be at least 1")
        self._key, self._now, self._random = key, now, random
        self._retention_days, self._most_visits = retention_days, most_visits
        self._lock = threading.Lock()
        try:
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA secure_delete = ON")
            self._file.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} is not a store of visits: {error}") from error
        if self._setting("salt") is None:
            self._renew_salt()
        self._derive_cipher()
        self.prune()

    @property
    def consent(self) -> bool:
        """Whether the user consents to storing visits and training on them."""
        return self._setting("consent") == b"yes"

    @property
    def generation(self) -> str:
        """Random name of the visits since the store was made or wiped; reveals nothing of them."""
        salt = self._setting("salt") or b""
        return hashlib.sha256(b"generation" + salt).hexdigest()[:16]

    @property
    def telling(self) -> Telling:
        """Consent to tell a server of foresights; `nothing` until it is given."""
        level = (self._setting("telling") or b"nothing").decode()
        return level if level in TELLING and self.consent else "nothing"

    def allow_telling(self, level: Telling) -> None:
        """Record the consent to tell a server of foresights, or its end by `nothing`.

        Raises:
            SettingsError: Unknown level.
            ConsentError: The user did not consent to storing visits.
        """
        require(level in TELLING, f"telling is {level!r}: give one of {', '.join(TELLING)}")
        if level != "nothing" and not self.consent:
            raise ConsentError("the user did not consent to storing visits on this device")
        self._set("telling", level.encode())

    def give_consent(self) -> None:
        """Record consent; visits can be stored from now on."""
        self._set("consent", b"yes")

    def withdraw_consent(self) -> None:
        """Withdraw consent and wipe all visits."""
        self._wipe(withdrawn=True)

    def add(self, categories: Sequence[str], at: float | None = None) -> None:
        """Store a visit: the categories of its lines in any order, and its time.

        The time is in seconds since the epoch; None or a future one is now.

        Raises:
            ConsentError: The user did not consent.
        """
        with self._lock:
            self._add(categories, at)
        self.prune()

    def import_visits(self, history: Iterable[Sequence[str]]) -> None:
        """Store the visits of a history that were not imported before, in order, all or none.

        A history may be given again, also longer or without its oldest visits. A visit that occurs
        several times is stored as often as in the history that has it most often.

        Raises:
            ConsentError: The user did not consent.
        """
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            with self._file:
                if self._setting("imports") is None:  # a new store, or one of an earlier version
                    rows = self._file.execute("SELECT day, sealed FROM visits").fetchall()
                    list(self._not_imported(self._decrypt(*row).categories for row in rows))
                    self._set("imports", b"kept")
                for visit in self._not_imported(history):
                    self._add(visit)
        self.prune()

    def visits(self) -> list[list[str]]:
        """Return the categories of all visits, by time.

        Raises:
            StoreError: A visit was altered outside the store.
        """
        return [visit.categories for visit in self.stored_visits()]

    def stored_visits(self) -> list[StoredVisit]:
        """Return all visits with their times, by time.

        Raises:
            StoreError: A visit was altered outside the store.
        """
        self.prune()
        with self._lock:
            rows = self._file.execute("SELECT number, day, sealed FROM visits ORDER BY number")
            visits = []
            for number, day, sealed in rows.fetchall():
                visit = self._decrypt(day, sealed)
                visits.append(StoredVisit(number, visit.at, visit.categories))
        return sorted(visits, key=lambda visit: visit.at)

    def prune(self) -> None:
        """Delete visits beyond the retention time or the largest number."""
        oldest = int(self._now() // _DAY_S) - self._retention_days + 1
        with self._lock:
            self._file.execute("DELETE FROM visits WHERE day < ?", (oldest,))
            self._file.execute(
                "DELETE FROM visits WHERE number NOT IN"
                " (SELECT number FROM visits ORDER BY day DESC, number DESC LIMIT ?)",
                (self._most_visits,),
            )

    def wipe(self) -> None:
        """Delete all visits irrecoverably; consent is unchanged."""
        self._wipe(withdrawn=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, categories: Sequence[str], at: float | None = None) -> None:
        if not self.consent:
            raise ConsentError("the user did not consent to storing visits on this device")
        now = self._now()
        at = now if at is None else min(at, now)
        day = int(at // _DAY_S)
        nonce = self._random(_NONCE)
        plain = msgspec.msgpack.encode(_Visit(at, list(categories)))
        sealed = nonce + self._cipher.encrypt(nonce, plain, str(day).encode())
        self._file.execute("INSERT INTO visits (day, sealed) VALUES (?, ?)", (day, sealed))

    def _not_imported(self, history: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
        """Yield visits that were not imported before, and mark them as imported."""
        salt = self._setting("salt") or b""  # renewed when visits are wiped
        key = HKDF(hashes.SHA256(), 32, salt, b"tactful imported visits").derive(self._key)
        equal: Counter[bytes] = Counter()
        for visit in history:
            plain = msgspec.msgpack.encode(list(visit))
            equal[plain] += 1
            digest = hmac.digest(key, msgspec.msgpack.encode((plain, equal[plain])), "sha256")
            marked = self._file.execute("INSERT OR IGNORE INTO imported VALUES (?)", (digest[:16],))
            if marked.rowcount:
                yield visit

    def _wipe(self, *, withdrawn: bool) -> None:
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            with self._file:  # one transaction, also if the process is killed
                if withdrawn:
                    self._set("consent", b"no")
                    self._set("telling", b"nothing")
                self._file.execute("DELETE FROM visits")
                self._file.execute("DELETE FROM imported")
                self._renew_salt()
            self._derive_cipher()
            self._file.execute("VACUUM")

    def _decrypt(self, day: int, sealed: bytes) -> _Visit:
        try:
            plain = self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], str(day).encode())
        except InvalidTag as error:
            raise StoreError("a visit was altered outside this store: wipe it") from error
        return msgspec.msgpack.decode(plain, type=_Visit)

    def _derive_cipher(self) -> None:
        salt = self._setting("salt") or b""
        derived = HKDF(hashes.SHA256(), 64, salt, b"tactful event store").derive(self._key)
        self._cipher = ChaCha20Poly1305(derived[:32])
        # The second half of the derived bytes detects a wrong key before it encrypts a visit.
        if self._setting("check") is None:
            self._set("check", derived[32:])
        elif self._setting("check") != derived[32:]:
            raise StoreError("the store has another key")

    def _renew_salt(self) -> None:
        self._set("salt", self._random(32))
        self._file.execute("DELETE FROM setting WHERE name = 'check'")

    def _setting(self, name: str) -> bytes | None:
        row = self._file.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else None

    def _set(self, name: str, value: bytes) -> None:
        self._file.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))
