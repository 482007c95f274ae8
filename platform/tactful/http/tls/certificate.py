"""Certificate and key of the server, which are read again when they were renewed.

A renewed certificate is loaded into a new context as a whole, and new connections take it from
there: `SSLContext.load_cert_chain` on the context in use would leave it without a key while a
renewal has written one file of the two.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import logging
import ssl
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cryptography import x509

from tactful.config.server import ServerSettings
from tactful.config.settings import secret
from tactful.errors import ConfigError

logger = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
"""Longest time of a handshake of TLS."""

SHUTDOWN_S = 2.0
"""Longest wait for the end of TLS of a client after the server has ended it."""

_SOON = dt.timedelta(days=7)
_OTHERS = 0o007
_DAY = dt.timedelta(days=1)

Clock = Callable[[], dt.datetime]


def utc_now() -> dt.datetime:
    """Return the present time."""
    return dt.datetime.now(dt.UTC)


class Certificate:
    """Certificate and key of a server that speaks TLS.

    Attributes:
        context: context of the listening socket; each handshake takes the newest certificate.
        ends_at: end of the validity of the newest certificate.
    """

    def __init__(self, settings: ServerSettings, *, clock: Clock = utc_now) -> None:
        """Load the files that `settings` name.

        Raises:
            ConfigError: if one is missing or wrong, or the key is that of another certificate.
        """
        self._settings = settings
        self._clock = clock
        self._warned_at: dt.datetime | None = None
        self._seen = self._marks()
        self.context, self.ends_at = _load(settings)
        self._newest = self.context
        self.context.sni_callback = self._choose

    def warnings(self) -> list[str]:
        """Return what is wrong with files that can be used nevertheless."""
        now, path = self._clock(), self._settings.tls_certificate
        found = []
        if self.ends_at <= now:
            found.append(
                f"{path}: the certificate expired on {self.ends_at:%Y-%m-%d}, clients refuse it: "
                "renew it"
            )
        elif self.ends_at <= now + _SOON:
            found.append(f"{path}: the certificate expires on {self.ends_at:%Y-%m-%d}: renew it")
        if found:
            self._warned_at = now
        key = self._settings.key_of_certificate
        with contextlib.suppress(OSError):
            mode = stat.S_IMODE(key.stat().st_mode)
            if mode & _OTHERS:
                found.append(
                    f"{key}: every user of the machine can use the key of the certificate "
                    f"(mode {mode:04o}): chmod 600 {key}"
                )
        return found

    def renew(self) -> bool:
        """Load the files again if they have changed; return whether new connections take them.

        Files that cannot be used are logged once, and the certificate before them stays.
        """
        now = self._clock()
        marks = self._marks()
        if marks == self._seen:
            if self._warned_at is None or now - self._warned_at >= _DAY:
                for warning in self.warnings() if self.ends_at <= now + _SOON else []:
                    logger.warning("%s", warning)
            return False
        self._seen = marks
        try:
            self._newest, self.ends_at = _load(self._settings)
        except ConfigError as error:
            logger.warning("the certificate in use stays: %s", error)
            return False
        logger.info("a new certificate is used, until %s", f"{self.ends_at:%Y-%m-%d}")
        for warning in self.warnings():
            logger.warning("%s", warning)
        return True

    async def follow(self) -> None:
        """Look for renewed files again and again, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.tls_reload_s)
            await asyncio.to_thread(self.renew)

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._newest

    def _marks(self) -> list[tuple[int, int, int] | None]:
        return [_mark(path) for path in self._settings.tls_files]


def open_certificate(settings: ServerSettings) -> Certificate | None:
    """Return the certificate of a server that speaks TLS; None for plain HTTP.

    Raises:
        ConfigError: if it cannot be used.
    """
    return None if settings.tls_certificate == Path() else Certificate(settings)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Return what tells two versions of a file apart; None while it is missing."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _load(settings: ServerSettings) -> tuple[ssl.SSLContext, dt.datetime]:
    """Return a context of the files, and the end of the validity of the certificate."""
    certificate, key = settings.tls_certificate, settings.key_of_certificate
    ends_at = _end_of(certificate)
    _text("server.tls_key", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    password = secret("server.tls_key_password_env", settings.tls_key_password_env)

    def ask() -> str:
        if password is None:  # without this OpenSSL would ask at the terminal
            raise ConfigError(
                f"server.tls_key: {key} is encrypted: name the variable with its password in "
                "server.tls_key_password_env"
            )
        return password

    try:
        context.load_cert_chain(certificate, key, ask)
    except ssl.SSLError as error:
        raise ConfigError(
            _reason(error, certificate, key, encrypted=password is not None)
        ) from error
    if settings.tls_client_ca != Path():
        _text("server.tls_client_ca", settings.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        with _explained("server.tls_client_ca", settings.tls_client_ca):
            context.load_verify_locations(settings.tls_client_ca)
    return context, ends_at


def _end_of(path: Path) -> dt.datetime:
    text = _text("server.tls_certificate", path)
    try:
        chain = x509.load_pem_x509_certificates(text)
    except ValueError as error:
        raise ConfigError(
            f"server.tls_certificate: {path} holds no certificates in the PEM format"
        ) from error
    return chain[0].not_valid_after_utc


def _text(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: {path} cannot be read: {error.strerror}") from error


@contextlib.contextmanager
def _explained(setting: str, path: Path) -> Iterator[None]:
    try:
        yield
    except ssl.SSLError as error:
        raise ConfigError(f"{setting}: {path} holds no certificates in the PEM format") from error


def _reason(error: ssl.SSLError, certificate: Path, key: Path, *, encrypted: bool) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"server.tls_key: {key} is not the key of the certificate in {certificate}"
    if error.reason in ("CA_MD_TOO_WEAK", "EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL"):
        return f"server.tls_certificate: {certificate} is too weak: {error.reason}"
    wrong = ", or its password is wrong" if encrypted else ""
    return f"server.tls_key: {key} holds no private key in the PEM format{wrong}"
