"""Stored profiles: a token counts once, a refusal deletes, and other processes miss nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest
from tests.platform.databases import Location
from tests.platform.support import wait_until

from tactful.config.domains import DomainSettings
from tactful.metadata.crossed_profiles import (
    CrossedProfile,
    erase_profiles,
    profiles_after,
    profiles_of,
    save_profile,
)
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.subjects import crossings
from tactful.subjects.consent import ConsentStore
from tactful.subjects.crossings import CrossedProfiles, training_profiles
from tactful.subjects.permissions import Permissions
from tactful_privacy.people.consent import EVERYTHING, Purpose

NOW = 1_796_131_843_000
PAIR = "shop>magazine"
DOMAINS = DomainSettings(name="magazine", peers={"shop": ["key"], "forum": ["key"]})


@pytest.fixture
def metadata(location: Location) -> Iterator[MetadataStore]:
    with closing(open_metadata(location, clock=lambda: NOW)) as store:
        yield store


@pytest.fixture
def consents(metadata: MetadataStore) -> ConsentStore:
    return ConsentStore(metadata, EVERYTHING, clock=lambda: NOW, domains=DOMAINS)


def profile(person: str = "ada", releasing: str = "shop", at: int = NOW) -> CrossedProfile:
    return CrossedProfile(person, releasing, "v1", at, (0.25, -0.5))


def test_a_token_counts_once_and_a_later_profile_replaces_an_earlier_one(
    metadata: MetadataStore,
) -> None:
    assert save_profile(metadata, profile(), "a", NOW)
    assert not save_profile(metadata, profile("bob"), "a", NOW), (
        "the same token, handed over by another"
    )
    assert save_profile(metadata, profile(at=NOW + 1), "b", NOW)
    assert profiles_of(metadata, ["ada", "bob"]) == [profile(at=NOW + 1)]
    number, found = profiles_after(metadata, 0)
    assert found == [profile(at=NOW + 1)]
    assert profiles_after(metadata, number) == (number, [])


def test_a_number_is_never_given_again(metadata: MetadataStore) -> None:
    """Another process follows by number: it would not see a profile with an earlier one."""
    save_profile(metadata, profile(), "a", NOW)
    number, _ = profiles_after(metadata, 0)
    assert erase_profiles(metadata, ["ada"]) == 1
    save_profile(metadata, profile(at=NOW + 10**9), "b", NOW + 10**9)
    assert profiles_after(metadata, number)[1] == [profile(at=NOW + 10**9)]
    assert save_profile(metadata, profile(at=NOW + 10**9), "a", NOW), "expired long ago"


@pytest.mark.parametrize(
    ("refused", "kept"),
    [
        ({PAIR: False}, ["forum"]),
        ({"magazine>shop": False, "marketing": False}, ["forum", "shop"]),
        ({"shop>forum": False}, ["forum", "shop"]),
        ({Purpose.PERSONALISATION: False}, []),
        ({"service": False, PAIR: True}, []),
    ],
)
def test_a_refusal_deletes_what_it_withdraws(
    metadata: MetadataStore, consents: ConsentStore, refused: dict[str, bool], kept: list[str]
) -> None:
    for number, releasing in enumerate(("shop", "forum")):
        save_profile(metadata, profile(releasing=releasing), str(number), NOW)
    save_profile(metadata, profile("bob"), "of bob", NOW)
    consents.record("ada", refused, source="test")
    assert sorted(it.releasing for it in profiles_of(metadata, ["ada"])) == kept
    assert len(profiles_of(metadata, ["bob"])) == 1


def test_another_process_follows_consent_and_withdrawal(metadata: MetadataStore) -> None:
    """A profile that was withdrawn does not come back when consent does."""
    here, there = (
        ConsentStore(metadata, EVERYTHING, clock=lambda: NOW, domains=DOMAINS) for _ in range(2)
    )
    ours, theirs = (CrossedProfiles(metadata, store) for store in (here, there))

    def seen() -> list[int]:
        there.refresh()
        theirs.refresh()
        assert [*ours.of("ada")] == [*theirs.of("ada")]
        return [len(ours.of("ada")), len(ours.of("ada", "device:d")), len(ours.of("bob"))]

    assert ours.save(profile(), "a", NOW)
    assert seen() == [0, 0, 0], "without consent nothing is used"
    here.record("ada", {PAIR: True}, source="test")
    assert seen() == [1, 1, 0]
    here.record("device:d", {PAIR: False}, source="test")
    assert seen() == [1, 0, 0], "a refusal on the device counts there"
    here.record("ada", {PAIR: False}, source="test")
    here.record("ada", {PAIR: True}, source="test")
    assert seen() == [0, 0, 0]
    assert ours.save(profile(), "b", NOW)
    assert seen() == [1, 0, 0]
    assert ours.erase(["ada"]) == 1
    assert len(ours.of("ada")) == 0
    assert ours.save(profile(), "c", NOW)
    ours.expire(NOW)
    assert seen() == [1, 0, 0]
    for process in (ours, theirs):
        process.expire(NOW + 1)
    assert seen() == [0, 0, 0] and profiles_of(metadata, ["ada"]) == []


def test_a_profile_is_used_by_the_agreement_of_its_key_and_of_the_user(
    metadata: MetadataStore, consents: ConsentStore
) -> None:
    """The agreement of a device is not that of the user who logs in there later."""
    stored = CrossedProfiles(metadata, consents)
    consents.record("device:d", {PAIR: True}, source="test")
    assert stored.save(profile("device:d"), "a", NOW)
    assert len(stored.of("device:d")) == 1
    assert len(stored.of("bob", "device:d")) == 0, "bob never decided"
    consents.record("bob", {PAIR: True}, source="test")
    assert stored.of("bob", "device:d") == [profile("device:d")]
    assert stored.save(profile("bob", at=NOW + 1), "b", NOW)
    assert stored.of("bob", "device:d") == [profile("bob", at=NOW + 1)]
    assert stored.save(profile("device:e", at=NOW + 2), "c", NOW)
    assert stored.of("bob", "device:e") == [profile("bob", at=NOW + 1)], "device:e did not agree"


def test_a_refusal_of_a_user_deletes_the_profiles_of_the_devices_in_use(
    metadata: MetadataStore, consents: ConsentStore
) -> None:
    consents.devices_of = lambda person: ["device:d"] if person == "ada" else []
    stored = CrossedProfiles(metadata, consents)
    consents.record("device:d", {PAIR: True}, source="test")
    for person in ("device:d", "device:e"):
        assert stored.save(profile(person), person, NOW)
    consents.record("ada", {PAIR: False}, source="test")
    assert profiles_of(metadata, ["device:d", "device:e"]) == [profile("device:e")]
    assert len(stored.of("device:d")) == 0


def test_a_refusal_beside_the_server_deletes_the_profiles_of_the_devices_in_use(
    metadata: MetadataStore, consents: ConsentStore
) -> None:
    """A command knows no devices: the server deletes; a profile that crossed later stays."""
    consents.devices_of = lambda person: ["device:d", "device:e"] if person == "ada" else []
    beside = ConsentStore(metadata, EVERYTHING, clock=lambda: NOW, domains=DOMAINS)
    stored = CrossedProfiles(metadata, consents)
    devices = ("device:d", "device:e", "device:f")
    consents.record_many({device: {PAIR: True} for device in devices}, source="test")
    for device in devices:
        at = NOW + 1 if device == "device:e" else NOW
        assert stored.save(profile(device, at=at), device, NOW)
    assert stored.save(profile("device:d", "forum"), "forum", NOW)
    beside.record("ada", {PAIR: False}, source="test")
    consents.refresh()
    assert profiles_of(metadata, devices) == [
        profile("device:e", at=NOW + 1),
        profile("device:f"),
        profile("device:d", "forum"),
    ]


def test_profiles_of_a_removed_domain_are_not_used_and_can_be_withdrawn(
    metadata: MetadataStore, consents: ConsentStore
) -> None:
    consents.record("ada", {PAIR: True}, source="test")
    assert CrossedProfiles(metadata, consents).save(profile(), "a", NOW)
    without = DomainSettings(name="magazine", peers={"forum": ["key"]})
    later = ConsentStore(metadata, EVERYTHING, clock=lambda: NOW, domains=without)
    assert len(CrossedProfiles(metadata, later).of("ada")) == 0
    assert training_profiles(metadata, Permissions(later.consents), DOMAINS) == [profile()]
    assert training_profiles(metadata, Permissions(later.consents), without) == []
    described = {"ada": {f"consent.{PAIR}": False, "consent.shop>forum": True}}
    assert later.new_decisions(described) == {"ada": {PAIR: False}}
    later.record("ada", {PAIR: False}, source="test")
    assert profiles_of(metadata, ["ada"]) == []


def test_a_withdrawal_while_a_profile_is_read_ends_it(
    metadata: MetadataStore, consents: ConsentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh has read the profile and not kept it yet when the withdrawal is recorded."""
    stored = CrossedProfiles(metadata, consents)
    consents.record("ada", {PAIR: True}, source="test")
    assert save_profile(metadata, profile(), "a", NOW)
    withdrawal = threading.Thread(
        target=consents.record, args=("ada", {PAIR: False}), kwargs={"source": "test"}
    )

    def slow(*arguments: Any) -> tuple[int, Sequence[CrossedProfile]]:
        result = profiles_after(*arguments)
        withdrawal.start()
        wait_until(lambda: not consents.consents.crosses(PAIR, "ada"))
        return result

    with monkeypatch.context() as patch:
        patch.setattr(crossings, "profiles_after", slow)
        stored.refresh()
    withdrawal.join()
    consents.record("ada", {PAIR: True}, source="test")
    assert len(stored.of("ada")) == 0


def test_an_erasure_in_another_process_ends_the_use_here(
    metadata: MetadataStore, consents: ConsentStore
) -> None:
    erased: list[str] = []
    stored = CrossedProfiles(metadata, consents, erased)
    consents.record_many({"ada": {PAIR: True}, "bob": {PAIR: True}}, source="test")
    for person in ("ada", "bob"):
        assert stored.save(profile(person), person, NOW)
    erase_profiles(metadata, ["ada"])
    erased.append("ada")
    assert len(stored.of("ada")) == 0
    stored.refresh()
    erased.clear()
    assert len(stored.of("ada")) == 0, "the vector has left the memory"
    assert len(stored.of("bob")) == 1
