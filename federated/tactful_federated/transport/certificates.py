"""Keys and certificates of a deployment: pinned authority, server, node keys."""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tactful_federated.core.checkpoint import write_whole
from tactful_federated.errors import SettingsError

_AUTHORITY_DAYS, _SERVER_DAYS = 3650, 397


@dataclass(frozen=True)
class Tls:
    """TLS files of a server.

    Attributes:
        certificate: PEM of the server certificate, for all its host names.
        key: PEM of its private key.
        authority: PEM of the authority certificate that devices pin.
    """

    certificate: Path
    key: Path
    authority: Path

    def __post_init__(self) -> None:
        """Raise `SettingsError` if a file is missing."""
        for path in (self.certificate, self.key, self.authority):
            if not path.is_file():
                raise SettingsError(
                    f"{path} is missing: the server needs a certificate, a key and an authority"
                )


def make_tls(directory: Path, hosts: list[str], *, now: datetime.datetime) -> Tls:
    """Create an authority and a server certificate, unless they exist.

    The authority signs only this certificate, and its private key is not stored: a new certificate
    needs a new authority, which devices must pin.

    Args:
        directory: Directory of the files.
        hosts: Host names and addresses of the server.
        now: Start of their validity.
    """
    paths = [directory / name for name in ("server.pem", "server.key", "authority.pem")]
    if not all(path.is_file() for path in paths):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        issuer = _name("tactful devices")
        authority = (
            _builder(issuer, issuer, authority_key.public_key(), now, _AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        certificate = (
            _builder(_name(hosts[0]), issuer, key.public_key(), now, _SERVER_DAYS)
            .add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                critical=False,
            )
            .sign(authority_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        contents = (certificate.public_bytes(pem), private_pem(key), authority.public_bytes(pem))
        for path, content in zip(paths, contents, strict=True):
            write_whole(path, content)
    return Tls(*paths)


def node_key(path: Path, *, rotate: bool = False) -> ec.EllipticCurvePrivateKey:
    """Read or create the key of a device, on NIST P-384.

    The key is the pseudonym of the device on a server, so each population has its own key. After a
    rotation the device is unknown until it is enrolled again.

    Raises:
        SettingsError: The file has another kind of key.
    """
    if rotate or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, private_pem(ec.generate_private_key(ec.SECP384R1())))
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingsError(f"{path} has no elliptic-curve key: delete it to create a new one")
    return key


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem_of_openssh(line: bytes) -> bytes:
    """Convert a public key in OpenSSH's form, as of a stock Flower node, to PEM.

    Raises:
        SettingsError: It is no key on a NIST curve.
    """
    try:
        key = serialization.load_ssh_public_key(line)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"not a public key of OpenSSH: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise SettingsError("the key is not on a NIST curve: ssh-keygen -t ecdsa -b 384")
    return public_pem(key)


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as PEM."""
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def secret_file(path: Path, size: int = 32) -> bytes:
    """Read or create a file of random bytes, readable by its owner only."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_whole(path, os.urandom(size))
    return path.read_bytes()


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
