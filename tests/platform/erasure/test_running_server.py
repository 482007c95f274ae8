"""Erasure from the log of a running server, without effect on other users."""

from __future__ import annotations

import contextlib
import pickle
import shutil
import threading
from concurrent.futures import Executor, Future
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.platform.erasure.test_erase import (
    FIELDS,
    Tokens,
    leave_traces,
    leave_unfinished,
    others,
    scan,
    settings_of,
)
from tests.platform.support import AtOnce, Live, build, killed_after, view

from tactful.config.privacy import RetentionSettings
from tactful.config.settings import Settings
from tactful.erasure.erase import request_erasure
from tactful.erasure.running_server import OnlineErasures
from tactful.errors import StorageError
from tactful.event_log.encryption import log_in_files
from tactful.maintenance.retention import Retention
from tactful.metadata.connections import open_installation
from tactful.models.training_run import open_training_log
from tactful.server.platform import Platform
from tactful.subjects.installation import Installation
from tactful.subjects.suppression import open_suppression
from tactful.util.checkpoint import Checkpoint
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import draft_segment, redact
from tactful_streaming.log.segment import BLANK


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path)


def erase(platform: Platform, executor: Executor | None) -> None:
    """Run the server's own job until it has nothing left to do."""
    own = platform.online_erasures
    installation = own._installation
    now = installation.clock()
    own._executor = executor
    for later in range(0, 20_000, 3_000):
        own._installation = replace(installation, clock=partial(int, now + later))
        if own.run():
            return
    pytest.fail("the job did not come to an end")


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_log_is_rewritten_online(tmp_path: Path, settings: Settings, apart: bool) -> None:
    tokens = Tokens(*FIELDS)
    leave_unfinished(settings, tokens)
    log = settings.storage.data / "log"
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        others(live)
        follower = EmbeddedLog(log, read_only=True)
        before = follower.read(0, 1_000)
        receipt = live.http.delete(f"/v1/users/{tokens['user']}").json()["receipt"]
        stop = threading.Event()
        accepted: list[int] = []

        def send() -> None:
            number = 1_000
            while not stop.is_set():
                event = view(number, "other-9", device_id="od-9")
                told = live.http.post("/v1/events", json=[event]).json()
                accepted.append(told["accepted"])
                number += 1

        counts_without: list[SubjectIds] = []
        remember: Any = counts_without.append
        live.platform.rollout_controller.forget = remember  # type: ignore[method-assign]
        sender = threading.Thread(target=send)
        sender.start()
        try:
            erase(live.platform, None if apart else AtOnce())
        finally:
            stop.set()
            sender.join()
        assert scan(log, tokens.needles()) == {}
        assert tokens["user"] in counts_without[0].users
        told = live.http.get(f"/v1/erasures/{receipt}").json()
        assert told["state"] == "done"
        removed = {step["place"]: step["removed"] for step in told["steps"]}
        assert removed["log"] >= 8
        assert removed["verification"] == 0
        assert removed["state"] >= 10  # features, a visit, links, a description, event ids
        assert removed["explanations"] == 1
        assert removed.keys() >= {"models", "webhooks", "consent", "dead-letters"}
        assert all(step["at"] >= told["requested_at"] for step in told["steps"])
        assert scan(tmp_path, tokens.needles()) == {}
        # Who followed the log follows it still, and sees what is there now.
        after = follower.read(0, follower.end)
        assert [offset for offset, _ in after] == list(range(len(after)))
        follower.close()
        kept = [payload for _, payload in before if tokens["user"].encode() not in payload]
        assert [p for _, p in after[: len(before)] if p != BLANK] == [
            p for p in kept if tokens["device"].encode() not in p
        ]
        assert set(accepted) == {1}
        live.http.post("/v1/recommend", json={"after": len(after)})
        views = live.http.get("/v1/users/other-9/features").json()["features"]["views"]
        assert views == len(accepted)
    with Live(Platform.open(settings, build)) as live:
        told = live.http.get(f"/v1/erasures/{receipt}").json()
        assert told["state"] == "done"
        assert {step["place"]: step["removed"] for step in told["steps"]} == removed
        views = live.http.get("/v1/users/other-9/features").json()["features"]["views"]
        assert views == len(accepted)
    assert scan(tmp_path, tokens.needles()) == {}


