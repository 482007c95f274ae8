"""The consent matrix: each purpose, each kind of event, each consumer; through a real server."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from tests.platform.support import (
    Live,
    TinyRecommender,
    build,
    now_ms,
    small_settings,
    view,
    wait_until,
)

from tactful.cli.main import main
from tactful.config.privacy import ConsentSettings
from tactful.config.settings import Settings
from tactful.event_log.impressions import decode_impression
from tactful.metadata.directory_lock import exclusive, note_of_holder
from tactful.metadata.store import open_metadata
from tactful.metadata.tables import consent_decisions
from tactful.server.platform import Platform
from tactful.subjects.consent import ConsentStore
from tactful.subjects.consented_log import PermittedLog
from tactful.subjects.permissions import claimed
from tactful_privacy.people.consent import EVERYTHING, NOTHING, Purpose
from tactful_streaming.contract.decode_requests import EVENT_TYPES
from tactful_streaming.contract.log_entries import (
    EntryFormat,
    Event,
    Item,
    Restricted,
    Tick,
    decode_entry,
    encode_entry,
)
from tactful_streaming.engine.options import CoCommittedConsumer
from tactful_streaming.log.embedded_log import EmbeddedLog

FEATURES = "".join(
    f"- {{name: n_{kind}, entity: user, event: {kind}, aggregate: count, "
    "window: {size: 364d, slide: 28d}}\n"
    for kind in sorted(EVENT_TYPES)
) + (
    "- {name: views, entity: user, event: view, aggregate: count, "
    "window: {size: 364d, slide: 28d}}\n"
    "- {name: item_views, entity: item, event: view, aggregate: count, "
    "window: {size: 364d, slide: 28d}}\n"
    "- {name: hot, entity: user, sequence: [view, add_to_cart], within: 5m, emit: coupon}\n"
)
COUPON = "x.coupon"


class Counting(CoCommittedConsumer):
    """A consumer that counts its events by user, like published statistics."""

    purpose = Purpose.MEASUREMENT

    def __init__(self) -> None:
        self.seen: list[tuple[str | None, str]] = []

    def apply(self, event: Event, item: Item | None) -> None:
        self.seen.append((event.user_id, event.type))

    def snapshot(self) -> bytes | None:
        return None

    def restore(self, state: bytes) -> None:
        pass


class Watched(TinyRecommender):
    """Records the keys of read profiles."""

    asked: ClassVar[list[str]] = []

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        read = engine.read

        def noted(entity: str, key: str, at: int) -> Any:
            self.asked.append(f"{entity}:{key}")
            return read(entity, key, at)

        engine.read = noted


def watched(*, engine: Any, settings: Settings) -> Watched:
    Watched.asked.clear()
    return Watched(engine)


def settings_of(directory: Path, default: Any = "deny") -> Settings:
    settings = small_settings(directory)
    settings.features.write_text(FEATURES)
    return replace(settings, consent=ConsentSettings(default=default))


@pytest.fixture
def counting() -> Counting:
    return Counting()


@pytest.fixture
def live(tmp_path: Path, counting: Counting) -> Iterator[Live]:
    platform = Platform.open(settings_of(tmp_path), watched, consumers={"counting": counting})
    with Live(platform) as live:
        yield live


def ask(live: Live, method: str, path: str, body: Any, status: int = 200) -> dict[str, Any]:
    answer = live.http.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def say(live: Live, person: str, **purposes: bool) -> dict[str, Any]:
    return ask(live, "PUT", f"/v1/users/{person}/consent", {"purposes": purposes})


def send(live: Live, *events: dict[str, Any]) -> dict[str, Any]:
    return ask(live, "POST", "/v1/events", list(events), 202)


def recommend(live: Live, **request: Any) -> dict[str, Any]:
    return ask(live, "POST", "/v1/recommend", request)


def logged(live: Live) -> list[Any]:
    (log,) = live.platform.backend.partitions()
    return [decode_entry(payload) for _, payload in log.read(log.begin, 10_000)]


def test_purposes_by_event_type_by_consumer(live: Live, counting: Counting) -> None:
    """Every set of the four purposes, all types of events, and their consumers."""
    chosen = ("personalisation", "measurement", "marketing", "service")
    people: dict[str, dict[str, bool]] = {}
    for wanted in itertools.product([False, True], repeat=len(chosen)):
        person = "p-" + "".join(str(int(agrees)) for agrees in wanted)
        people[person] = dict(zip(chosen, wanted, strict=True))
        say(live, person, **people[person])
    kinds = sorted(EVENT_TYPES)
    position: Any = None
    for person, purposes in people.items():
        told = send(live, *(view(number, person, type=kind) for number, kind in enumerate(kinds)))
        kept = purposes["service"]
        assert told["accepted"] == (len(kinds) if kept else 0), person
        assert {refusal["code"] for refusal in told["rejected"]} == (
            set() if kept else {"no_consent"}
        )
        position = told["position"] if kept else position
    recommend(live, after=position)
    for person, purposes in people.items():
        features = live.http.get(f"/v1/users/{person}/features").json()["features"]
        learned = purposes["service"] and purposes["personalisation"]
        for kind in kinds:
            assert features[f"n_{kind}"] == float(learned), (person, kind)
        counted = sorted(kind for who, kind in counting.seen if who == person)
        measured = purposes["service"] and purposes["measurement"]
        assert counted == (kinds if measured else []), person
    # Training reads the log: whatever is not for personalisation is not an event there.
    trainable = {entry.user_id for entry in logged(live) if isinstance(entry, Event)}
    assert trainable == {
        person
        for person, said in people.items()
        if said["service"] and said["personalisation"] and said["measurement"]
    }


@pytest.mark.slow
def test_actions_only_for_those_who_agree_to_marketing(live: Live) -> None:
    for person, marketing in (("yes", True), ("no", False)):
        say(live, person, personalisation=True, measurement=True, marketing=marketing)
        at = now_ms()
        told = send(
            live,
            view(1, person, timestamp=at - 2_000),
            view(2, person, type="add_to_cart", timestamp=at - 1_000),
        )
        recommend(live, after=told["position"])
    # A later event of the same engine thread shows that its outbox was looked at before.
    wait_until(lambda: any(getattr(entry, "type", "") == COUPON for entry in logged(live)))
    told = send(live, view(3, "yes"))
    recommend(live, after=told["position"])
    coupons = [entry.user_id for entry in logged(live) if getattr(entry, "type", "") == COUPON]
    assert coupons == ["yes"]


def test_without_personalisation_no_profile_is_read(live: Live) -> None:
    """The recommendation is that of an anonymous request."""
    live.http.put("/v1/items", json=[{"item_id": f"i-{n}", "category": "k"} for n in range(3)])
    say(live, "ada", personalisation=True, measurement=True)
    told = send(live, view(1, "ada"))
    assert recommend(live, user_id="ada", after=told["position"])["fallback"] is None
    assert "user:ada" in Watched.asked
    Watched.asked.clear()
    say(live, "ada", personalisation=False)
    answer = recommend(live, user_id="ada", session_id="s", count=2)
    assert Watched.asked == []
    assert "not agreed to personalisation" in answer["fallback"]
    assert answer["items"] == recommend(live, count=2)["items"]
    # Lists that were shown wait a moment for others, and go ahead of what comes next.
    live.http.put("/v1/items", json=[{"item_id": "i-3"}])
    shown = [e for e in logged(live) if isinstance(e, Event) and e.type == "impression"]
    assert [event.user_id for event in shown] == ["ada"]  # the one from before


def test_a_refusal_on_the_device_or_by_its_holder_counts(live: Live) -> None:
    say(live, "ada", personalisation=True, measurement=True)
    say(live, "device:d", personalisation=False)
    recommend(live, user_id="ada", device_id="d")
    assert Watched.asked == []
    say(live, "bob", personalisation=True, measurement=True)
    told = send(live, view(1, "bob", device_id="e", type="x.login"))
    recommend(live, after=told["position"])
    recommend(live, device_id="e")
    assert Watched.asked == ["user:device:e"]
    Watched.asked.clear()
    say(live, "bob", personalisation=False)
    recommend(live, device_id="e")
    assert Watched.asked == []


def test_a_withdrawal_is_effective_at_once_and_later(tmp_path: Path) -> None:
    """A withdrawal is effective with the response and after a restart."""
    settings = settings_of(tmp_path, "assume")
    with Live(Platform.open(settings, build)) as live:
        assert send(live, view(1, "ada"))["accepted"] == 1
        told = say(live, "ada", service=False)
        assert told["allowed"] == []
        refused = send(live, view(2, "ada"), view(1, "bob"))
        assert (refused["accepted"], refused["duplicates"]) == (1, 0)
        assert [(r["index"], r["code"]) for r in refused["rejected"]] == [(0, "no_consent")]
    with Live(Platform.open(settings, build)) as live:
        assert send(live, view(3, "ada"))["accepted"] == 0
        told = live.http.get("/v1/users/ada/consent").json()
    assert told["said"] == {"service": False}
    assert [decision["version"] for decision in told["history"]] == [1]


def test_a_description_of_a_user_may_carry_decisions(live: Live) -> None:
    properties = {"consent.personalisation": True, "consent.marketing": "yes", "country": "DE"}
    described = [{"user_id": "ada", "properties": properties}]
    for _ in range(2):
        assert live.http.put("/v1/users", json=described).status_code == 202
    told = live.http.get("/v1/users/ada/consent").json()
    assert told["allowed"] == ["personalisation", "service"]
    assert [decision["source"] for decision in told["history"]] == ["users"]


def test_what_is_no_decision_is_refused(live: Live) -> None:
    wrong: tuple[Any, ...] = ({}, {"profit": True}, {"service": 1})
    for body in ({}, *({"purposes": purposes} for purposes in wrong)):
        assert live.http.put("/v1/users/ada/consent", json=body).status_code in (400, 422)
    assert live.http.get("/v1/users/ada/consent").json()["history"] == []


def test_development_assumes_consent_and_production_denies(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "auto")
    assert settings.server.dev
    with Live(Platform.open(settings, build)) as live:
        assert send(live, view(1, "ada"))["accepted"] == 1
    settings = replace(settings, server=replace(settings.server, dev=False))
    platform = Platform.open(settings, build)
    try:
        assert platform.consents.consents.default == NOTHING
    finally:
        platform.close()


def test_the_command_prints_what_the_running_server_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option --dev of a server is in no settings that the command reads."""
    monkeypatch.chdir(tmp_path)
    settings = settings_of(tmp_path, "auto")
    data = ["--data", str(settings.storage.data)]

    def told(*more: str) -> Any:
        shown = CliRunner().invoke(main, ["user", "consent", "ada", *more, *data])
        assert shown.exit_code == 0, shown.output
        return json.loads(shown.stdout) if "--json" in more else shown.stdout

    everything = sorted(map(str, EVERYTHING))
    with Live(Platform.open(settings, build)) as live:
        served = live.http.get("/v1/users/ada/consent").json()["allowed"]
        assert told("--json") == {
            "person": "ada",
            "allowed": served,
            "by_default": everything,
            "history": [],
        }
        lines = told("--deny", "marketing").splitlines()
        kept = ", ".join(sorted({*everything} - {"marketing"}))
        assert lines[:2] == [f"may be used for: {kept}", f"by default, without a decision: {kept}"]
        assert "marketing no" in lines[2]
        path, allowed = "/v1/users/ada/consent", told("--json")["allowed"]
        wait_until(lambda: live.http.get(path).json()["allowed"] == allowed)
    assert told("--json")["allowed"] == [], "no server runs, and the settings allow nothing"
    assert told("--allow", "measurement").startswith("may be used for: measurement, service\n")
    with Live(Platform.open(settings_of(tmp_path, "deny"), build)):
        assert told("--json")["by_default"] == []


