"""Profiles that are issued and taken over while something else changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

from tactful.catalogue.ids import ItemIds
from tactful.config.domains import DomainSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.domains.bridge import Bridge, Embedding
from tactful.domains.keys import DomainKey, make_keys
from tactful.domains.tokens import Profile, seal
from tactful.metadata.crossed_profiles import CrossedProfile, profiles_of
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.recall.crossings import Crossings, OwnProfiles, TrainedBridge
from tactful.recall.index import RecallIndex, empty_index
from tactful.schemas.problems import ProblemError
from tactful.schemas.subjects.domains import NewCrossing, ProfileOwner
from tactful.server.domains import DomainProfiles
from tactful.subjects.consent import ConsentStore
from tactful.subjects.permissions import Permissions
from tactful_privacy.people.consent import EVERYTHING

NOW = 1_796_131_843_000
TO, BACK = "shop>magazine", "magazine>shop"


def index_of(ids: list[str], version: str, reads: str = "") -> RecallIndex:
    """Make a model in which the n-th item has the n-th direction, and that reads a version."""
    embedding = Embedding(np.ones(len(ids)), np.eye(len(ids)))
    rows = np.arange(0, dtype=np.int32)
    bridge = Bridge(np.zeros(1), np.zeros(0), np.zeros((1, 0)))
    bridges = [TrainedBridge("shop", reads, 50, rows, bridge)] if reads else []
    crossings = Crossings(OwnProfiles(version, 1), embedding, bridges)
    return replace(empty_index(), item_ids=ItemIds.of(ids), crossings=crossings)


class Served:
    """The magazine as far as profiles that cross need it, and the keys of the shop."""

    def __init__(self, folder: Path, metadata: MetadataStore) -> None:
        self.own = make_keys(folder / "domain.keys", NOW)[0]
        self.shop: DomainKey = make_keys(folder / "shop.keys", NOW)[0]
        peers = {name: [self.shop.public] for name in ("shop", "forum")}
        settings = Settings(
            storage=StorageSettings(data=folder),
            domains=DomainSettings(name="magazine", peers=peers),
        )
        self.metadata = metadata
        self.consents = self.opened(settings.domains)
        self.elsewhere = self.opened(settings.domains)  # another process
        self.erased: list[str] = []
        self.holders: dict[str, str] = {}
        self.recorded: Callable[[], None] = lambda: None  # between the check and the storage
        self.features: dict[str, float] = {}
        self.recommender = SimpleNamespace(trained_index=index_of(["a", "b", "c"], "v1"))
        installation = SimpleNamespace(settings=settings, clock=lambda: NOW, metadata=metadata)

        def resolve(key: str, at: int) -> str:
            return self.holders.get(key, key)

        platform: Any = SimpleNamespace(
            resources=SimpleNamespace(installation=installation),
            consents=self.consents,
            suppression=SimpleNamespace(suppressed=self.erased, refresh=lambda: None),
            permissions=Permissions(self.consents.consents, resolve, self.erased),
            accesses=SimpleNamespace(record=lambda *_, **__: self.recorded()),
            recommender=self.recommender,
            lock=contextlib.nullcontext(),
            check=lambda: None,
            engine=SimpleNamespace(
                resolve=resolve,
                devices_of=lambda user: [
                    key.removeprefix("device:") for key in self.holders if self.holders[key] == user
                ],
            ),
            backend=SimpleNamespace(source=SimpleNamespace(read=self.read)),
        )
        self.domains = DomainProfiles(platform)

    def opened(self, domains: DomainSettings) -> ConsentStore:
        return ConsentStore(self.metadata, EVERYTHING, clock=lambda: NOW, domains=domains)

    def read(self, entity: str, key: str, at: int) -> dict[str, Any]:
        self.recorded()
        return {"taken_364d": self.features}

    def token(self, token_id: str, releasing: str = "shop") -> str:
        profile = Profile(
            token_id=token_id.ljust(16, "-"),
            releasing=releasing,
            receiving="magazine",
            embedding="v1",
            issued_at=NOW,
            expires_at=NOW + 1000,
            vector=(0.25, -0.5),
        )
        public = self.own.encryption.public_key()
        return seal(
            profile, self.shop.signing, X25519PublicKey.from_public_bytes(public.public_bytes_raw())
        )

    def take(self, token_id: str, peer: str = "shop", **owner: str) -> None:
        new = NewCrossing(token=self.token(token_id, peer), **owner)
        self.domains.take(peer, new, None, by="test")

    def kept(self, *people: str) -> list[tuple[str, str]]:
        """Read who has a profile of which domain."""
        return [(it.person, it.releasing) for it in profiles_of(self.metadata, people)]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with closing(open_metadata(tmp_path / "metadata.db", clock=lambda: NOW)) as metadata:
        yield Served(tmp_path, metadata)


def test_the_agreement_of_a_device_moves_no_profile_of_its_later_user(served: Served) -> None:
    """A visitor agreed on a tablet; bob, who never decided, logs in there."""
    for pair in (TO, BACK):
        served.consents.record("device:d", {pair: True}, source="test")
    served.features = {"a": 1.0}
    owner = ProfileOwner(device_id="d")
    served.take("before", device_id="d")
    assert served.domains.issue("shop", owner, None, "test").token
    served.holders["device:d"] = "bob"
    with pytest.raises(ProblemError, match="did not consent"):
        served.domains.issue("shop", owner, None, "test")
    with pytest.raises(ProblemError, match="did not consent"):
        served.take("after", device_id="d")
    assert served.kept("bob") == [] and not served.domains.profiles_of("bob", "d", NOW)
    served.consents.record("bob", {TO: True, BACK: True}, source="test")
    assert served.domains.issue("shop", owner, None, "test").token
    served.take("agreed", device_id="d")
    assert served.kept("bob") == [("bob", "shop")]


def test_a_withdrawal_by_a_user_deletes_what_came_by_the_device_in_use(served: Served) -> None:
    for device in ("d", "e"):
        served.consents.record(f"device:{device}", {TO: True}, source="test")
        served.take(device, device_id=device)
    served.holders = {"device:d": "ada", "device:e": "bob"}
    served.consents.record("ada", {TO: False}, source="test")
    assert served.kept("device:d", "device:e") == [("device:e", "shop")]


def test_a_withdrawal_while_a_profile_is_taken_over_ends_it(served: Served) -> None:
    """Another process records the withdrawal after the check here, and before the storage."""
    for person, pair in (("ada", TO), ("ada", "forum>magazine"), ("device:d", TO)):
        served.consents.record(person, {pair: True}, source="test")
    served.take("forum", "forum", user_id="ada")
    served.take("device", device_id="d")
    served.recorded = lambda: served.elsewhere.record("ada", {TO: False}, source="test")
    with pytest.raises(ProblemError, match="or withdrew"):
        served.take("shop", user_id="ada", device_id="d")
    people = ("ada", "device:d")
    assert served.kept(*people) == [("ada", "forum"), ("device:d", "shop")], "and no other one"
    served.elsewhere.record("ada", {TO: True}, source="test")
    served.consents.refresh()
    assert [it.releasing for it in served.domains.stored.of("ada")] == ["forum"]


def test_an_erasure_while_a_profile_is_taken_over_ends_it(served: Served) -> None:
    served.consents.record("ada", {TO: True}, source="test")
    served.recorded = lambda: served.erased.append("ada")
    with pytest.raises(ProblemError, match="did not consent"):
        served.take("shop", user_id="ada")
    assert served.kept("ada") == []


def test_a_new_model_between_two_reads_changes_no_profile(served: Served) -> None:
    """Rows and directions are of one model, also if the next one begins to serve meanwhile."""
    served.features = {"c": 1.0}
    before = served.domains._vector("ada", NOW)
    assert before == ((0.0, 0.0, 1.0), "v1")

    def promote() -> None:
        served.recommender.trained_index = index_of(["c", "a", "b", "d"], "v2")

    served.recorded = promote
    assert served.domains._vector("ada", NOW) == before
    assert served.domains._vector("ada", NOW) == ((1.0, 0.0, 0.0, 0.0), "v2")


def test_an_old_profile_that_no_bridge_reads_is_deleted(served: Served) -> None:
    day, people = 86_400_000, ("ada", "bob", "eve")
    at = {"ada": ("read", 400), "bob": ("unread", 400), "eve": ("unread", 300)}
    for person, (version, days) in at.items():
        crossed = CrossedProfile(person, "shop", version, NOW - days * day, (0.5,))
        assert served.domains.stored.save(crossed, person, NOW)
    served.domains.expire(None)
    assert len(served.kept(*people)) == 3, "without a model nobody knows which are read"
    served.recommender.trained_index = index_of(["a", "b"], "v1", reads="read")
    served.domains.expire(None)
    assert served.kept(*people) == [("ada", "shop"), ("eve", "shop")]
    served.domains.expire(350 * day)
    assert served.kept(*people) == [("eve", "shop")]
