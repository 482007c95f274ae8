"""Keys of a domain: made once, rotated without a gap, closed to others, refused if damaged."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tactful.domains.keys import add_key, drop_old_key, make_keys, read_keys
from tactful.errors import ConfigError, StorageError


def test_a_rotation_keeps_a_known_key_at_every_step(tmp_path: Path) -> None:
    path = tmp_path / "domain.keys"
    with pytest.raises(ConfigError, match="tactful domains init"):
        read_keys(path)
    (first,) = make_keys(path, 1)
    with pytest.raises(ConfigError, match="rotate"):
        make_keys(path, 2)
    with pytest.raises(ConfigError, match="no rotation"):
        drop_old_key(path)
    signing, waiting = add_key(path, 3)
    assert (signing.public, waiting.made_at) == (first.public, 3)
    with pytest.raises(ConfigError, match="--finish"):
        add_key(path, 4)
    (last,) = drop_old_key(path)
    assert last.public == waiting.public != first.public
    assert [key.public for key in read_keys(path)] == [last.public]
    raw = base64.urlsafe_b64decode(last.public)
    assert raw[:32].hex() == last.signing.public
    assert raw[32:] == last.encryption.public_key().public_bytes_raw()


@pytest.mark.parametrize("content", [b"", b"{}", b'{"keys": []}', b"\xff", b'{"keys": [{}]}'])
def test_damaged_keys_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "domain.keys"
    path.write_bytes(content)
    with pytest.raises(StorageError, match="keys of the domain cannot be used"):
        read_keys(path)


def test_keys_are_closed_to_other_users(tmp_path: Path) -> None:
    path = tmp_path / "domain.keys"
    make_keys(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o666)
    with pytest.raises(StorageError, match="chmod 600"):
        read_keys(path)
