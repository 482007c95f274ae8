"""Retention by purpose blanks old records and no others."""

from __future__ import annotations

import contextlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import settings as settings_
from hypothesis import strategies as st
from tests.platform.erasure.test_erase import settings_of
from tests.platform.support import AtOnce, Live, build, killed_after, now_ms, view

from tactful.config.privacy import PrivacySettings, RetentionSettings
from tactful.config.settings import Settings
from tactful.config.storage import LogSettings
from tactful.errors import ConfigError
from tactful.maintenance.doctor import examine
from tactful.maintenance.retention import PROGRESS, Retention, expire_state, kind_of, read_progress
from tactful.metadata.connections import open_installation
from tactful.metadata.tables import coupon_offers
from tactful.models.audit_log import ModelLog
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import (
    Event,
    Item,
    Link,
    Restricted,
    Tick,
    User,
    encode_entry,
)
from tactful_streaming.log.dead_letters import DeadLetter, DeadLetters
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.segment import BLANK
from tactful_streaming.state.store import RocksState

DAY_MS = 86_400_000
MEASUREMENT, IMPRESSIONS, PERSONALISATION = 16, 40, 60
KEPT = RetentionSettings(
    personalisation_days=PERSONALISATION,
    measurement_days=MEASUREMENT,
    impressions_days=IMPRESSIONS,
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = settings_of(tmp_path)
    made.storage.data.mkdir()
    return replace(made, retention=KEPT)


def test_expired_coupon_decisions_are_deleted(settings: Settings) -> None:
    settings = replace(settings, retention=RetentionSettings(personalisation_days=40))
    settings.storage.data.mkdir(exist_ok=True)
    rows = [
        ("old", 10, "expired"),
        ("used", 11, "redeemed"),
        ("never", 12, "withheld"),
        ("open", 13, "offered"),  # its budget has yet to get back what it set aside
        ("late", 60, "expired"),
    ]
    with (
        contextlib.closing(open_installation(settings)) as metadata,
        EmbeddedLog(settings.storage.data / "log", clock=lambda: 0) as log,
    ):
        same = {"campaign": "c", "decision": "{}", "cost": 1.0}
        values = [
            {**same, "code": code, "expires_at": day * DAY_MS, "state": state}
            for code, day, state in rows
        ]
        metadata.change(lambda connection: connection.execute(sa.insert(coupon_offers), values))
        job = Retention(settings, log, metadata=metadata, clock=lambda: 90 * DAY_MS)
        job.run(log.end)
        left = metadata.fetch(sa.select(coupon_offers.c.code).order_by(coupon_offers.c.code))
        assert [row.code for row in left] == ["late", "open"]


def event(day: int, type_: str = "view") -> Event:
    return Event(event_id=f"{type_}-{day}", type=type_, timestamp=day * DAY_MS, user_id="ada")


def restricted(purpose: str, about: Event) -> Restricted:
    return Restricted(timestamp=1, purposes=(purpose,), event=about)


ENTRIES: list[tuple[Any, int | None]] = [
    (lambda day: event(day), PERSONALISATION),
    (lambda day: event(day, "impression"), IMPRESSIONS),
    (lambda day: restricted("measurement", event(day, "click")), MEASUREMENT),
    (lambda day: restricted("personalisation", event(day, "purchase")), PERSONALISATION),
    (lambda day: User(user_id="ada", timestamp=1), PERSONALISATION),
    (lambda day: Link(user_id="ada", device_id="d", timestamp=1), PERSONALISATION),
    (lambda day: Item(item_id="i", timestamp=1), None),
    (lambda day: Tick(timestamp=day * DAY_MS), None),
]


def entry(number: int, day: int) -> bytes:
    made: Any = ENTRIES[number][0](day)
    return encode_entry(made)


@settings_(max_examples=8, deadline=None)
@given(
    looks=st.lists(st.integers(0, 90), min_size=1, max_size=5).map(sorted),
    days=st.lists(st.integers(0, 90), min_size=1, max_size=12).map(sorted),
)
def test_records_stay_a_sixteenth_beyond_their_time(
    tmp_path_factory: pytest.TempPathFactory, looks: list[int], days: list[int]
) -> None:
    """Runs at any time, compared with the age of each record."""
    directory = tmp_path_factory.mktemp("kept")
    settings = replace(settings_of(directory), retention=KEPT)
    settings.storage.data.mkdir()
    now = [0]
    slack = MEASUREMENT / 16 + 1
    received: list[tuple[int, int]] = []
    moments = sorted({*((day, "look") for day in looks), *((day, "write") for day in days)})
    place = settings.storage.data / "log"
    with EmbeddedLog(place, durability="process", clock=lambda: now[0]) as log:
        job = Retention(settings, log, executor=AtOnce(), clock=lambda: now[0])
        for day in range(max(*looks, *days, 1) + 1):
            now[0] = day * DAY_MS
            if (day, "write") in moments:
                for number in range(len(ENTRIES)):
                    log.append([entry(number, day)])
                    received.append((number, day))
            job.run(log.end)
            if (day, "look") in moments:
                for (_, payload), (number, at) in zip(log.read(0, 10_000), received, strict=True):
                    limit, age = ENTRIES[number][1], day - at
                    if limit is None or age < limit:
                        assert payload == entry(number, at)
                    elif age > limit + slack:
                        assert payload == BLANK


def test_what_somebody_has_yet_to_read_stays(settings: Settings) -> None:
    now = [0]
    with EmbeddedLog(settings.storage.data / "log", clock=lambda: now[0]) as log:
        log.append([entry(0, 0)])
        job = Retention(settings, log, executor=AtOnce(), clock=lambda: now[0])
        now[0] = 1_000 * DAY_MS
        assert job.run(0) == 0
        assert log.read(0, 9)[0][1] == entry(0, 0)
        assert job.run(log.end) == 1
        assert job.run(log.end) == 0
        assert log.read(0, 9)[0][1] == BLANK
    assert read_progress(settings.storage.data / PROGRESS).removed == 1


def test_kinds_are_by_what_a_record_may_be_used_for() -> None:
    names = {PERSONALISATION: "personalisation", IMPRESSIONS: "impressions"}
    names[MEASUREMENT] = "measurement"
    for number, (_, days) in enumerate(ENTRIES):
        assert kind_of(entry(number, 1)) == (None if days is None else names[days])
    assert kind_of(b"not a record") is None


WORK = """
import pickle
from pathlib import Path
from support import AtOnce
from tactful.maintenance.retention import Retention
from tactful_streaming.log.embedded_log import EmbeddedLog

settings = pickle.loads(Path(sys.argv[1]).read_bytes())
NOW = 1_000 * 86_400_000

def work(count):
    sys.addaudithook(countdown(count))
    with EmbeddedLog(settings.storage.data / "log", clock=lambda: NOW) as log:
        Retention(settings, log, executor=AtOnce(), clock=lambda: NOW).run(log.end)
"""


@pytest.mark.slow
def test_a_job_killed_anywhere_goes_on(tmp_path: Path, settings: Settings) -> None:
    payloads = [entry(number % len(ENTRIES), number) for number in range(80)]
    with EmbeddedLog(settings.storage.data / "log", segment_bytes=1_024, clock=lambda: 0) as log:
        for payload in payloads:
            log.append([payload])
    stays = [ENTRIES[number % len(ENTRIES)][1] is None for number in range(80)]
    wanted = [p if kept else BLANK for p, kept in zip(payloads, stays, strict=True)]
    written = tmp_path / "settings.pickle"
    written.write_bytes(pickle.dumps(settings))
    kills = 0
    with killed_after(WORK, written) as killed_at:
        while killed_at(kills):
            kills += 1
            with EmbeddedLog(settings.storage.data / "log", read_only=True) as log:
                found = [payload for _, payload in log.read(0, 80)]
            assert all(f in (p, w) for f, p, w in zip(found, payloads, wanted, strict=True))
    assert kills >= 5
    with EmbeddedLog(settings.storage.data / "log", read_only=True) as log:
        assert [payload for _, payload in log.read(0, 80)] == wanted


def test_dead_letters_expire_although_none_comes_after_them(tmp_path: Path) -> None:
    """The segment that is written to is ended when its time has come."""
    now = [0]
    kept: dict[str, Any] = {"retention_ms": 30 * DAY_MS, "durability": "process"}
    log = EmbeddedLog(tmp_path, **kept, clock=lambda: now[0])
    letters = DeadLetters(log)
    for number in range(3):
        letter = DeadLetter(payload=b"x", rule="r", reason="why", partition=0, offset=number)
        letters.add([letter])
        now[0] += DAY_MS
        letters.trim()
    assert len(list(letters.read())) == 3
    now[0] = 29 * DAY_MS
    letters.trim()
    assert len(list(letters.read())) == 3
    now[0] = 33 * DAY_MS
    letters.trim()
    letters.trim()
    assert list(letters.read()) == []
    assert letters.log.begin == letters.end == 3
    letters.add([DeadLetter(payload=b"x", rule="r", reason="why", partition=0, offset=9)])
    letters.close()
    with EmbeddedLog(tmp_path, read_only=True) as again:
        assert [offset for offset, _ in again.read(3, 9)] == [3]


def test_features_and_descriptions_expire_by_their_own_age(settings: Settings) -> None:
    """Also descriptions of users without events; a recent one outlasts older events."""
    at = now_ms()
    old, new = at - 60 * DAY_MS, at - DAY_MS
    with Live(Platform.open(settings, build)) as live:
        for user, seen in (("gone", old), ("still-here", at), ("described-lately", old)):
            event = view(1, user, timestamp=seen, device_id=f"d-{user}")
            assert live.http.post("/v1/events", json=[event]).json()["accepted"] == 1
        users = [
            {"user_id": "described-lately", "timestamp": new, "properties": {"age": 30}},
            {"user_id": "never-came", "timestamp": old, "properties": {"age": 40}},
        ]
        told = live.http.put("/v1/users", json=users).json()
        live.http.post("/v1/recommend", json={"after": told["position"]})
    shorter = replace(settings, retention=RetentionSettings(personalisation_days=50))
    assert expire_state(shorter, clock=lambda: at) == 3
    with contextlib.closing(RocksState(settings.storage.data / "state", read_only=True)) as state:
        assert [key for key, _ in state.scan(b"") if b"never-came" in key] == []
        assert [key for key, _ in state.scan(b"udescribed-lately")] == [b"udescribed-lately"]
    assert expire_state(shorter, clock=lambda: at) == 0
    with Live(Platform.open(settings, build)) as live:
        for user, views in (("gone", 0), ("still-here", 1)):
            answer = live.http.get(f"/v1/users/{user}/features").json()
            assert answer["features"]["views"] == views


@pytest.mark.parametrize("sealed", [False, True])
def test_sealed_records_are_blanked_too(tmp_path: Path, settings: Settings, sealed: bool) -> None:
    master = tmp_path / "master.key"
    master.write_text("ab" * 32)
    settings = replace(settings, privacy=PrivacySettings(sealed_log=sealed, master_key_file=master))
    with Live(Platform.open(settings, build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "i-1", "category": "kitchen"}])
        for number in range(5):
            sent = [view(number, f"person-{number}", item_id="i-1")]
            assert live.http.post("/v1/events", json=sent).json()["accepted"] == 1
    later = now_ms() + 1_000 * DAY_MS
    with EmbeddedLog(settings.storage.data / "log", clock=lambda: later) as log:
        assert Retention(settings, log, executor=AtOnce(), clock=lambda: later).run(log.end) == 5
        left = [payload for _, payload in log.read(0, 100) if payload != BLANK]
    assert len(left) == 1
    assert kind_of(left[0]) is None