@pytest.mark.slow
def test_a_training_that_begins_meanwhile_does_not_read_them(settings: Settings) -> None:
    """It could between the check for unfinished trainings and the rewriting of the log."""
    tokens = Tokens(*FIELDS)
    read: list[list[bytes]] = []

    def train(stage: str) -> None:
        if stage == "find":
            with open_training_log(settings) as (log, _), log_in_files(settings, clock=int) as raw:
                read.extend([p for _, p in each.read(0, 10_000)] for each in (log, raw))

    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        others(live)
        live.http.delete(f"/v1/users/{tokens['user']}")
        live.platform.online_erasures._say = train
        erase(live.platform, AtOnce())
    permitted, raw = read
    names = [tokens[field].encode() for field in ("user", "device")]
    assert sum(any(name in payload for name in names) for payload in raw) >= 8
    assert not [payload for payload in permitted if any(name in payload for name in names)]
    assert sum(b"other-" in payload for payload in permitted) >= 5


@pytest.mark.slow
def test_an_erasure_waits_for_a_training_with_its_devices(settings: Settings) -> None:
    """A training that began before the devices were suppressed delays the erasure."""
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live, contextlib.ExitStack() as training:
        leave_traces(live, tokens)
        receipt = live.http.delete(f"/v1/users/{tokens['user']}").json()["receipt"]
        running = live.platform.online_erasures._running
        assert running is not None
        settle = running.settle

        def begin() -> None:
            if not training._exit_callbacks:  # type: ignore[attr-defined]
                training.enter_context(Checkpoint.hold(settings.models / "training"))
            settle()

        running.settle = begin  # type: ignore[method-assign]
        with pytest.raises(StorageError, match="another process trains"):
            erase(live.platform, AtOnce())
        assert live.http.get(f"/v1/erasures/{receipt}").json()["state"] == "requested"
        running.settle = settle  # type: ignore[method-assign]
        training.close()
        erase(live.platform, AtOnce())
        assert live.http.get(f"/v1/erasures/{receipt}").json()["state"] == "done"


def test_retention_does_not_restore_erased_records(settings: Settings) -> None:
    """Retention and erasure rewrite the same segment at the same time."""
    day = 86_400_000
    now = [0]
    settings = replace(settings, retention=RetentionSettings(impressions_days=40))
    settings.storage.data.mkdir()

    class Overtaken(AtOnce):
        """Returns its draft after the erasure has made its own."""

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            done = super().submit(fn, *args, **kwargs)
            eraser.start()
            eraser.join(timeout=0.5)
            return done

    with (
        EmbeddedLog(settings.storage.data / "log", clock=lambda: now[0]) as log,
        contextlib.closing(open_installation(settings)) as metadata,
    ):
        for type_, user in (("impression", "bob"), ("view", "ada-1815")):
            event = Event(event_id=f"{type_}-1", type=type_, timestamp=0, user_id=user)
            log.append([encode_entry(event)])
        suppression = open_suppression(settings, metadata, clock=lambda: now[0])
        installation = Installation(settings, metadata, suppression, lambda: now[0])
        request_erasure(installation, "ada-1815")
        erasures = OnlineErasures(installation, {"log": log}, executor=AtOnce())
        assert erasures.run() == 0
        now[0] = 90 * day
        counts: list[int] = []
        eraser = threading.Thread(target=lambda: counts.append(erasures.run()))
        retention = Retention(settings, log, executor=Overtaken(), clock=lambda: now[0])
        assert retention.run(log.end) == 1
        eraser.join()
        assert counts == [1]
        assert log.read(0, 9) == [(0, BLANK), (1, BLANK)]
    assert scan(settings.storage.data / "log", [b"ada-1815", b"bob"]) == {}


def test_drafts_are_apart_and_none_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedLog(tmp_path, durability="process") as log:
        log.append([b"of ada", b"of bob"])
        (segment,) = log.seal()
        orphaned, _ = draft_segment(segment, [b"bob"], lambda offset, payload: BLANK)
        monkeypatch.setattr("os.getpid", lambda: 1)
        draft, _ = draft_segment(segment, [b"ada"], lambda offset, payload: BLANK)
        assert draft is not None and orphaned is not None and draft != orphaned
        assert log.adopt(draft)
        assert log.read(0, 9) == [(0, BLANK), (1, b"of bob")]
        assert orphaned.exists()
    with EmbeddedLog(tmp_path) as log:
        assert log.read(0, 9) == [(0, BLANK), (1, b"of bob")]
        assert not orphaned.exists()


def test_a_segment_that_retention_removed_is_not_brought_back(tmp_path: Path) -> None:
    now = [0]
    kept: dict[str, Any] = {"segment_bytes": 1, "retention_ms": 10, "durability": "process"}
    with EmbeddedLog(tmp_path, **kept, clock=lambda: now[0]) as log:
        log.append([b"of ada"])
        (first, *_) = log.seal()
        draft, count = draft_segment(first, [b"ada"], lambda offset, payload: BLANK)
        assert draft is not None
        assert count == 1
        log.append([b"of bob"])
        log.append([b"of eve"])
        now[0] = 1_000
        log.trim(log.end)
        assert log.begin > 0
        assert not log.adopt(draft)
        assert not draft.exists()
        assert not first.exists()