def test_a_killed_server_leaves_no_note(tmp_path: Path) -> None:
    with exclusive(tmp_path, note=b"mine"):
        assert note_of_holder(tmp_path) == b"mine"
    assert note_of_holder(tmp_path) == b""
    (tmp_path / "lock").write_bytes(b"of a process that was killed")
    assert note_of_holder(tmp_path) == b""
    with exclusive(tmp_path):
        assert note_of_holder(tmp_path) == b""
    assert note_of_holder(tmp_path / "nowhere") == b""


def test_processes_follow_each_other(tmp_path: Path) -> None:
    metadata = open_metadata(tmp_path / "metadata.db")
    one, other = (ConsentStore(metadata, NOTHING, clock=now_ms) for _ in range(2))
    one.record("ada", {Purpose.MARKETING: True}, source="form", at=5)
    other.record("bob", {Purpose.MEASUREMENT: True}, source="form")
    one.refresh()
    assert one.consents.allowed("bob") == {Purpose.MEASUREMENT, Purpose.SERVICE}
    assert [(d.version, d.at) for d in other.history("ada")] == [(1, 5)]
    assert other.erase("ada") == 1
    assert other.history("ada") == []
    metadata.close()


def test_an_erased_decision_leaves_no_number_to_be_given_again(tmp_path: Path) -> None:
    """A process skips decisions of known versions, such as a reused one."""
    metadata = open_metadata(tmp_path / "metadata.db")
    follower, writer = (ConsentStore(metadata, NOTHING, clock=now_ms) for _ in range(2))
    writer.record("bob", {Purpose.MEASUREMENT: True}, source="form")
    for round_ in range(3):
        person = f"ada-{round_}"
        writer.record(person, {Purpose.MARKETING: True}, source="first")
        writer.record(person, {Purpose.MARKETING: False}, source="then")
        follower.refresh()
        assert writer.erase(person) == 2
        other = ConsentStore(metadata, NOTHING, clock=now_ms)
        other.record(f"eve-{round_}", {Purpose.MARKETING: True}, source="form")
        follower.refresh()
        assert Purpose.MARKETING in follower.consents.allowed(f"eve-{round_}")
    rows = metadata.fetch(sa.select(consent_decisions))
    people = sorted(row.person for row in rows)
    # The last empty row is taken away by the next erasure.
    assert people == ["", "bob", "eve-0", "eve-1", "eve-2"]
    assert not any("ada" in str(row) for row in rows)
    metadata.close()


