"""Erasure: suppressed at once, removed from every file, permanently."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.support import (
    Live,
    build,
    killed_after,
    now_ms,
    small_settings,
    view,
    wait_until,
)

from tactful.cli.main import main
from tactful.config.privacy import ConsentSettings
from tactful.config.settings import Settings
from tactful.erasure.erase import preview, request_erasure, run_erasures
from tactful.erasure.offline_stores import RESCALING, find_person, purge_unfinished, purge_webhooks
from tactful.errors import StorageError
from tactful.maintenance.doctor import examine
from tactful.metadata.connections import open_installation
from tactful.metadata.store import MetadataStore
from tactful.server.platform import Platform
from tactful.subjects.erasure_requests import ErasureJobs
from tactful.subjects.export import actions_in
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.subjects.trace_search import SearchResult
from tactful_streaming.contract.log_entries import Event, decode_entry, encode_entry
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.segment import BLANK
from tactful_streaming.sinks.webhook import DeliveryQueue
from tactful_streaming.state.store import RocksState

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 364d, slide: 28d}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: queries, entity: user, event: search, aggregate: last_n, of: properties.query, n: 5}
- {name: visit, entity: session, event: view, aggregate: last_n, of: item_id, n: 5}
- {name: item_views, entity: item, event: view, aggregate: count, window: {size: 364d, slide: 28d}}
- {name: heat, entity: category, event: view, aggregate: distinct_users, sketch: hll,
   window: {size: 364d, slide: 28d}}
- {name: hot, entity: user, sequence: [view, add_to_cart], within: 5m, emit: coupon}
"""


def settings_of(directory: Path) -> Settings:
    settings = small_settings(directory)
    settings.features.write_text(FEATURES)
    return settings