def test_readers_of_all_kinds_see_old_or_new_and_nothing_else(tmp_path: Path) -> None:
    """While segments are rewritten again and again, each record is whole and at its offset."""
    payloads = [b"record %d of %s" % (n, b"ada" if n % 3 else b"bob") for n in range(3_000)]
    with EmbeddedLog(tmp_path, segment_bytes=4_096, durability="process") as log:
        for start in range(0, len(payloads), 50):
            log.append(payloads[start : start + 50])
        problems: list[str] = []
        stop = threading.Event()

        def read(reader: EmbeddedLog) -> None:
            rounds = 0
            while not (stop.is_set() and rounds):
                rounds += 1
                for start in range(0, 3_000, 170):
                    for offset, payload in reader.read(start, 200):
                        if offset < 3_000 and payload not in (payloads[offset], BLANK):
                            problems.append(f"{offset}: {payload!r}")

        outside = EmbeddedLog(tmp_path, read_only=True)
        threads = [threading.Thread(target=read, args=(reader,)) for reader in (log, outside)]
        for thread in threads:
            thread.start()
        for needle in (b"ada", b"bob"):
            for segment in log.seal():
                draft, _ = draft_segment(segment, [needle], lambda offset, payload: BLANK)
                if draft is not None:
                    assert log.adopt(draft)
            log.append([b"later"])
        stop.set()
        for thread in threads:
            thread.join()
        assert problems == []
        assert [p for _, p in log.read(0, 3_000)] == [BLANK] * 3_000
        assert outside.end == log.end  # which lets it follow
        assert [p for _, p in outside.read(0, 3_000)] == [BLANK] * 3_000
        outside.close()
    with EmbeddedLog(tmp_path) as log:
        assert [p for _, p in log.read(0, 3_000)] == [BLANK] * 3_000


WORK = """
from pathlib import Path
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import draft_segment
from tactful_streaming.log.segment import BLANK

def work(count):
    sys.addaudithook(countdown(count))
    with EmbeddedLog(Path(sys.argv[1])) as log:
        for segment in log.seal():
            draft, _ = draft_segment(segment, [b"ada"], lambda offset, payload: BLANK)
            if draft is not None:
                log.adopt(draft)
"""


def test_a_rewriting_that_is_killed_anywhere_leaves_a_whole_log(tmp_path: Path) -> None:
    payloads = [b"record %d of %s" % (n, b"ada" if n % 3 else b"bob") for n in range(300)]
    with EmbeddedLog(tmp_path, segment_bytes=2_048) as log:
        for start in range(0, 300, 30):
            log.append(payloads[start : start + 30])
    wanted = [BLANK if b"ada" in payload else payload for payload in payloads]
    kills = 0
    with killed_after(WORK, tmp_path) as killed_at:
        while killed_at(kills):
            kills += 1
            with EmbeddedLog(tmp_path, read_only=True) as log:
                found = [payload for _, payload in log.read(0, 300)]
            assert all(f in (p, w) for f, p, w in zip(found, payloads, wanted, strict=True))
    assert kills >= 8
    with EmbeddedLog(tmp_path) as log:
        assert [payload for _, payload in log.read(0, 300)] == wanted
    redact(tmp_path, [b"nobody"], lambda offset, payload: None)
    assert list(tmp_path.glob("*.redacting")) == []


@pytest.mark.slow
def test_the_last_search_finds_late_records(tmp_path: Path, settings: Settings) -> None:
    """Another process may have accepted it: the verification finds and removes it."""
    tokens = Tokens(*FIELDS)
    late = Event(event_id="late-one", type="view", timestamp=1, user_id=tokens["user"])
    stages: list[str] = []
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        receipt = live.http.delete(f"/v1/users/{tokens['user']}").json()["receipt"]

        def say(stage: str) -> None:
            if stage == "consent" and stage not in stages:
                live.platform.backend.written["log"].append([encode_entry(late)])
            stages.append(stage)

        live.platform.online_erasures._say = say
        erase(live.platform, AtOnce())
        told = live.http.get(f"/v1/erasures/{receipt}").json()
        assert scan(tmp_path, tokens.needles()) == {}
    assert told["state"] == "done"
    assert {step["place"]: step["removed"] for step in told["steps"]}["verification"] == 0
    assert stages.count("consent") == 2