@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_training_passes_over_who_withdrew(tmp_path: Path, format: EntryFormat) -> None:
    def event(number: int, **of: Any) -> Event:
        return Event(event_id=f"e-{number}", type="view", timestamp=number, **of)

    entries: list[Event | Restricted | Item] = [
        event(0, user_id="ada"),
        event(1, user_id="bob"),
        event(2, device_id="d"),
        Restricted(timestamp=3, purposes=("measurement",), event=event(3, user_id="bob")),
        Restricted(timestamp=4, purposes=("personalisation",), event=event(4, user_id="bob")),
        Restricted(timestamp=5, purposes=("personalisation",), event=event(5, user_id="ada")),
        Item(item_id="i", timestamp=6),
    ]
    with EmbeddedLog(tmp_path) as log:
        log.append([encode_entry(entry, format) for entry in entries] + [b"\xc1 damaged"])
        permitted = PermittedLog(log, lambda user, device, at, claim: user == "bob")
        read = [payload for _, payload in permitted.read(0, 100)]
    whole = [entry.event if isinstance(entry, Restricted) else entry for entry in entries]
    kept = {1, 4, 6}
    for number, payload in enumerate(read[:-1]):
        if number in kept:
            assert decode_entry(payload) == whole[number]
        else:
            assert payload == encode_entry(Tick(timestamp=0), format)
    assert read[-1] == b"\xc1 damaged"


