"""Undo of imports: afterwards everything is as if the import had never been."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.platform.support import AtOnce, Live, build, logged, small_settings

from tactful.config.settings import Settings
from tactful.errors import ImportRefused
from tactful.schemas.data.imports import NewImport
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Item, import_of

IMPORT = "9f3c" * 8
HEADERS = {"Tactful-Import": IMPORT}
BEGIN = 1_767_225_600_000

FEATURES = """
- {name: views, entity: user, event: view, aggregate: count, window: {size: 364d, slide: 28d}}
- {name: recent, entity: user, event: view, aggregate: last_n, of: item_id, n: 5}
- name: spend
  entity: user
  event: purchase
  aggregate: sum
  of: properties.price
  window: {size: 364d, slide: 28d}
- {name: taken, entity: item, event: view, aggregate: count, window: {size: 7d, slide: 1d}}
- {name: dearest, entity: item, event: purchase, aggregate: max, of: properties.price,
   window: {size: 7d, slide: 1d}}
- {name: seen, entity: session, event: view, aggregate: last_n, of: item_id, n: 9}
"""
USERS = [f"user-{number}" for number in range(8)]
ITEMS = [f"item-{number}" for number in range(6)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def settings_in(folder: Path) -> Settings:
    folder.mkdir(exist_ok=True)
    settings = small_settings(folder)
    (folder / "features.yaml").write_text(FEATURES)
    return settings


def drawn(seed: int, count: int) -> list[dict[str, Any]]:
    """Draw events, some of which repeat the id of an earlier one."""
    random_ = random.Random(seed)
    return [
        {
            "event_id": f"{seed}-{random_.randrange(count)}",
            "type": random_.choice(["view", "view", "purchase"]),
            "timestamp": BEGIN + random_.randrange(20 * 86_400_000),
            "user_id": random_.choice(USERS),
            "session_id": f"session-{random_.randrange(12)}",
            "item_id": random_.choice(ITEMS),
            "properties": {"price": random_.randrange(1, 90) / 2},
        }
        for _ in range(count)
    ]


def item(number: int, title: str) -> dict[str, Any]:
    return {"item_id": f"item-{number}", "title": title, "timestamp": BEGIN + len(title)}


def send(live: Live, events: Sequence[Any], **headers: str) -> int:
    position = 0
    for start in range(0, len(events), 50):
        answer = live.http.post("/v1/events", json=events[start : start + 50], headers=headers)
        assert answer.status_code == 202, answer.text
        position = answer.json()["position"]
    return position


def put(live: Live, kind: str, elements: Sequence[Any], **headers: str) -> None:
    answer = live.http.put(f"/v1/{kind}", json=elements, headers=headers)
    assert answer.status_code == 202, answer.text


def begin(live: Live, kind: str = "events", state: str = "running") -> dict[str, Any]:
    body = {"name": "orders.csv", "kind": kind, "state": state}
    answer = live.http.put(f"/v1/imports/{IMPORT}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def undo(platform: Platform) -> int:
    """Run the server's own job as if its time of rest had passed."""
    own = platform.import_undos
    own._executor = AtOnce()
    installation = own._installation
    later = partial(int, installation.clock() + 3_000)
    own._installation = replace(installation, clock=later)
    try:
        return own.run()
    finally:
        own._installation = installation


def settled(live: Live) -> None:
    position = live.http.post("/v1/events", json=[]).json()["position"]
    assert live.http.post("/v1/recommend", json={"after": position}).status_code == 200


def readable(platform: Platform) -> dict[str, Any]:
    """Return everything that can be read of the state."""
    engine, at = platform.engine, BEGIN + 21 * 86_400_000
    with platform.lock:
        sessions = [f"session-{number}" for number in range(12)]
        keys = {"user": USERS, "item": ITEMS, "session": sessions}
        read = {
            f"{kind} {key}": engine.read(kind, key, at)
            for kind, names in keys.items()
            for key in names
        }
        return {
            **read,
            "items": {key: found.title for key, found in engine.items.items() if found.available},
            "users": {key: found.properties for key, found in dict(engine.users).items()},
            "watermark": engine.watermark,
        }


def everything(live: Live, *, imported: bool) -> None:
    """Send what a shop sends, with an import in between or without it."""
    put(live, "items", [item(0, "tea"), item(1, "cup")])
    put(live, "users", [{"user_id": "user-1", "properties": {"country": "CH"}, "timestamp": BEGIN}])
    send(live, drawn(1, 150))
    if imported:
        begin(live)
        send(live, drawn(2, 200), **HEADERS)
        put(live, "items", [item(1, "a mistake"), item(2, "only here")], **HEADERS)
        wrong = {"user_id": "user-1", "properties": {"country": "XX"}, "timestamp": BEGIN + 5}
        put(live, "users", [wrong], **HEADERS)
        begin(live, state="done")
    send(live, drawn(3, 150))
    settled(live)


