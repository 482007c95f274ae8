"""What a device remembers of its person: sealed, for a limited time, and only while they agree."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

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
"""


class _Visit(msgspec.Struct, array_like=True):
    at: float
    categories: list[str]


class EventStore:
    """Visits of one person, each the categories of its lines, in an SQLite file on the device.

    Visits are sealed by ChaCha20-Poly1305 under a key that is derived from the caller's key and a
    salt in the file; only their UTC days are readable, for retention. Nothing is kept without
    consent, and withdrawing it wipes the file: what was kept is deleted, its pages are overwritten,
    and the salt is replaced, so copies of old pages can be opened by nobody who lacks the old salt.

    Args:
        path: Of the file.
        key: 32 bytes from the device's key store.
        now: Seconds since the epoch.
        retention_days: Visits are forgotten after so many days, 1 or more.
        most_visits: Of more, the oldest are forgotten.
        random: Cryptographically secure bytes.
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
        """Open the store, or make it; without consent.

        Raises:
            SettingsError: A setting is out of range.
            StoreError: The file was made with another key, or is no store.
        """
        require(len(key) == 32, f"a store's key has 32 bytes, not {len(key)}")
        require(retention_days >= 1, "retention_days must be at least 1")
        require(most_visits >= 1, "most_visits must be at least 1")
        self._key, self._now, self._random = key, now, random
        self._days, self._most = retention_days, most_visits
        self._lock = threading.Lock()
        try:
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._file.execute("PRAGMA secure_delete = ON")
            self._file.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{path} is no store of visits: {error}") from error
        if self._setting("salt") is None:
            self._renew_salt()
        self._open_seal()
        self.prune()

    @property
    def consent(self) -> bool:
        """Whether the person agrees to keep visits and to train on them."""
        return self._setting("consent") == b"yes"

    def give_consent(self) -> None:
        """Keep visits from now on."""
        self._set("consent", b"yes")

    def withdraw_consent(self) -> None:
        """Keep nothing from now on, and wipe what there is."""
        self._wipe(withdrawn=True)

    def add(self, categories: Sequence[str], at: float | None = None) -> None:
        """Keep a visit.

        Args:
            categories: Of its lines, in any order.
            at: When, seconds since the epoch; None is now. A time to come counts as now.

        Raises:
            ConsentError: The person did not agree.
        """
        now = self._now()
        at = now if at is None else min(at, now)
        with self._lock:
            if not self.consent:
                raise ConsentError("the person did not agree to keep visits on this device")
            day = int(at // _DAY_S)
            nonce = self._random(_NONCE)
            plain = msgspec.msgpack.encode(_Visit(at, list(categories)))
            sealed = nonce + self._seal.encrypt(nonce, plain, str(day).encode())
            self._file.execute("INSERT INTO visits (day, sealed) VALUES (?, ?)", (day, sealed))
        self.prune()

    def visits(self) -> list[list[str]]:
        """All that is kept, by time.

        Raises:
            StoreError: A visit was changed by somebody else.
        """
        self.prune()
        with self._lock:
            rows = self._file.execute("SELECT day, sealed FROM visits ORDER BY number").fetchall()
            kept = [self._unseal(day, sealed) for day, sealed in rows]
        return [visit.categories for visit in sorted(kept, key=lambda visit: visit.at)]

    def prune(self) -> None:
        """Forget what is too old or too much."""
        oldest = int(self._now() // _DAY_S) - self._days + 1
        with self._lock:
            self._file.execute("DELETE FROM visits WHERE day < ?", (oldest,))
            self._file.execute(
                "DELETE FROM visits WHERE number NOT IN"
                " (SELECT number FROM visits ORDER BY day DESC, number DESC LIMIT ?)",
                (self._most,),
            )

    def wipe(self) -> None:
        """Forget everything for good."""
        self._wipe(withdrawn=False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _wipe(self, *, withdrawn: bool) -> None:
        with self._lock:
            self._file.execute("BEGIN IMMEDIATE")
            with self._file:  # all of it or nothing, whenever the process dies
                if withdrawn:
                    self._set("consent", b"no")
                self._file.execute("DELETE FROM visits")
                self._renew_salt()
            self._open_seal()
            self._file.execute("VACUUM")

    def _unseal(self, day: int, sealed: bytes) -> _Visit:
        try:
            plain = self._seal.decrypt(sealed[:_NONCE], sealed[_NONCE:], str(day).encode())
        except InvalidTag as error:
            raise StoreError("a visit was changed outside this store; wipe it") from error
        return msgspec.msgpack.decode(plain, type=_Visit)

    def _open_seal(self) -> None:
        salt = self._setting("salt") or b""
        derived = HKDF(hashes.SHA256(), 64, salt, b"tactful event store").derive(self._key)
        self._seal = ChaCha20Poly1305(derived[:32])
        # Half of what is derived tells a wrong key before anything is sealed with it.
        if self._setting("check") is None:
            self._set("check", derived[32:])
        elif self._setting("check") != derived[32:]:
            raise StoreError("the store was made with another key")

    def _renew_salt(self) -> None:
        self._set("salt", self._random(32))
        self._file.execute("DELETE FROM setting WHERE name = 'check'")

    def _setting(self, name: str) -> bytes | None:
        row = self._file.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return bytes(row[0]) if row else None

    def _set(self, name: str, value: bytes) -> None:
        self._file.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))