def test_a_list_that_may_not_be_learned_from_is_none() -> None:
    shown = Event(
        event_id="i", type="impression", timestamp=1, user_id="u", properties={"items": ["a"]}
    )
    for purposes, found in ((("measurement",), False), (("personalisation",), True)):
        entry = Restricted(timestamp=1, purposes=purposes, event=shown)
        assert (decode_impression(encode_entry(entry), 0) is not None) is found


def test_what_comes_along_stands_in_for_who_said_nothing(live: Live) -> None:
    """A browser claims the consent of a visitor without stored decisions."""
    agrees = {"consent": "personalisation measurement whatever"}
    anonymous = {**view(1, "d"), "user_id": None, "device_id": "d"}
    assert send(live, anonymous)["accepted"] == 0
    told = send(live, {**anonymous, "context": agrees})
    assert told["accepted"] == 1
    recommend(live, after=told["position"])
    Watched.asked.clear()
    recommend(live, device_id="d")
    assert Watched.asked == []
    recommend(live, device_id="d", context=agrees)
    assert Watched.asked == ["user:device:d"]
    # A decision holds before it, and what says less than the default takes away.
    say(live, "device:d", personalisation=False)
    Watched.asked.clear()
    recommend(live, device_id="d", context=agrees)
    assert Watched.asked == []
    say(live, "ada", measurement=True)
    send(live, {**view(1, "ada"), "context": {"consent": ""}})
    (kept,) = [e for e in logged(live) if isinstance(e, Restricted)]
    assert set(kept.purposes) == {"measurement", "service"}


def test_a_claim_is_names_with_blanks_between_them() -> None:
    cases: list[tuple[object, object]] = [(None, None), (True, None), ("", NOTHING)]
    cases.append(("marketing  service", {Purpose.MARKETING, Purpose.SERVICE}))
    for claim, means in [*cases, ("nonsense", NOTHING)]:
        assert claimed(claim) == means
