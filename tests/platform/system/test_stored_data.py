"""Data that earlier versions stored are read unchanged: files, backup, Redis."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.platform.stored.installation import (
    END,
    HERE,
    PEOPLE,
    PREFIX,
    Installation,
    read_all,
    restore,
    stable,
    unpack,
)

from tactful.config.storage import OnlineSettings
from tactful.metadata.connections import open_redis
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.windows.entity_table import read_packed


def recorded(name: str) -> Any:
    """A file of values that were recorded when the installation was made."""
    return json.loads((HERE / name).read_text("utf-8"))


@pytest.fixture(scope="module")
def made() -> Any:
    """Ids and keys that were drawn when the installation was made."""
    return recorded("made.json")


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """The unpacked installation, with its backup beside the data."""
    return unpack(tmp_path / "shop")


def assert_same(installation: Installation, made: Any, expected: Any) -> None:
    """Compare everything that is read from an installation with what was recorded.

    Of the recommendations only the personal ones: others follow popularity alone by now.
    """
    count = len(expected["actions"])
    read = read_all(installation, made, lambda actions: len(actions) >= count)
    for answers in (read, expected):
        answers["recommendations"] = [a for a in answers["recommendations"] if not a["fallback"]]
    assert len(expected["recommendations"]) == 11
    for spend in read["ledger"]["spends"]:  # the field is newer than the installation
        assert spend.pop("epsilon_by_day")
    for rollout in (*read["rollouts"]["experiments"], read["rollout"]["rollout"]):
        assert rollout.pop("stages")
    for item in read["explanation"]["items"]:
        assert item.pop("intent") is None
    assert read["export"].pop("kept_arms") == []
    assert read["export"].pop("crossed_profiles") == []
    assert read["export"]["features"]["user person-03"].pop("lifecycle")["visits"] == 0
    for part, values in expected.items():
        assert read[part] == values, part


@pytest.mark.slow
def test_a_stored_data_directory(installation: Installation, made: Any) -> None:
    """A server on the data directory answers everything as the server that wrote it.

    Anonymous lists have a minimum of people since: a restored copy without it has the same.
    """
    assert_same(installation, made, recorded("expected.json"))


@pytest.mark.slow
def test_a_stored_backup(installation: Installation, made: Any, tmp_path: Path) -> None:
    """A server on the restored backup answers as when it was first restored."""
    restored = restore(installation, tmp_path / "restored")
    assert_same(restored, made, recorded("expected.json") | recorded("expected_restored.json"))


@pytest.fixture
def online(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnlineSettings]:
    """Redis with the stored blobs, under a prefix of the test's own."""
    prefix = f"{PREFIX}-{uuid.uuid4().hex}"
    blobs = recorded("online.json")
    store = redis.Redis.from_url(redis_url)
    for key, blob in blobs.items():
        store.set(prefix + key, base64.b64decode(blob))
    monkeypatch.setenv("STORED_REDIS", redis_url)
    yield OnlineSettings(kind="redis", url_env="STORED_REDIS", prefix=prefix)
    for key in blobs:
        store.delete(prefix + key)


def test_stored_blobs_in_redis(online: OnlineSettings) -> None:
    """Features read from the blobs are those that the server returned."""
    definitions = load_definitions(HERE / "configuration" / "features.yaml")
    store = open_redis(online, definitions)
    blobs = dict(zip(PEOPLE, store.get_many(PEOPLE), strict=True))
    assert store.marked(0) is not None
    store.close()
    features = definitions.of_entity("user")
    for person, values in recorded("expected.json")["features"].items():
        read = read_packed(features, blobs[person], END)
        assert set(read) == {feature.name for feature in features}
        same = {name: values[name] for name in read}
        assert stable(json.loads(json.dumps(read))) == same, person
