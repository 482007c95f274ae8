"""Ed25519 signatures (RFC 8032) of backups and models, by the key of a data directory.

The key is ``signing.key`` in the data directory, made when the directory is first opened; no backup
contains it. A signature names its public key, so that a reader can say whose it is::

    {"key": "d75a98…", "value": "e5564300…"}     32 and 64 bytes in hexadecimal

A signed directory holds ``signature.json`` with the digests of all its other files.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tactful.errors import SignatureError, StorageError
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import create_file, replace_file
from tactful_privacy.permissions import secure_file

_LOG = logging.getLogger(__name__)

SIGNING_KEY = "signing.key"
"""Name of the private key in a data directory."""

ADOPTED_MODELS = "signing.models"
"""Name of the list of directories whose earlier models were signed: `.` for the data directory."""

_SIGNATURE = "signature.json"
_PURPOSE = "model"


class Signature(msgspec.Struct, frozen=True):
    """A signature and its public key, in hexadecimal."""

    key: str
    value: str


class _SignedFiles(msgspec.Struct, frozen=True):
    files: dict[str, str]  # SHA-256 by path in the directory
    signature: Signature


class SigningKey:
    """Private key of an installation."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        """Sign with `private`."""
        self._private = private

    @property
    def public(self) -> str:
        """Public key, 32 bytes in hexadecimal."""
        return self._private.public_key().public_bytes_raw().hex()

    @property
    def pem(self) -> bytes:
        """Public key as PEM, for the owner of another data directory."""
        return self._private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, purpose: str, content: bytes) -> Signature:
        """Sign `content` for one purpose; for another one the signature is wrong."""
        return Signature(self.public, self._private.sign(_message(purpose, content)).hex())


def open_signing_key(data: Path) -> SigningKey:
    """Read the key of a data directory; make it if there is none.

    A key is made when an earlier version of tactful has used the directory, so all models in it are
    signed then; a signing that was interrupted is completed by the next call.

    Raises:
        StorageError: if the key cannot be read, or others may write it.
    """
    path = data / SIGNING_KEY
    try:
        if not path.exists():
            (data / ADOPTED_MODELS).unlink(missing_ok=True)
            _make_key(path)
        secure_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: the signing key cannot be used: {error}") from error
    try:
        private = serialization.load_pem_private_key(content, None)
        if not isinstance(private, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")
    except (ValueError, TypeError) as error:
        raise StorageError(
            f"{path}: not a signing key: {error}. Restore it, or remove it: the next start makes "
            "another one and signs the models of the directory with it"
        ) from error
    key = SigningKey(private)
    _adopt(data, ".", data, key)
    return key


def _make_key(path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    create_file(
        path,
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def trusted_keys(data: Path, models: Path) -> frozenset[str]:
    """Return the public keys whose signature a model in directory `models` needs.

    Without a data directory there are none. Models outside of it are signed when their directory
    is used for the first time.
    """
    if not data.is_dir():
        return frozenset()
    key = open_signing_key(data)
    if not models.absolute().is_relative_to(data.absolute()):
        _adopt(data, str(models.resolve()), models, key)
    return frozenset([key.public])


def _adopt(data: Path, name: str, folder: Path, key: SigningKey) -> None:
    """Sign the models of a folder, unless its name is in the list of the data directory."""
    adopted = data / ADOPTED_MODELS
    known = adopted.read_text("utf-8").splitlines() if adopted.exists() else []
    if name in known:
        return
    for manifest in sorted(folder.glob("**/versions/*/manifest.json")):
        if not manifest.parent.name.startswith("."):
            sign_directory(manifest.parent, key)
            _LOG.warning("%s is signed by this installation now", manifest.parent)
    # Written at last, so that a signing that is killed begins again.
    replace_file(adopted, "".join(f"{line}\n" for line in [*known, name]).encode())


def read_public_key(path: Path) -> str:
    """Read a public key from a PEM file; SignatureError if it is none."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
        if not isinstance(key, Ed25519PublicKey):
            raise ValueError("not an Ed25519 key")
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"{path}: no public key of `tactful keys public`: {error}") from error
    return key.public_bytes_raw().hex()


def is_genuine(signature: Signature, purpose: str, content: bytes) -> bool:
    """Whether the key that a signature names has signed `content`."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.key))
        key.verify(bytes.fromhex(signature.value), _message(purpose, content))
    except (InvalidSignature, ValueError):
        return False
    return True


def sign_directory(directory: Path, key: SigningKey) -> None:
    """Sign all files of a model directory; an existing signature is replaced."""
    files = _digests(directory)
    signed = _SignedFiles(files, key.sign(_PURPOSE, msgspec.json.encode(files)))
    replace_file(directory / _SIGNATURE, msgspec.json.encode(signed))


def check_directory(directory: Path, trusted: Collection[str]) -> None:
    """Compare all files of a model directory with their signature by one of the `trusted` keys.

    Raises:
        SignatureError: if it is missing or wrong, or a file was changed, added or removed.
    """
    path = directory / _SIGNATURE
    cure = "If you know that it is genuine, sign it with `tactful models sign`"
    try:
        signed = msgspec.json.decode(path.read_bytes(), type=_SignedFiles)
        files = _digests(directory)
    except FileNotFoundError as error:
        raise SignatureError(f"{path}: the model has no signature ({error}). {cure}") from error
    except (OSError, *DECODE_ERRORS) as error:
        raise SignatureError(f"{path}: cannot be read as a signature: {error}. {cure}") from error
    if not is_genuine(signed.signature, _PURPOSE, msgspec.json.encode(signed.files)):
        raise SignatureError(f"{path}: the signature is wrong. {cure}")
    if signed.signature.key not in trusted:
        raise SignatureError(
            f"{path}: signed by another installation, with key {signed.signature.key[:16]}…. {cure}"
        )
    for name in sorted(files.keys() | signed.files.keys()):
        if files.get(name) != signed.files.get(name):
            raise SignatureError(f"{directory / name}: differs from what was signed. {cure}")


def _digests(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the signature, sorted by path."""
    digests = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            raise SignatureError(f"{path}: a link, which a model does not contain")
        if path.is_file() and name != _SIGNATURE:
            with path.open("rb", buffering=0) as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _message(purpose: str, content: bytes) -> bytes:
    return b"tactful " + purpose.encode() + b"\0" + content
