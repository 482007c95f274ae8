"""Erasure of many users, and the look-up of users by other values than their ids."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.platform.support import Live, build, now_ms, small_settings, view

from tactful.cli.main import main
from tactful.config.privacy import MinimiseSettings
from tactful.config.settings import Settings
from tactful.server.platform import Platform
from tactful.subjects.look_up import Identifier, look_up
from tactful_privacy.people.pseudonyms import Keyring
from tactful_streaming.contract.log_entries import Event, encode_entry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


def leave(live: Live) -> None:
    """Store ada and two users who share an address, with an order, a visit and a device."""
    users = [("ada", "ada@example.com"), ("bob", "home@example.com"), ("eve", "home@example.com")]
    described = [{"user_id": user, "properties": {"email": mail}} for user, mail in users]
    assert live.http.put("/v1/users", json=described).json()["accepted"] == 3
    sent = [
        view(1, "ada", device_id="d-1", session_id="s-1", recommendation_id="r-1"),
        view(2, "bob", properties={"order": 4711, "coupon": ["C-1", "C-2"]}),
        view(3, "eve", context={"order": 'A"47/é'}),
        {**view(4, "dev"), "user_id": None, "device_id": "d-1", "session_id": "s-1"},
        {**view(5, "dev"), "user_id": None, "device_id": "d-2", "session_id": "s-2"},
    ]
    sent = [{name: value for name, value in event.items() if value is not None} for event in sent]
    told = live.http.post("/v1/events", json=sent).json()
    assert told["accepted"] == 5, told
    live.http.post("/v1/recommend", json={"after": told["position"]})


@pytest.mark.parametrize(
    ("by", "value", "people"),
    [
        ("user_id", "ada", ["ada"]),
        ("properties.email", "ada@example.com", ["ada"]),
        ("properties.email", "home@example.com", ["bob", "eve"]),
        ("properties.email", "ADA@example.com", []),
        ("properties.email", "ada@example.co", []),
        ("properties.order", "4711", ["bob"]),
        ("properties.order", "471", []),
        ("properties.coupon", "C-2", ["bob"]),
        ("context.order", 'A"47/é', ["eve"]),
        ("session_id", "s-1", ["ada"]),
        ("device_id", "d-1", ["ada"]),
        ("event_id", "dev-4", ["ada"]),
        ("event_id", "dev-5", ["device:d-2"]),
        ("session_id", "s-2", ["device:d-2"]),
        ("recommendation_id", "r-1", ["ada"]),
        ("recommendation_id", "ada", []),
    ],
)
def test_look_up(shared: Live, by: str, value: str, people: list[str]) -> None:
    """A value finds the users who have it, as text, number or element of a list."""
    told = shared.http.get("/v1/users", params={"by": by, "value": value})
    assert told.status_code == 200, told.text
    assert sorted(match["person"] for match in told.json()["people"]) == people


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Live(Platform.open(small_settings(tmp_path_factory.mktemp("found")), build)) as live:
        leave(live)
        yield live


@pytest.mark.parametrize("by", ["email", "properties", "properties.", "item_id", "timestamp"])
def test_unknown_kind(shared: Live, by: str) -> None:
    """A kind that is not stored of users is refused, and not answered with nobody."""
    assert shared.http.get("/v1/users", params={"by": by, "value": "x"}).status_code == 400
    body = {"requests": [{"by": by, "value": "x"}]}
    assert shared.http.post("/v1/erasures", json=body).status_code in (400, 422)


def test_bulk(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    """Each person gets one receipt or a reason, stands in the trail, and in no server log."""
    caplog.set_level(logging.DEBUG)
    with Live(Platform.open(settings, build)) as live:
        leave(live)
        home = {"by": "properties.email", "value": "home@example.com"}
        requests = [
            {"value": "ada"},
            {"by": "session_id", "value": "s-1"},  # ada again
            {"value": "device:d-2"},
            {"by": "properties.email", "value": "nobody@example.com"},
            home,
            {**home, "people": ["bob"]},
            {**home, "people": ["bob", "eve", "mallory"]},
        ]
        told = live.http.post("/v1/erasures", json={"requests": requests})
        assert told.status_code == 202, told.text
        results = told.json()["results"]
        assert [result["reason"] for result in results] == [
            *["", "", "", "unknown", "ambiguous", "ambiguous", "ambiguous"]
        ]
        assert sorted(results[4]["people"]) == ["bob", "eve"]
        (first,), (second,) = results[0]["erasures"], results[1]["erasures"]
        assert first["receipt"] == second["receipt"] != results[2]["erasures"][0]["receipt"]
        again = live.http.post("/v1/erasures", json={"requests": [{"value": "ada"}]}).json()
        assert again["results"][0]["erasures"][0]["receipt"] == first["receipt"]
        assert not live.platform.permissions.is_erased("bob")
        assert live.platform.permissions.is_erased("device:d-2")

        def trail(person: str) -> list[str]:
            found = live.http.get(f"/v1/users/{person}/accesses").json()["accesses"]
            return [access["action"] for access in found]

        assert (trail("ada"), trail("bob"), trail("mallory")) == (["erase"] * 2, ["find"], [])
        named = live.http.post(
            "/v1/erasures", json={"requests": [{**home, "people": ["eve", "bob"]}]}
        ).json()["results"][0]
        assert len({erasure["receipt"] for erasure in named["erasures"]}) == 2
        # Who was erased is not found any more, also before the log was rewritten.
        assert live.http.get("/v1/users", params=home).json()["people"] == []
        many = {"requests": [{"value": f"u-{n}"} for n in range(settings.limits.batch + 1)]}
        assert live.http.post("/v1/erasures", json=many).status_code == 413
    logged = [r.getMessage() for r in caplog.records if not r.name.startswith(("http", "asyncio"))]
    for value in ("ada@example.com", "home@example.com", "home%40", "s-1", "mallory"):
        assert not [line for line in logged if value in line]


def test_bulk_after_a_failure(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was accepted before a failure keeps its receipt when the request is repeated."""
    with Live(Platform.open(settings, build)) as live:
        jobs = live.platform.resources.installation.jobs
        asked = type(jobs).request
        calls: list[str] = []

        def fails_at_the_second(self: Any, person: str) -> Any:
            calls.append(person)
            if len(calls) == 2:
                raise OSError("the disk is full")
            return asked(self, person)

        monkeypatch.setattr(type(jobs), "request", fails_at_the_second)
        body = {"requests": [{"value": "ada"}, {"value": "bob"}]}
        assert live.http.post("/v1/erasures", json=body).status_code == 503
        (before,) = jobs.waiting()
        results = live.http.post("/v1/erasures", json=body).json()["results"]
        assert results[0]["erasures"][0]["receipt"] == before[0]
        assert len(jobs.waiting()) == 2