class Tokens:
    """Unique texts, one for each field that can identify a user."""

    def __init__(self, *fields: str) -> None:
        self.of = {field: f"zq{uuid.uuid4().hex}" for field in fields}

    def __getitem__(self, field: str) -> str:
        return self.of[field]

    def needles(self) -> list[bytes]:
        """The tokens in several encodings."""
        found = []
        for token in self.of.values():
            raw = token.encode()
            found += [raw, raw.hex().encode(), raw[::-1], token.encode("utf-16-le")]
            # Base64 has three phases; the middle of each is independent of what stands around.
            for pad in range(3):
                encoded = base64.b64encode(b"\0" * pad + raw)
                found.append(encoded[4 : len(encoded) // 4 * 4 - 4])
        return found


FIELDS = ("user", "device", "session", "event", "recommendation", "query", "page", "email", "item")


def leave_traces(live: Live, tokens: Tokens) -> Any:
    """All kinds of data of a user: description, events, recommendation, coupon."""
    http, at = live.http, now_ms()
    person = {"user_id": tokens["user"], "properties": {"email": tokens["email"]}}
    assert http.put("/v1/users", json=[person]).json()["accepted"] == 1
    common = {
        "timestamp": at - 5_000,
        "item_id": "i-1",
        "session_id": tokens["session"],
        "recommendation_id": tokens["recommendation"],
        "context": {"page": tokens["page"]},
    }
    device = {**common, "device_id": tokens["device"]}
    known = {**device, "user_id": tokens["user"]}
    happened = [
        {**device, "type": "view"},
        {**known, "type": "x.login"},
        {**device, "type": "view"},
        {**known, "type": "view"},
        {**known, "type": "search", "properties": {"query": tokens["query"]}},
        {**known, "type": "add_to_cart", "timestamp": at},
    ]
    sent = [{**it, "event_id": f"{tokens['event']}-{n}"} for n, it in enumerate(happened)]
    told = http.post("/v1/events", json=sent).json()
    assert told["accepted"] == len(sent), told
    asked = {"user_id": tokens["user"], "session_id": tokens["session"], "after": told["position"]}
    assert http.post("/v1/recommend", json=asked).status_code == 200
    return told["position"]


def leave_unfinished(settings: Settings, tokens: Tokens) -> None:
    """States of a backfill and of a rescaling that were killed and never resumed."""
    data = settings.storage.data
    for path in (data / "backfill", data / "partitions.rescaling" / "events-0" / "state"):
        path.mkdir(parents=True)
        engine = Engine(load_definitions(settings.features), RocksState(path))
        users = [(tokens["user"], f"{tokens['event']}-3"), ("other-1", "o")]
        for n, (user, id_) in enumerate(users):
            event = Event(event_id=id_, type="view", timestamp=1, user_id=user, item_id="i")
            engine.apply([(n, encode_entry(event))])
        engine.commit()
        engine.close()


def others(live: Live, first: int = 0) -> Any:
    told: Any = None
    for number in range(first, first + 20):
        event = view(number, f"other-{number % 3}", device_id=f"od-{number % 3}")
        told = live.http.post("/v1/events", json=[event]).json()
        assert told["accepted"] == 1
    return told["position"]


def scan(directory: Path, needles: list[bytes]) -> dict[str, int]:
    """Count the needles in each file and in values of state stores."""
    hits: dict[str, int] = {}

    def search(name: str, data: bytes) -> None:
        if count := sum(needle in data for needle in needles):
            hits[name] = count

    for path in sorted(directory.rglob("*")):
        if path.is_file():
            search(str(path.relative_to(directory)), path.read_bytes())
    for path in sorted(directory.rglob("CURRENT")):
        with contextlib.closing(RocksState(path.parent, read_only=True)) as store:
            values = b"\0".join(part for pair in store.scan(b"") for part in pair)
        search(f"{path.parent.name}: values", values)
    return hits


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


@pytest.fixture
def metadata(settings: Settings) -> Iterator[MetadataStore]:
    settings.storage.data.mkdir(exist_ok=True)
    opened = open_installation(settings)
    yield opened
    opened.close()


def installation_of(settings: Settings, metadata: MetadataStore) -> Installation:
    suppression = open_suppression(settings, metadata, clock=now_ms)
    return Installation(settings, metadata, suppression, now_ms)


def erase(settings: Settings, metadata: MetadataStore, person: str) -> Installation:
    installation = installation_of(settings, metadata)
    request_erasure(installation, person)
    run_erasures(installation)
    return installation


def command(settings: Settings, *arguments: object, **environment: str) -> Result:
    """Run a command on users with the features and the data directory of the settings."""
    words = ["user", *map(str, arguments), "--data", str(settings.storage.data)]
    variables = {"TACTFUL_ENGINE__FEATURES": str(settings.features), **environment}
    return CliRunner().invoke(main, words, env=variables)


@pytest.mark.slow
@pytest.mark.parametrize("rebuild", [False, True])
def test_sentinels_are_found_nowhere_after_an_erasure(
    tmp_path: Path, settings: Settings, metadata: MetadataStore, rebuild: bool
) -> None:
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "i-1", "category": "kitchen"}])
        leave_traces(live, tokens)
        others(live)
        live.http.put(f"/v1/users/{tokens['user']}/consent", json={"purposes": {"marketing": True}})
    names = scan(tmp_path, tokens.needles())
    # The test would be worth nothing if the tokens had not been everywhere.
    assert {name.split("/")[1].split(":")[0] for name in names if "/" in name} >= {"log"}
    assert "state: values" in names
    assert any("metadata" in name for name in names)
    leave_unfinished(settings, tokens)
    installation = installation_of(settings, metadata)
    request_erasure(installation, tokens["user"])
    (receipt,) = run_erasures(installation, rebuild=rebuild)
    metadata.close()
    assert receipt.state == "done"
    with contextlib.closing(RocksState(settings.storage.data / "backfill")) as scratch:
        assert scratch.get(b"euser:other-1") is not None
    assert scan(tmp_path, tokens.needles()) == {}
    verification = receipt.steps[-1]
    assert (verification.place, verification.removed) == ("verification", 0)
    removed = {step.place: step.removed for step in receipt.steps}
    # Six events, the description, the impression and the coupon.
    assert removed["log"] >= 8
    assert removed["consent"] == 1
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/recommend", json={})
        assert live.http.get("/v1/users/other-1/features").json()["features"]["views"] == 7
        for person in (tokens["user"], f"device:{tokens['device']}"):
            assert live.http.get(f"/v1/users/{person}/features").status_code == 404
    assert scan(tmp_path, tokens.needles()) == {}


