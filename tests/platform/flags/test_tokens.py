"""Tokens prove one unit; new devices of one address are limited."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.flags.tokens import LIFETIME_MS, NewUnitLimit, UnitTokens, subscriber

KEY, NOW = b"k" * 32, 1_796_000_000_000
TOKENS = UnitTokens(KEY)


@settings(max_examples=40)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_token_proves_its_unit_only(unit: str, other: str) -> None:
    token = TOKENS.issue(unit, NOW)
    assert TOKENS.issued_at(token, unit, NOW + 1) == NOW
    assert unit == other or TOKENS.issued_at(token, other, NOW) is None
    assert UnitTokens(b"o" * 32).issued_at(token, unit, NOW) is None


@settings(max_examples=40)
@given(st.integers(0, 21), st.integers(1, 255))
def test_a_changed_token_is_refused(place: int, change: int) -> None:
    raw = bytearray(base64.urlsafe_b64decode(TOKENS.issue("device:d1", NOW) + "=="))
    raw[place] ^= change
    forged = base64.urlsafe_b64encode(raw).decode()
    assert TOKENS.issued_at(forged, "device:d1", NOW) is None


@pytest.mark.parametrize("token", ["", "x", "====", "é" * 30, "A" * 30, "A" * 64, "\ud800"])
def test_what_is_no_token_is_refused(token: str) -> None:
    assert TOKENS.issued_at(token, "device:d1", NOW) is None


def test_a_token_ends() -> None:
    token = TOKENS.issue("device:d1", NOW)
    assert TOKENS.issued_at(token, "device:d1", NOW + LIFETIME_MS) == NOW
    assert TOKENS.issued_at(token, "device:d1", NOW + LIFETIME_MS + 1) is None
    assert TOKENS.issued_at(token, "device:d1", NOW - 300_000) == NOW, "of a server ahead"
    assert TOKENS.issued_at(token, "device:d1", NOW - 300_001) is None


def test_new_devices_are_limited_by_key_and_address() -> None:
    now = 0.0
    limit = NewUnitLimit(30, clock=lambda: now)
    assert [limit.admits("k", "192.0.2.7") for _ in range(640)].count(True) == 30
    assert limit.admits("other", "192.0.2.7")
    assert limit.admits("k", "192.0.2.8")
    now = 3_600.0
    assert [limit.admits("k", "192.0.2.7") for _ in range(640)].count(True) == 30
    now = 3_600.0 + 121
    assert [limit.admits("k", "192.0.2.7") for _ in range(9)].count(True) == 1
    free = NewUnitLimit(0)
    assert all(free.admits("k", "a") for _ in range(640))


def test_a_subscriber_has_many_addresses_of_version_6() -> None:
    limit = NewUnitLimit(30, clock=lambda: 0.0)
    asked = [limit.admits("k", f"2001:db8:1:2::{number:x}") for number in range(100)]
    assert asked.count(True) == 30
    assert subscriber("::ffff:192.0.2.7") == "192.0.2.7"
    assert subscriber("unix socket") == "unix socket"