def test_bulk_by_command(settings: Settings, tmp_path: Path) -> None:
    """A file of persons is erased line by line, and the refused lines end it with code 6."""
    with Live(Platform.open(settings, build)) as live:
        leave(live)
    data = ["--data", str(settings.storage.data)]
    run = CliRunner().invoke
    found = run(main, ["user", "find", "--by", "properties.order", "4711", "--json", *data])
    assert [match["person"] for match in json.loads(found.stdout)["people"]] == ["bob"]
    assert "nobody" in run(main, ["user", "find", "--by", "event_id", "none", *data]).output
    file = tmp_path / "people.tsv"
    home = "properties.email\thome@example.com"
    file.write_text(f"ada\r\n\n{home}\nsession_id\tnone\n{home}\tbob\teve\n", "utf-8")
    told = run(main, ["user", "erase", "--from", str(file), "--json", *data])
    assert told.exit_code == 6, told.output
    results = json.loads(told.stdout)
    assert [result["reason"] for result in results] == ["", "ambiguous", "unknown", ""]
    states = [e["state"] for result in results for e in result["erasures"]]
    assert states == ["done"] * 3
    assert run(main, ["user", "find", "ada", "--json", *data]).stdout.count("person") == 0
    file.write_text("ada\nemail\tx\n", "utf-8")
    wrong = run(main, ["user", "erase", "--from", str(file), *data])
    assert wrong.exit_code == 2 and f"{file}:2:" in wrong.output
    both = run(main, ["user", "erase", "ada", "--from", str(file), *data])
    assert both.exit_code == 2 and "--from goes with" in both.output


def test_look_up_is_bounded() -> None:
    """A value that many have is reported as such; shared devices name the user of the time."""
    common = [
        Event(event_id=f"e-{n}", type="view", timestamp=n, user_id=f"u-{n}", context={"page": "p"})
        for n in range(500)
    ]
    device = [
        Event(event_id="a-0", type="view", timestamp=1, device_id="d", session_id="s-0"),
        Event(event_id="a-1", type="view", timestamp=2, device_id="d", user_id="ann"),
        Event(event_id="a-2", type="view", timestamp=3, device_id="d", session_id="s-1"),
        Event(event_id="a-3", type="view", timestamp=4, device_id="d", user_id="ben"),
        Event(event_id="a-4", type="view", timestamp=5, device_id="d", session_id="s-2"),
    ]
    log = [*enumerate(encode_entry(event) for event in [*common, *device]), (999, b"damaged")]

    def search(needles: Any) -> Any:
        return [entry for entry in log if any(needle in entry[1] for needle in needles)]

    page = Identifier("context.page", "p")
    matches = look_up(search, [page])[page]
    assert len(matches.people) == 100 and matches.more
    visits = [Identifier("session_id", f"s-{n}") for n in range(3)]
    assert [m.people[0].person for m in look_up(search, visits).values()] == ["ann", "ann", "ben"]
    many = [Identifier("event_id", f"e-{n}") for n in range(500)]
    found = look_up(search, many)
    assert [m.people[0].person for m in found.values()] == [f"u-{n}" for n in range(500)]
    assert not look_up(search, many[:1], erased={"u-0"})[many[0]].people


def test_look_up_of_hashed_field(settings: Settings) -> None:
    """A field that is hashed before it is stored is found by its value, after a rotation, too."""
    settings = replace(settings, minimise=MinimiseSettings(hash="properties.email"))
    with Live(Platform.open(settings, build)) as live:
        leave(live)
        log = b"".join(path.read_bytes() for path in (settings.storage.data / "log").glob("*.log"))
        assert b"ada@example.com" not in log
        Keyring(settings.keyring, clock=now_ms).rotate()
        query = {"by": "properties.email", "value": "ada@example.com"}
        people = live.http.get("/v1/users", params=query).json()["people"]
        assert [match["person"] for match in people] == ["ada"]
        query["by"] = "properties.name"
        assert live.http.get("/v1/users", params=query).json()["people"] == []