def test_nothing_comes_back(settings: Settings) -> None:
    """Late events, an offline queue, a description, a decision: all after the erasure."""
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        position = leave_traces(live, tokens)
        live.http.post("/v1/recommend", json={"after": position})
        receipt = live.http.delete(f"/v1/users/{tokens['user']}").json()
        assert receipt["state"] == "requested"
        again = live.http.delete(f"/v1/users/{tokens['user']}").json()
        assert again["receipt"] == receipt["receipt"]
        refused_by(live, tokens, devices=())
    with Live(Platform.open(settings, build)) as live:
        done = live.http.get(f"/v1/erasures/{receipt['receipt']}").json()
        assert (done["state"], done["done_at"] is not None) == ("done", True)
        assert tokens["user"] not in json.dumps(done)
        refused_by(live, tokens, devices=(tokens["device"],))
        assert live.http.get("/v1/erasures/none").status_code == 404
    (log,) = [EmbeddedLog(settings.storage.data / "log", read_only=True)]
    assert all(tokens["user"].encode() not in payload for _, payload in log.read(log.begin, 999))
    log.close()


def is_refused(live: Live, event: dict[str, Any]) -> bool:
    return not live.http.post("/v1/events", json=[event]).json()["accepted"]


def refused_by(live: Live, tokens: Tokens, devices: tuple[str, ...]) -> None:
    sent: list[dict[str, Any]] = [view(1, tokens["user"], timestamp=now_ms() - 86_400_000)]
    for device in devices:
        offline = view(2, device_id=device)
        del offline["user_id"]
        sent += [offline, view(3, "other-1", device_id=device)]
    told = live.http.post("/v1/events", json=sent).json()
    assert told["accepted"] == 0, told
    assert {refusal["code"] for refusal in told["rejected"]} == {"no_consent"}
    person = {"user_id": tokens["user"], "properties": {"consent.service": True}}
    told = live.http.put("/v1/users", json=[person, {"user_id": "other-1"}]).json()
    assert (told["accepted"], [r["index"] for r in told["rejected"]]) == (1, [0])
    said = live.http.put(
        f"/v1/users/{tokens['user']}/consent", json={"purposes": {"service": True}}
    )
    assert said.status_code == 422
    list_ = live.http.post("/v1/recommend", json={"user_id": tokens["user"]}).json()
    assert "personalisation" in list_["fallback"]


def test_a_dry_run_changes_nothing(settings: Settings, metadata: MetadataStore) -> None:
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        said = {"purposes": {"marketing": True}}
        live.http.put(f"/v1/users/{tokens['user']}/consent", json=said)
        beside = preview(installation_of(settings, metadata), tokens["user"])
    before = scan(settings.storage.data, tokens.needles())
    installation = installation_of(settings, metadata)
    result = find_person(installation, tokens["user"])
    traces, steps = result.traces, preview(installation, tokens["user"])
    found = {step.place: step.removed for step in steps}
    assert result.records >= 7
    assert found["log"] == result.records
    assert found["names"] == sum(map(len, (traces.event_ids, traces.sessions, traces.devices)))
    assert found["consent"] == 1
    assert found["state"] >= 1
    assert tokens["user"] not in str(beside)
    assert {step.place for step in beside} == found.keys()
    assert beside[0].removed >= 7, "a server that is at work is no obstacle"
    assert tokens["user"] not in str(steps)
    assert scan(settings.storage.data, tokens.needles()) == before
    assert tokens["user"] not in installation.suppression.suppressed


