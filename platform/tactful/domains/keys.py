"""Keys of a domain: one pair signs the profiles that leave, one decrypts those that arrive.

They lie in ``domain.keys`` of the data directory, or in the file of `domains.keys`; no backup has
them. The first entry signs. During a rotation a second one waits until the other domains know it::

    {"keys": [{"signing": "MC4C…", "encryption": "q83v…", "made_at": 1796131843000}]}

A public key is both public parts, 64 bytes in base64.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tactful.errors import ConfigError, StorageError
from tactful.util.signing import SigningKey
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.durable_files import replace_file
from tactful_privacy.permissions import secure_file


@dataclass(frozen=True)
class DomainKey:
    """One key of a domain."""

    signing: SigningKey
    encryption: X25519PrivateKey
    made_at: int  # epoch milliseconds

    @property
    def public(self) -> str:
        """Public key, as other domains write it in their settings."""
        own = bytes.fromhex(self.signing.public) + self.encryption.public_key().public_bytes_raw()
        return base64.urlsafe_b64encode(own).decode()


class _Stored(msgspec.Struct, frozen=True):
    signing: bytes
    encryption: bytes
    made_at: int


class _File(msgspec.Struct, frozen=True):
    keys: list[_Stored]


def read_keys(path: Path) -> list[DomainKey]:
    """Read the keys of a domain, the one that signs first.

    Raises:
        ConfigError: if there are none.
        StorageError: if the file cannot be read, or others may write it.
    """
    return [
        DomainKey(
            SigningKey(Ed25519PrivateKey.from_private_bytes(key.signing)),
            X25519PrivateKey.from_private_bytes(key.encryption),
            key.made_at,
        )
        for key in _read(path)
    ]


def make_keys(path: Path, now: int) -> list[DomainKey]:
    """Make the first key at a time, epoch milliseconds; `ConfigError` if there is one."""
    if path.exists():
        raise ConfigError(f"{path}: there is a key: `tactful domains rotate` replaces it")
    return _write(path, [_new(now)])


def add_key(path: Path, now: int) -> list[DomainKey]:
    """Add a key that opens tokens but signs none yet; `ConfigError` while another one waits."""
    stored = _read(path)
    if len(stored) > 1:
        raise ConfigError(
            f"{path}: a rotation has begun: when the other domains have the new key, run "
            "`tactful domains rotate --finish`"
        )
    return _write(path, [*stored, _new(now)])


def drop_old_key(path: Path) -> list[DomainKey]:
    """Let the waiting key sign, and delete the old one; `ConfigError` if none waits."""
    stored = _read(path)
    if len(stored) < 2:
        raise ConfigError(f"{path}: no rotation has begun: run `tactful domains rotate` first")
    return _write(path, stored[1:])


def _new(now: int) -> _Stored:
    signing, encryption = Ed25519PrivateKey.generate(), X25519PrivateKey.generate()
    return _Stored(signing.private_bytes_raw(), encryption.private_bytes_raw(), now)


def _read(path: Path) -> list[_Stored]:
    try:
        secure_file(path)
        stored = msgspec.json.decode(path.read_bytes(), type=_File).keys
        for key in stored:
            Ed25519PrivateKey.from_private_bytes(key.signing)
            X25519PrivateKey.from_private_bytes(key.encryption)
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: this domain has no keys yet: make them with `tactful domains init`"
        ) from None
    except (OSError, ValueError, *DECODE_ERRORS) as error:
        raise StorageError(f"{path}: the keys of the domain cannot be used: {error}") from error
    if not stored:
        raise StorageError(f"{path}: the keys of the domain cannot be used: there are none in it")
    return stored


def _write(path: Path, stored: list[_Stored]) -> list[DomainKey]:
    try:
        replace_file(path, msgspec.json.encode(_File(stored)), private=True)
    except OSError as error:
        raise StorageError(f"{path}: the keys of the domain cannot be stored: {error}") from error
    return read_keys(path)