def test_an_undone_import_leaves_the_state_of_a_shop_that_never_had_it(tmp_path: Path) -> None:
    without, having = settings_in(tmp_path / "without"), settings_in(tmp_path / "with")
    with Live(Platform.open(without, build)) as live:
        everything(live, imported=False)
        expected = readable(live.platform)
    with Live(Platform.open(having, build)) as live:
        everything(live, imported=True)
        assert readable(live.platform) != expected
        seen = live.http.get(f"/v1/imports/{IMPORT}/undo").json()
        assert (seen["problem"], seen["items"], seen["users"]) == ("", 2, 1)
        assert (seen["people"], seen["restored_items"], seen["withdrawn_items"]) == (8, 1, 1)
        listed = live.http.get("/v1/imports").json()["imports"]
        assert [(it["accepted"], it["state"]) for it in listed] == [(seen["events"] + 3, "done")]
        assert live.http.delete(f"/v1/imports/{IMPORT}").json()["state"] == "undoing"
        assert undo(live.platform) == 1
        told = live.http.get(f"/v1/imports/{IMPORT}").json()
        assert told["state"] == "undone"
        removed = {step["place"]: step["removed"] for step in told["undo"]["steps"]}
        assert (removed["log"], removed["items"]) == (seen["events"] + 3, 1)
        settled(live)
        assert readable(live.platform) == expected
        send(live, drawn(4, 40))
        settled(live)
        after = readable(live.platform)
    kept = [entry for entry in logged(having.storage.data) if import_of(entry)]
    assert kept == []
    assert not [*(having.storage.data / "undo").iterdir()]
    with Live(Platform.open(having, build)) as live:
        assert readable(live.platform) == after
    with Live(Platform.open(without, build)) as live:
        send(live, drawn(4, 40))
        settled(live)
        assert readable(live.platform) == after


def test_the_file_can_be_imported_again(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        begin(live)
        send(live, drawn(2, 60), **HEADERS)
        settled(live)
        before = readable(live.platform)
        live.http.delete(f"/v1/imports/{IMPORT}")
        refused = live.http.post("/v1/events", json=drawn(2, 1), headers=HEADERS)
        assert refused.json()["code"] == "invalid"
        again = live.http.put(f"/v1/imports/{IMPORT}", json={"name": "a", "kind": "events"})
        assert again.status_code == 422
        assert undo(live.platform) == 1
        other = "a" * 32
        live.http.put(f"/v1/imports/{other}", json={"name": "a", "kind": "events"})
        send(live, drawn(2, 60), **{"Tactful-Import": other})
        settled(live)
        assert readable(live.platform) == before


@pytest.mark.parametrize(
    "place",
    ["log", *(pytest.param(name, marks=pytest.mark.slow) for name in ("items", "models", "state"))],
)
def test_an_undo_that_was_interrupted_goes_on(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path / "with")
    with Live(Platform.open(settings, build)) as live:
        begin(live)
        send(live, drawn(2, 60), **HEADERS)
        put(live, "items", [item(2, "only here")], **HEADERS)
        send(live, drawn(3, 60))
        settled(live)
        live.http.delete(f"/v1/imports/{IMPORT}")
        from tactful.maintenance import import_undo

        add = import_undo._Report.add

        def killed(report: Any, name: str, removed: int) -> None:
            if name == place:
                raise InterruptedError
            add(report, name, removed)

        monkeypatch.setattr(import_undo._Report, "add", killed)
        with pytest.raises(InterruptedError):
            undo(live.platform)
        monkeypatch.undo()
    with Live(Platform.open(settings, build)) as live:
        assert undo(live.platform) == 1
        settled(live)
        told = readable(live.platform)
        assert live.platform.engine.items["item-2"].available is False
    alone = settings_in(tmp_path / "without")
    with Live(Platform.open(alone, build)) as live:
        send(live, drawn(3, 60))
        settled(live)
        assert readable(live.platform) == told


def test_a_log_without_its_beginning_is_not_undone(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        begin(live)
        log: Any = live.platform.backend.written["log"]
        live.platform.backend.written["log"] = type("Trimmed", (), {"begin": 5})()  # type: ignore[index]
        told = live.http.delete(f"/v1/imports/{IMPORT}")
        assert (told.status_code, "beginning" in told.json()["detail"]) == (422, True)
        live.platform.backend.written["log"] = log  # type: ignore[index]


def test_imports_that_nobody_began_take_nothing(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        for name in (IMPORT, "x", "9F3C" * 8):
            told = live.http.post("/v1/events", json=drawn(2, 1), headers={"Tactful-Import": name})
            assert (told.status_code, told.json()["code"]) == (422, "invalid")
        for path in (f"/v1/imports/{IMPORT}", f"/v1/imports/{IMPORT}/undo"):
            assert live.http.get(path).status_code == 404
        assert live.http.delete(f"/v1/imports/{IMPORT}").status_code == 404
        assert (
            live.http.put("/v1/imports/x", json={"name": "a", "kind": "items"}).status_code == 404
        )
        begin(live)
        with pytest.raises(ImportRefused, match="of events"):
            live.platform.imports.register(IMPORT, NewImport(name="a", kind="items"), by="me")


@pytest.mark.slow
def test_imports_are_listed_by_pages(settings: Settings) -> None:
    with Live(Platform.open(settings, build)) as live:
        for number in range(5):
            body = {"name": f"file-{number}", "kind": "items"}
            assert live.http.put(f"/v1/imports/{number:032x}", json=body).status_code == 200

        def pages() -> Iterator[list[str]]:
            cursor = ""
            while cursor is not None:
                page = live.http.get("/v1/imports", params={"limit": 2, "cursor": cursor}).json()
                yield [it["name"] for it in page["imports"]]
                cursor = page["next_cursor"]

        assert [*pages()] == [["file-4", "file-3"], ["file-2", "file-1"], ["file-0"]]


def test_descriptions_say_which_import_brought_them() -> None:
    plain = Item(item_id="tea", timestamp=1)
    assert (import_of(plain), import_of(replace_import(plain))) == (None, IMPORT)


def replace_import(entry: Item) -> Item:
    return Item(item_id=entry.item_id, timestamp=entry.timestamp, import_id=IMPORT)