def test_a_shared_device_keeps_other_events(settings: Settings, metadata: MetadataStore) -> None:
    with Live(Platform.open(settings, build)) as live:
        http = live.http
        for number, user in enumerate(["ada-the-first", None, "bob-the-second", None]):
            event = view(number, type="x.login" if user else "view", device_id="family-tablet")
            told = http.post("/v1/events", json=[{**event, "user_id": user}]).json()
            assert told["accepted"] == 1
        http.post("/v1/recommend", json={"after": told["position"]})
    installation = erase(settings, metadata, "ada-the-first")
    with EmbeddedLog(settings.storage.data / "log") as log:
        left = [payload != BLANK for _, payload in log.read(0, 4)]
    assert left == [False, False, True, True]
    assert "device:family-tablet" not in installation.suppression.suppressed


JOB = """
import pickle, time
from pathlib import Path
from tactful.metadata.connections import open_installation
from tactful.erasure.erase import run_erasures
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression

settings = pickle.loads(Path(sys.argv[1]).read_bytes())

def clock():
    return time.time_ns() // 1_000_000

def work(count):
    step = countdown(count)
    metadata = open_installation(settings)
    suppression = open_suppression(settings, metadata, clock=clock)
    installation = Installation(settings, metadata, suppression, clock)
    run_erasures(installation, say=lambda stage: step())
"""


@pytest.mark.slow
def test_a_job_killed_at_any_stage_is_finished_by_the_next(tmp_path: Path) -> None:
    tokens = Tokens(*FIELDS)
    settings = settings_of(tmp_path)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        others(live)
    metadata = open_installation(settings)
    receipt = request_erasure(installation_of(settings, metadata), tokens["user"])
    written = tmp_path / "settings.pickle"
    written.write_bytes(pickle.dumps(settings))
    kills = 0
    with killed_after(JOB, written) as killed_at:
        while killed_at(kills):
            kills += 1
    assert kills >= 6
    found = installation_of(settings, metadata).jobs.find(receipt.receipt)
    metadata.close()
    assert found is not None
    assert found.state == "done"
    removed = {step.place: step.removed for step in found.steps}
    assert removed["log"] >= 7
    assert removed["state"] > 0
    assert scan(tmp_path, tokens.needles()) == {}


@pytest.mark.slow
def test_a_restored_backup_is_erased_again(tmp_path: Path) -> None:
    apart = tmp_path / "apart"
    apart.mkdir()
    consent = ConsentSettings(tombstones=apart / "tombstones", keyring=apart / "keyring.json")
    settings = replace(settings_of(tmp_path), consent=consent)
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
    shutil.copytree(settings.storage.data, tmp_path / "backup")
    with Live(Platform.open(settings, build)) as live:
        live.http.delete(f"/v1/users/{tokens['user']}")
    Platform.open(settings, build).close()
    assert scan(settings.storage.data, tokens.needles()) == {}
    shutil.rmtree(settings.storage.data)
    shutil.copytree(tmp_path / "backup", settings.storage.data)
    assert scan(settings.storage.data, tokens.needles()) != {}
    Platform.open(settings, build).close()
    assert scan(settings.storage.data, tokens.needles()) == {}


