"""Texts and short ids of erased users are gone from every store, and a planted one is found."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.platform.erasure.test_erase import (
    FIELDS,
    Tokens,
    installation_of,
    leave_traces,
    others,
    scan,
    settings_of,
)
from tests.platform.erasure.test_running_server import erase
from tests.platform.support import AtOnce, Live, build

from tactful.config.privacy import PrivacySettings, StatisticsSettings
from tactful.config.settings import Settings
from tactful.erasure.erase import request_erasure, run_erasures
from tactful.erasure.verify import still_there
from tactful.metadata.connections import open_installation
from tactful.server.platform import Platform
from tactful.statistics.service import open_statistics
from tactful.subjects.trace_search import SearchResult
from tactful_streaming.contract.log_entries import Event, Item, User, encode_entry
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState

SEARCHES: dict[str, Any] = {
    **{"name": "searches", "event": "search", "by": "event.query", "cap": 3, "count": "users"},
    **{"threshold_delta": "0.000001", "epsilon": "1", "pane": "1d"},
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


def published(settings: Settings, directory: Path, *, sealed: bool) -> Settings:
    """Publish frequent search texts, maybe with a sealed log."""
    path, master = directory / "statistics.yaml", directory / "master.key"
    path.write_text(
        json.dumps({"daily_epsilon": "1", "daily_delta": "0.000001", "statistics": [SEARCHES]})
    )
    master.write_text(bytes(range(32)).hex())
    master.chmod(0o600)
    privacy = PrivacySettings(sealed_log=sealed, master_key_file=master)
    privacy = privacy if sealed else settings.privacy
    return replace(settings, statistics=StatisticsSettings(definitions=path), privacy=privacy)


@contextlib.contextmanager
def served(settings: Settings) -> Any:
    statistics = open_statistics(settings)
    assert statistics is not None
    consumers = statistics.counter.consumers()
    with Live(Platform.open(settings, build, consumers=consumers, statistics=statistics)) as live:
        yield live


@pytest.mark.slow
@pytest.mark.parametrize(("running", "sealed"), [(True, False), (False, True)])
def test_an_erased_persons_search_texts_do_not_stay(
    tmp_path: Path, settings: Settings, running: bool, sealed: bool
) -> None:
    """They stayed in the state of found keys after the receipt said done."""
    settings = published(settings, tmp_path, sealed=sealed)
    tokens = Tokens(*FIELDS)
    with served(settings) as live:
        leave_traces(live, tokens)
        others(live)
        if running:
            receipt = live.http.delete(f"/v1/users/{tokens['user']}").json()["receipt"]
            erase(live.platform, AtOnce())
            assert live.http.get(f"/v1/erasures/{receipt}").json()["state"] == "done"
            assert scan(tmp_path, tokens.needles()) == {}
    if not running:
        with contextlib.closing(RocksState(settings.storage.data / "state", read_only=True)) as s:
            assert any(tokens["query"].encode() in value for _, value in s.scan(b"cstatistics"))
        with contextlib.closing(open_installation(settings)) as metadata:
            installation = installation_of(settings, metadata)
            request_erasure(installation, tokens["user"])
            (done,) = run_erasures(installation)
        assert (done.state, done.steps[-1].removed) == ("done", 0)
    with served(settings) as live:  # the state that is left is whole
        others(live, first=100)
    assert scan(tmp_path, tokens.needles()) == {}


ADA = SearchResult(
    SubjectIds(users=frozenset({"42"}), event_ids=frozenset({"e1"})),
    frozenset(),
    1,
    frozenset({"blue kettle", "zqx", "tea", "gold", "kitchen", "no"}),
)


@pytest.fixture
def erased(settings: Settings) -> Settings:
    """An installation in which others have some of Ada's texts, and things her short id."""
    data = settings.storage.data
    (data / "webhooks").mkdir(parents=True)
    with contextlib.closing(EmbeddedLog(data / "log")) as log:
        log.append([encode_entry(event("o1", "bob", query="tea", pages=["42"]))])
        log.append([encode_entry(Item(item_id="42", timestamp=1, title="no"))])
    with contextlib.closing(RocksState(data / "state")) as state:
        plan = encode_entry(User(user_id="bob", timestamp=1, properties={"plan": "gold"}))
        found = bytes(32) + msgspec.msgpack.encode({"tea": 1, "42": [2]})
        state.write([(b"ubob", plan), (b"eitem:42", msgspec.msgpack.encode({"kitchen": "42"}))])
        state.write([(b"cother", found), (b"ecategory:kitchen", b"\x80")])
        item = encode_entry(Item(item_id="42", timestamp=1, title="kitchen"))
        state.write([(b"i42", item)])
    (data / "champion.json").write_text('{"version": "42", "name": "gold"}')
    return settings


def event(event_id: str, user: str, **properties: Any) -> Event:
    return Event(event_id=event_id, type="search", timestamp=1, user_id=user, properties=properties)


def test_numbers_and_texts_of_others_are_no_false_alarm(erased: Settings) -> None:
    """An item or version 42, and texts that others have, too, are not the erased user's."""
    assert still_there(erased, [ADA]) == []


def write(path: Path, key: bytes, value: bytes) -> None:
    with contextlib.closing(RocksState(path)) as store:
        store.write([(key, value)])


def append(path: Path, record: bytes) -> None:
    with contextlib.closing(EmbeddedLog(path)) as log:
        log.append([record])


HERS = encode_entry(event("e9", "42"))
PLANTED: dict[str, Any] = {
    "found keys": lambda data: write(
        data / "state",
        b"cmore",
        msgspec.msgpack.encode([0, {"s": bytes(32) + msgspec.msgpack.encode([["zqx"]])}]),
    ),
    "groups of an item": lambda data: write(
        data / "state", b"eitem:7", msgspec.msgpack.encode({"n": [["blue kettle"], [1]]})
    ),
    "an unknown part of the state": lambda data: write(data / "state", b"?", b'{"q": "zqx"}'),
    "a user of the state": lambda data: write(data / "state", b"u42", HERS),
    "an event id of the state": lambda data: write(data / "state", b"de1", b"1"),
    "the list of event ids": lambda data: write(
        data / "state", b"g1", msgspec.msgpack.encode(["e1", "e2"])
    ),
    "a record of the log": lambda data: append(data / "log", HERS),
    "a dead letter": lambda data: append(
        data / "dead-letters",
        msgspec.msgpack.encode(
            DeadLetter(payload=HERS, rule="r", reason="x", partition=0, offset=9)
        ),
    ),
    "a webhook's text": lambda data: write(data / "webhooks" / "shop", b"1", b'["blue kettle"]'),
    "a file": lambda data: (data / "report.json").write_text('{"query": "blue kettle"}'),
}


@pytest.mark.parametrize("place", PLANTED)
def test_a_planted_survivor_is_found(erased: Settings, place: str) -> None:
    PLANTED[place](erased.storage.data)
    assert still_there(erased, [ADA]), place