def test_changes_of_models_are_forgotten_but_the_last(settings: Settings) -> None:
    now = [0]
    with contextlib.closing(open_installation(settings)) as metadata:
        models = ModelLog(metadata, clock=lambda: now[0])
        for version in ("1", "2", "3"):
            with models.entry("promote", "ranker", by="me", reason="r", version=version):
                now[0] += DAY_MS
        models.forget(10 * DAY_MS)
        assert [change.version for change in models.changes()] == ["3"]


def test_limits_that_cannot_be_kept_are_refused(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="label_days"):
        replace(settings, retention=RetentionSettings(impressions_days=7))
    kafka = LogSettings(kind="kafka", brokers="b:1")
    with pytest.raises(ConfigError, match="retention_days"):
        replace(settings, log=kafka)
    replace(settings, log=replace(kafka, retention_days=16))


def test_the_doctor_tells_for_how_long_what_is_kept(settings: Settings) -> None:
    def said(one: Settings) -> tuple[str, str]:
        (check,) = [check for check in examine(one) if check.name == "retention"]
        return check.state, check.said

    assert said(replace(settings, retention=RetentionSettings()))[0] == "warning"
    assert said(settings)[0] == "warning"
    with EmbeddedLog(settings.storage.data / "log") as log:
        Retention(settings, log, executor=AtOnce(), clock=now_ms).run(0)
        state, text = said(settings)
        assert (state, "impressions 40 days" in text) == ("ok", True)
        Retention(settings, log, clock=lambda: now_ms() - 3 * DAY_MS).run(0)
        assert said(settings)[0] == "failed"