def test_half_a_tombstone_is_none(
    tmp_path: Path, settings: Settings, metadata: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk writes a part of the bytes and returns their number only."""
    stones = tmp_path / "stones"
    settings = replace(settings, consent=replace(settings.consent, tombstones=stones))
    store = open_suppression(settings, metadata, clock=now_ms)
    store.suppress(["first"])
    before, write = stones.read_bytes(), os.write
    with monkeypatch.context() as patched:
        patched.setattr("os.write", lambda handle, data: write(handle, data[:20]))
        with pytest.raises(StorageError, match="disk is full"):
            store.suppress(["second"])
    assert stones.read_bytes() == before
    assert "second" not in store.suppressed
    store.suppress(["third"])
    assert stones.read_bytes().count(b"\n") == 2
    assert store.take_tombstones() == 0


def test_another_keyring_is_refused(settings: Settings, metadata: MetadataStore) -> None:
    installation_of(settings, metadata).suppression.suppress(["ada"])
    settings.keyring.unlink()
    with pytest.raises(OSError, match="not in this keyring"):
        installation_of(settings, metadata)


def test_dead_letters_of_a_person_say_nothing(settings: Settings, metadata: MetadataStore) -> None:
    directory = settings.storage.data / "dead-letters"
    letters = DeadLetters.open(directory)
    for number, user in enumerate(("erased-person", "other-person")):
        event = Event(event_id=f"e-{user}", type="view", timestamp=1, user_id=user)
        where: dict[str, Any] = {"partition": 0, "offset": number}
        letters.add([DeadLetter(payload=encode_entry(event), rule="r", reason="why", **where)])
    letters.close()
    Platform.open(settings, build).close()
    erase(settings, metadata, "erased-person")
    letters = DeadLetters.open(directory, read_only=True)
    found = [letter for _, letter in letters.read()]
    letters.close()
    assert [letter.reason for letter in found] == ["erased", "why"]
    assert found[0].payload == BLANK
    kept = decode_entry(found[1].payload)
    assert isinstance(kept, Event)
    assert kept.user_id == "other-person"


def test_webhooks_of_ids_that_begin_alike_stay(tmp_path: Path) -> None:
    """The calls of shop-85 are exported and removed, and not those of shop-850."""
    events = [
        Event(event_id=f"e-{user}", type="x.coupon", timestamp=1, user_id=user)
        for user in ("shop-85", "shop-850")
    ]
    with contextlib.closing(RocksState(tmp_path / "0")) as store:
        DeliveryQueue(store).add(events, 2)
    found = SearchResult(SubjectIds(users=frozenset({"shop-85"})), frozenset(), 1)
    (action,) = actions_in(tmp_path, found)
    assert "e-shop-850" not in action["action"]
    assert purge_webhooks(tmp_path, found).removed == 1
    with contextlib.closing(RocksState(tmp_path / "0")) as store:
        assert [call.event_id for call in DeliveryQueue(store).due(1, 9)] == ["e-shop-850"]


def test_an_export_holds_everything_that_a_scan_finds(tmp_path: Path, settings: Settings) -> None:
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        live.http.post("/v1/recommend", json={"after": others(live)})
        live.http.put(f"/v1/users/{tokens['user']}/consent", json={"purposes": {"marketing": True}})
        told = live.http.get(f"/v1/users/{tokens['user']}/export")
        assert told.status_code == 200, told.text
        page = live.http.get(f"/v1/users/{tokens['user']}/export", params={"format": "html"})
        assert page.headers["content-type"].startswith("text/html")
    found = told.json()
    with EmbeddedLog(settings.storage.data / "log", read_only=True) as log:
        theirs = [
            offset
            for offset, payload in log.read(log.begin, 10_000)
            if any(token.encode() in payload for token in tokens.of.values())
        ]
    assert [record["offset"] for record in found["records"]] == theirs
    for token in set(tokens.of.values()) - {tokens["item"]}:
        assert token in told.text
        assert token in page.text
    assert "other-1" not in told.text
    assert found["devices"] == [tokens["device"]]
    assert found["description"] == {"email": tokens["email"]}
    assert found["features"][f"user {tokens['user']}"]["views"] == 3
    assert [decision["purposes"] for decision in found["consent"]] == [{"marketing": True}]
    shown = command(settings, "export", tokens["user"], "--to", tmp_path / "out")
    assert shown.exit_code == 0, shown.output
    written = json.loads((tmp_path / "out" / "export.json").read_bytes())
    assert written["records"] == found["records"]
    assert tokens["query"] in (tmp_path / "out" / "export.html").read_text("utf-8")


def test_a_page_shows_text_as_text(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        evil = "<script>alert(1)</script>"
        event = view(1, "ada", properties={evil: evil})
        told = live.http.post("/v1/events", json=[event]).json()
        live.http.post("/v1/recommend", json={"after": told["position"]})
        page = live.http.get("/v1/users/ada/export", params={"format": "html"}).text
    assert "&lt;script&gt;" in page
    assert "<script" not in page


def test_the_command_suppresses_now_and_purges_offline(settings: Settings) -> None:
    """Beside a server the command suppresses; without one it purges."""

    def run(*arguments: str) -> Any:
        shown = command(settings, *arguments, "--json")
        assert shown.exit_code == 0, shown.output
        return json.loads(shown.output)

    with Live(Platform.open(settings, build)) as live:
        assert live.http.post("/v1/events", json=[view(1, "ada-lovelace")]).json()["accepted"] == 1
        assert run("consent", "bob", "--deny", "service")["allowed"] == []
        assert run("erase", "ada-lovelace", "--dry-run")[0]["place"] == "log"
        (waiting,) = run("erase", "ada-lovelace")
        assert waiting["state"] == "requested"
        for person in ("ada-lovelace", "bob"):
            wait_until(partial(is_refused, live, view(2, person)))
    assert run("erase", "ada-lovelace", "--dry-run")[0]["removed"] >= 1
    (done,) = run("erase")
    assert (done["receipt"], done["state"]) == (waiting["receipt"], "done")
    assert run("erase") == []


def test_a_log_that_cannot_be_read_is_told_to_who_erases_again(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        for number in range(3):
            assert live.http.post("/v1/events", json=[view(number)]).status_code == 202
    segment = min((settings.storage.data / "log").glob("*.log"))
    damaged = bytearray(segment.read_bytes())
    damaged[40] ^= 1
    segment.write_bytes(damaged)
    refused = command(settings, "erase", "--again")
    assert refused.exit_code == 1
    assert "damaged" in refused.stderr, refused.exception


def test_the_doctor_tells_of_open_erasures(settings: Settings, metadata: MetadataStore) -> None:
    def said() -> tuple[str, str]:
        (check,) = [check for check in examine(settings) if check.name == "erasures"]
        return check.state, check.said

    assert said() == ("ok", "none waits")
    ErasureJobs(metadata, clock=now_ms).request("ada")
    assert said()[0] == "warning"
    late = ErasureJobs(metadata, clock=lambda: 1_000, days=1.0)
    bob = late.request("bob")
    state, text = said()
    assert (state, "1 of 2 are overdue" in text) == ("failed", True)
    late.forget(bob.receipt, [])  # but the name is still in the files of the database
    assert "1 of 2 are overdue" in said()[1]


def test_a_rebuild_without_a_log_is_refused(settings: Settings, metadata: MetadataStore) -> None:
    Platform.open(settings, build).close()
    installation = installation_of(settings, metadata)
    request_erasure(installation, "ada")
    shutil.rmtree(settings.storage.data / "log")
    with pytest.raises(StorageError, match="no log to compute"):
        run_erasures(installation, rebuild=True)
    assert (settings.storage.data / "state" / "CURRENT").exists()


def test_a_rebuild_from_kafka_is_refused(settings: Settings, metadata: MetadataStore) -> None:
    kafka = {"TACTFUL_LOG__KIND": "kafka", "TACTFUL_LOG__BROKERS": "127.0.0.1:9"}
    shown = command(settings, "erase", "ada", "--rebuild", **kafka)
    assert shown.exit_code != 0
    assert "in Kafka" in str(shown.exception) + shown.output
    assert "ada" not in installation_of(settings, metadata).suppression.suppressed
    assert installation_of(settings, metadata).jobs.waiting() == []


def test_a_note_covers_no_half_rescaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its states are removed: a rescaling that trusted the note would miss some."""
    settings = small_settings(tmp_path)
    data = settings.storage.data
    for number in range(2):
        folder = data / RESCALING[0] / f"events-{number}" / "state"
        folder.mkdir(parents=True)
        RocksState(folder).close()
    (data / RESCALING[1]).write_text("{}")

    def killed(path: Path, **_: Any) -> None:
        removed(path / "events-1")
        raise KeyboardInterrupt

    removed = shutil.rmtree
    traces = SubjectIds(users=frozenset({"ada"}))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            purge_unfinished(settings, load_definitions(settings.features), traces)
    assert not (data / RESCALING[1]).exists()
    step = purge_unfinished(settings, load_definitions(settings.features), traces)
    assert step.removed == 1
    assert not (data / RESCALING[0]).exists()