@pytest.mark.slow
def test_several_users_are_verified_together(tmp_path: Path, settings: Settings) -> None:
    """Each user has a receipt of their own."""
    people = [Tokens(*FIELDS) for _ in range(3)]
    with Live(Platform.open(settings, build)) as live:
        for tokens in people:
            leave_traces(live, tokens)
        told = [live.http.delete(f"/v1/users/{tokens['user']}").json() for tokens in people]
        receipts = [erasure["receipt"] for erasure in told]
    with Live(Platform.open(settings, build)) as live:
        for receipt in receipts:
            told = live.http.get(f"/v1/erasures/{receipt}").json()
            removed = {step["place"]: step["removed"] for step in told["steps"]}
            assert (told["state"], removed["verification"]) == ("done", 0)
            assert removed["log"] >= 8
    for tokens in people:
        assert scan(tmp_path, tokens.needles()) == {}
    assert list((settings.storage.data / "erasures").iterdir()) == []


SERVER = """
import pickle, time
from dataclasses import replace
from pathlib import Path
from support import AtOnce, Live, build
from tactful.server.platform import Platform

settings, person = pickle.loads(Path(sys.argv[1]).read_bytes())

def work(count):
    step = countdown(count)
    with Live(Platform.open(settings, build)) as live:
        told = live.http.delete(f"/v1/users/{person}").json()
        Path(sys.argv[1] + ".receipt").write_text(told["receipt"])
        own = live.platform.online_erasures
        own._executor, own._say = AtOnce(), lambda stage: step()
        now, installation = time.time_ns() // 1_000_000, own._installation
        for later in range(0, 30_000, 3_000):
            own._installation = replace(installation, clock=lambda later=later: now + later)
            if own.run():
                break
"""


@pytest.mark.slow
def test_an_erasure_resumes_after_a_kill_at_any_step(tmp_path: Path, settings: Settings) -> None:
    """The next server completes the erasure of a killed one."""
    tokens = Tokens(*FIELDS)
    with Live(Platform.open(settings, build)) as live:
        leave_traces(live, tokens)
        live.http.post("/v1/recommend", json={"after": others(live)})
    written = tmp_path.with_name(f"{tmp_path.name}.pickle")
    written.write_bytes(pickle.dumps((settings, tokens["user"])))
    kills = 0
    kept = tmp_path.with_name(f"{tmp_path.name}.kept")
    shutil.copytree(tmp_path, kept)
    with killed_after(SERVER, written) as killed_at:
        while killed_at(kills):
            kills += 1
            receipt = Path(f"{written}.receipt").read_text()
            # The next server finds the rest before its door opens.
            with Live(Platform.open(settings, build)) as live:
                told = live.http.get(f"/v1/erasures/{receipt}").json()
                assert (told["state"], told["steps"][-1]["removed"]) == ("done", 0)
                assert scan(tmp_path, tokens.needles()) == {}
                live.http.post("/v1/recommend", json={})
                answer = live.http.get("/v1/users/other-1/features").json()
                assert answer["features"]["views"] == 7
            shutil.rmtree(tmp_path)
            shutil.copytree(kept, tmp_path)
    assert kills >= 10


def test_ids_that_begin_like_others_are_distinguished(settings: Settings) -> None:
    """The receipt of shop-85 is complete although shop-850 stays in log and state."""
    erased = {"device_id": "device-85", "session_id": "visit-85"}
    kept = {"device_id": "device-850", "session_id": "visit-850"}
    with Live(Platform.open(settings, build)) as live:
        events = [view(n, "shop-850", **kept) for n in (850, 8501)]
        events.insert(0, view(85, "shop-85", **erased))
        position = live.http.post("/v1/events", json=events).json()["position"]
        live.http.post("/v1/recommend", json={"user_id": "shop-850", "after": position})
        receipt = live.http.delete("/v1/users/shop-85").json()["receipt"]
        erase(live.platform, AtOnce())
        answer = live.http.get(f"/v1/erasures/{receipt}").json()
        assert answer["state"] == "done"
        assert answer["steps"][-1]["removed"] == 0
        features = live.http.get("/v1/users/shop-850/features").json()["features"]
        assert features["views"] == 2


def test_ids_of_others_that_contain_the_erased_one_hold_nothing_up(settings: Settings) -> None:
    """A longer id, a text, a device or event id of others with the same name blocked receipts."""
    with Live(Platform.open(settings, build)) as live:
        events = [
            view(1, "ada.love", event_id="order-1"),
            view(2, "ada.love@example.com", event_id="order-1", session_id="from ada.love"),
            view(3, "eve-17", event_id="x", properties={"q": "ada.love"}),
            view(4, "eve-17", event_id="y", device_id="ada.love"),
        ]
        assert live.http.post("/v1/events", json=events).json()["accepted"] == 4
        receipt = live.http.delete("/v1/users/ada.love").json()["receipt"]
        erase(live.platform, AtOnce())
        told = live.http.get(f"/v1/erasures/{receipt}").json()
        assert (told["state"], told["steps"][-1]["removed"]) == ("done", 0)
        others_too = live.http.get("/v1/users/ada.love%40example.com/features")
        assert others_too.status_code == 200
