"""Enrolment of web pages: one key for an account.

    POST /v1/device/enrol   public Ed25519 key, 32 bytes -> 200 Enrolment

The proxy of the shop authenticates the visitor and names the account in a header. The enrolling
authority runs this, and the server that leads rounds need not be able to.
"""

from __future__ import annotations

import hmac
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.messages import encode, enrol_page
from tactful_federated.transport.page_server import Reply, Request, Route, problem

_HOUR_S = 3600
_MOST_ACCOUNT_BYTES = 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS pages (
    account BLOB PRIMARY KEY, identity BLOB NOT NULL UNIQUE, hour INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS pages_by_hour ON pages (hour);
"""


class AlreadyEnrolledError(SecureSumError):
    """The account has another key, or the key belongs to another account."""


class EnrolmentRateError(SecureSumError):
    """Enough pages were enrolled in this hour.

    Attributes:
        seconds: Time until the next hour.
    """

    def __init__(self, seconds: int) -> None:
        """Keep the seconds until the next attempt."""
        super().__init__(f"enough pages were enrolled in this hour: try again in {seconds} s")
        self.seconds = seconds


class PageEnrolments:
    """Register of enrolled pages in a durable SQLite file.

    Each account has one key, so a person cannot take part more often than the plan allows by
    emptying the storage of the browser. The file has no account: a keyed hash stands for it, and
    the key is derived from the one of the authority, which `serve` draws for each run.

    Args:
        path: File of the register.
        authority: Key that certifies pages.
        per_hour: Largest number of new keys in an hour of UTC, which bounds invented accounts.
        now: Returns seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        authority: Ed25519PrivateKey,
        *,
        per_hour: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the register."""
        self._authority, self._per_hour, self._now = authority, per_hour, now
        secret = authority.private_bytes_raw()
        self._secret = hmac.digest(secret, b"accounts of enrolled pages", "sha256")
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA synchronous = FULL")
        self._file.executescript(_SCHEMA)

    def enrol(self, account: bytes, identity: bytes) -> bytes:
        """Return the encoded enrolment of a page, the same one for a repeated request.

        Args:
            account: Name of the account, as the proxy states it.
            identity: Public Ed25519 key of the page.

        Raises:
            AlreadyEnrolledError: The account has another key, or the key another account.
            EnrolmentRateError: Enough pages were enrolled in this hour.
            SecureSumError: The key does not have 32 bytes.
        """
        enrolment = encode(enrol_page(self._authority, identity))
        hashed = hmac.digest(self._secret, account, "sha256")
        now = self._now()
        hour = int(now // _HOUR_S)
        with self._transaction() as file:
            known = file.execute(
                "SELECT account, identity FROM pages WHERE account = ? OR identity = ?",
                (hashed, identity),
            ).fetchall()
            if known == [(hashed, identity)]:
                return enrolment
            if known:
                raise AlreadyEnrolledError("the account or the key is enrolled already")
            (count,) = file.execute("SELECT count(*) FROM pages WHERE hour = ?", (hour,)).fetchone()
            if count >= self._per_hour:
                raise EnrolmentRateError(math.ceil((hour + 1) * _HOUR_S - now))
            file.execute("INSERT INTO pages VALUES (?, ?, ?)", (hashed, identity, hour))
        return enrolment

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._file:
            self._file.execute("BEGIN IMMEDIATE")
            yield self._file


def enrolment_route(enrolments: PageEnrolments, header: str) -> dict[str, Route]:
    """Return the route `enrol`.

    Args:
        enrolments: Register.
        header: Name of the header in which the proxy states the account of a request.
    """
    name = header.lower().encode("latin-1")

    async def enrol(request: Request) -> Reply:
        account = request.headers.get(name, b"").strip()
        if not account:
            return problem(401, "no_account")
        if len(account) > _MOST_ACCOUNT_BYTES:
            return problem(400, "account_too_long")
        try:
            enrolment = enrolments.enrol(account, request.body)
        except AlreadyEnrolledError:
            return problem(409, "already_enrolled")
        except EnrolmentRateError as error:
            return problem(429, "rate", (b"retry-after", str(error.seconds).encode()))
        except SecureSumError:
            return problem(400, "not_a_key")
        return Reply(200, enrolment, [(b"content-type", b"application/msgpack")])

    return {"enrol": enrol}
