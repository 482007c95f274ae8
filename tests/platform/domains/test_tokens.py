"""Profile tokens: opened by their receiver, in time; everything else is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.domains.tokens import LIFETIME_MS, Profile, TokenError, TokenReader, seal
from tactful.util.signing import SigningKey, open_signing_key

NOW = 1_796_131_843_000
PRIVATE = X25519PrivateKey.generate()
PROFILE = Profile(
    token_id="9f0c" * 8,
    releasing="shop",
    receiving="杂志",
    embedding="2026-12-01",
    issued_at=NOW,
    expires_at=NOW + LIFETIME_MS,
    vector=(0.25, -0.5),
)


@pytest.fixture(scope="module")
def signing(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return open_signing_key(tmp_path_factory.mktemp("shop"))


def reader(signing: SigningKey, domain: str = "杂志") -> TokenReader:
    return TokenReader(domain, [PRIVATE], {"shop": [signing.public]})


def sealed(signing: SigningKey, **changes: object) -> str:
    profile = msgspec.structs.replace(PROFILE, **changes)
    return seal(profile, signing, PRIVATE.public_key())


def test_the_receiver_reads_the_profile(signing: SigningKey) -> None:
    assert reader(signing).open(sealed(signing), NOW + 1) == PROFILE


def test_a_token_for_either_key_is_opened_while_keys_change(signing: SigningKey) -> None:
    later = X25519PrivateKey.generate()
    magazine = TokenReader("杂志", [PRIVATE, later], {"shop": [signing.public]})
    for private in (PRIVATE, later):
        assert magazine.open(seal(PROFILE, signing, private.public_key()), NOW + 1) == PROFILE


@pytest.mark.parametrize(
    ("changes", "after", "message"),
    [
        ({}, LIFETIME_MS, "expired"),
        ({"expires_at": NOW + LIFETIME_MS + 1}, 1, "clocks"),
        ({"expires_at": NOW}, 1, "clocks"),
        ({}, -61_000, "clocks"),
        ({"releasing": "forum"}, 1, "no domain that this one receives"),
    ],
)
def test_a_token_out_of_time_or_of_a_stranger_is_refused(
    signing: SigningKey, changes: dict[str, object], after: int, message: str
) -> None:
    with pytest.raises(TokenError, match=message):
        reader(signing).open(sealed(signing, **changes), NOW + after)


def test_a_token_is_for_one_domain(signing: SigningKey) -> None:
    """A domain with the same key opens no token of another, and no domain with another key does."""
    with pytest.raises(TokenError, match="cannot be opened"):
        reader(signing, "forum").open(sealed(signing), NOW)
    other = TokenReader("杂志", [X25519PrivateKey.generate()], {"shop": [signing.public]})
    with pytest.raises(TokenError, match="cannot be opened"):
        other.open(sealed(signing), NOW)


def test_a_key_of_another_domain_signs_nothing_for_this_one(
    signing: SigningKey, tmp_path: Path
) -> None:
    forged = seal(PROFILE, open_signing_key(tmp_path), PRIVATE.public_key())
    with pytest.raises(TokenError, match="no domain that this one receives"):
        reader(signing).open(forged, NOW)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_changed_and_hostile_tokens_are_refused(signing: SigningKey, data: st.DataObject) -> None:
    good = base64.urlsafe_b64decode(sealed(signing))
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = bytearray(good)
    flipped[place] ^= data.draw(st.integers(1, 255))
    hostile = data.draw(st.text(max_size=200) | st.just("A" * 20_000) | st.just(""))
    for token in (base64.urlsafe_b64encode(bytes(flipped)).decode(), hostile):
        with pytest.raises(TokenError):
            reader(signing).open(token, NOW)


def test_a_message_of_a_refusal_holds_nothing_of_the_profile(signing: SigningKey) -> None:
    with pytest.raises(TokenError) as refused:
        reader(signing).open(sealed(signing, expires_at=NOW), NOW)
    assert "0.25" not in str(refused.value) and PROFILE.token_id not in str(refused.value)
