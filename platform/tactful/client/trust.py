"""Certificates of TLS that a client trusts or shows."""

from __future__ import annotations

import ssl
from pathlib import Path

from tactful.errors import ConfigError


def tls_context(ca: Path | None, certificate: Path | None = None) -> ssl.SSLContext | None:
    """Return a context for `Client`; None without files, which is the default of httpx.

    Args:
        ca: PEM file with the authorities to trust instead of the usual ones.
        certificate: PEM file with a certificate of the client and its key, to be shown to a server
            that asks for one.

    Raises:
        ConfigError: if a file cannot be used.
    """
    if ca is None and certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca}: no certificates of authorities in PEM: {_said(error)}") from error
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # as curl: own authorities lack extensions
    if certificate is not None:
        try:
            context.load_cert_chain(certificate)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"{certificate}: no certificate with its key in PEM: {_said(error)}"
            ) from error
    return context


def tls_problem(error: BaseException) -> str | None:
    """Return why a connection over TLS failed, and what to do; None for another reason."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not accepted ({cause.verify_message}); name the file of a private "
            "authority by --ca, TACTFUL_CA or SSL_CERT_FILE"
        )
    if cause is None:
        return None
    if cause.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
        return "it speaks no TLS at this port: write http:// if it is meant to"
    if cause.reason in ("UNEXPECTED_EOF_WHILE_READING", "TLSV13_ALERT_CERTIFICATE_REQUIRED"):
        return (
            "it ended TLS: if it asks for a certificate of the client, name its file by "
            "--certificate or TACTFUL_CERTIFICATE"
        )
    return f"TLS failed ({cause.reason})"


def _said(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error.strerror or error)
