"""Pseudonyms by epochs, and the list of those who may not come back."""

from __future__ import annotations

import hashlib
import hmac
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tactful_privacy.errors import KeyringError
from tactful_privacy.people.pseudonyms import Keyring, Pseudonym, Suppressed


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys" / "keyring.json", clock=lambda: 7)


def secret_of(keyring: Keyring) -> bytes:
    document = msgspec.json.decode(keyring.path.read_bytes())
    return bytes(msgspec.convert(document["epochs"][-1]["secret"], bytes))


def test_a_pseudonym_is_hmac_sha256(keyring: Keyring) -> None:
    message = b"\x00\x00\x00\x04shop" + b"ada"
    wanted = hmac.new(secret_of(keyring), message, hashlib.sha256).digest()
    assert keyring.pseudonym("ada", tenant="shop") == Pseudonym(keyring.current, wanted)


names = st.tuples(st.text(), st.text())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, names)
def test_no_two_people_share_one(
    keyring: Keyring, one: tuple[str, str], other: tuple[str, str]
) -> None:
    pair = [keyring.pseudonym(person, tenant=tenant) for tenant, person in (one, other)]
    assert (pair[0] == pair[1]) is (one == other)


def test_the_file_is_its_owners_alone_and_is_read_again(keyring: Keyring) -> None:
    assert stat.S_IMODE(keyring.path.stat().st_mode) == 0o600
    again = Keyring(keyring.path, clock=lambda: 8)
    assert again.pseudonym("ada") == keyring.pseudonym("ada")


def test_epochs_change_pseudonyms_until_destroyed(keyring: Keyring) -> None:
    """A new epoch gives new pseudonyms, a destroyed epoch gives none."""
    first = keyring.current
    before = keyring.pseudonym("ada")
    keyring.rotate()
    assert keyring.pseudonym("ada").digest != before.digest
    assert keyring.pseudonym("ada", key_id=first) == before
    with pytest.raises(KeyringError, match="in use"):
        keyring.destroy(keyring.current)
    keyring.destroy(first)
    for ring in (keyring, Keyring(keyring.path, clock=lambda: 9)):
        with pytest.raises(KeyringError, match="no key"):
            ring.pseudonym("ada", key_id=first)
    with pytest.raises(KeyringError, match="no key"):
        keyring.destroy(first)


def test_a_damaged_keyring_is_refused(keyring: Keyring) -> None:
    document = msgspec.json.decode(keyring.path.read_bytes())
    document["epochs"][0]["key_id"] ^= 1
    keyring.path.write_bytes(msgspec.json.encode(document))
    with pytest.raises(KeyringError, match="damaged"):
        Keyring(keyring.path, clock=lambda: 0)
    for content in (b"", b"{}", b'{"epochs": []}', b'{"epochs": [{"key_id": 1}]}', b"\xff"):
        keyring.path.write_bytes(content)
        with pytest.raises(KeyringError, match="restore"):
            Keyring(keyring.path, clock=lambda: 0)


def test_the_suppressed_are_known_in_every_epoch(keyring: Keyring, tmp_path: Path) -> None:
    suppressed = Suppressed(keyring)
    assert "zoe" not in suppressed
    suppressed.add([keyring.pseudonym("zoe")])
    keyring.rotate()
    suppressed.add([keyring.pseudonym("bob")])
    assert ["zoe" in suppressed, "bob" in suppressed, "cy" in suppressed] == [True, True, False]
    assert 7 not in suppressed
    assert len(suppressed) == 2
    another_process = Keyring(keyring.path, clock=lambda: 9)
    another_process.rotate()
    suppressed.add([another_process.pseudonym("cy")])
    assert "cy" in suppressed
    installation = Keyring(tmp_path / "other.json", clock=lambda: 0)
    with pytest.raises(KeyringError, match="not in this keyring"):
        Suppressed(installation).add([keyring.pseudonym("zoe")])
    assert b"zoe" not in keyring.path.read_bytes()
