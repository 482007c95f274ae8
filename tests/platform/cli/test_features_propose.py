"""``tactful features propose``: planted properties are found, and what must not be is left out."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.platform.shop import entries, make_shop, write_log
from tests.platform.support import Live, build, now_ms

from tactful.cli.main import main
from tactful.config.settings import PACKAGED_FEATURES, Settings
from tactful.ranking.model import read_manifest
from tactful.ranking.own_columns import own_columns
from tactful.server.platform import Platform
from tactful.training.log_profile import Kind, LogProfile, profile_log
from tactful.training.options import TrainingOptions
from tactful.training.propose import as_yaml, propose
from tactful.training.train import train
from tactful_streaming.contract.log_entries import Entry, Event, Item
from tactful_streaming.definitions.reader import load_definitions

REFUSED = {
    "view: properties.shop": "constant",
    "view: properties.mail": "personal",
    "view: properties.contact": "personal",
    "view: properties.phone_no": "personal",
    "view: properties.call": "personal",
    "view: properties.request_id": "identity",
    "view: properties.ticket": "identity",
    "view: properties.household": "identity",
    "view: properties.lat": "personal",
    "view: properties.hash": "identity",
    "view: properties.began": "a time or an identity",
    "view: properties.rare": "mostly missing",
    "view: properties.note": "free text",
    "view: properties.position": "training corrects",
    "view: properties.new": "true or false",
    "view: properties.tags": "a list",
    "item.maker": "constant",
    "item.gtin": "identity",
}


def planted(seed: int, number: int) -> dict[str, Any]:
    """Properties of a view: two to find, and those to leave out."""
    draw = random.Random(f"{seed} {number}")
    properties = {
        "scroll": draw.random(),
        "colour": draw.choice(["red", "blue", "green"]),
        "device": draw.choice(["phone", "desktop"]),
        "shop": "main",
        "mail": f"someone{number}@mail.example" if number % 50 == 0 else "none",
        "contact": draw.choice(["a@b.example", "c@d.example"]),
        "phone_no": draw.choice(["x", "y"]),
        "call": f"+49 170 {draw.randrange(10**6, 10**7)}",
        "request_id": number * 7,
        "household": 10_000 + number % 97,
        "lat": 52 + draw.random(),
        "ticket": 5_000_000 + number * 31,
        "hash": f"{draw.getrandbits(64):x}",
        "began": 1_700_000_000 + number * 60,
        "note": " ".join(draw.choices(["so", "nice", "tea", "cup", "I", "say"], k=9)),
        "position": number % 20,
        "new": number % 2 == 0,
        "tags": ["a", "b"],
    }
    return properties | ({"rare": draw.random()} if number % 40 == 0 else {})


def item_properties(number: int) -> dict[str, Any]:
    return {
        "brand": "abc"[number % 3],
        "colour": ["red", "blue"][number % 2],
        "weight": 1.5 * number,
        "maker": "us",
        "gtin": f"40{number:011d}",
    }


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(it) for it in arguments])


def planted_log() -> list[Entry]:
    items: list[Entry] = [
        Item(item_id=f"i{number}", timestamp=0, properties=item_properties(number))
        for number in range(60)
    ]
    return items + [
        Event(
            event_id=f"e{number}",
            type="x.wish" if number % 10 == 9 else "view",
            timestamp=1_700_000_000_000 + number,
            user_id=f"u{number % 13}",
            item_id=f"i{number % 60}",
            properties={} if number % 10 == 9 else planted(0, number),
        )
        for number in range(600)
    ]


def test_planted_properties_are_proposed_and_others_are_not(tmp_path: Path) -> None:
    with write_log(tmp_path / "log", planted_log()) as log:
        profile = profile_log(log)
    proposals = propose(profile, load_definitions(PACKAGED_FEATURES), 64)
    features = [each.feature for each in proposals.proposed]
    assert {(it.entity, it.aggregate, it.of or it.group_by) for it in features} == {
        ("user", "mean", "properties.scroll"),
        ("item", "mean", "properties.scroll"),
        ("user", "count", "properties.colour"),
        ("session", "last_n", "properties.device"),
        ("user", "count", "item.brand"),
        ("user", "count", "item.colour"),
        ("item", "mean", "item.weight"),
        ("user", "mean", "item.weight"),
        ("item", "count", None),
    }
    why = {refused.source: refused.why for refused in proposals.refused}
    assert why.keys() == REFUSED.keys()
    for source, part in REFUSED.items():
        assert part in why[source], source


@pytest.mark.slow
def test_the_proposed_file_can_be_checked_and_names_nobody(
    settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "new.yaml"
    with Live(Platform.open(settings, build)) as live:
        rows = [msgspec.to_builtins(entry) for entry in planted_log()]
        kept = ("item_id", "properties")
        items = [{key: row[key] for key in kept} for row in rows if row.pop("kind") == "item"]
        events = [{**row, "timestamp": now_ms() - 1} for row in rows if "event_id" in row]
        assert live.http.put("/v1/items", json=items).is_success
        assert live.http.post("/v1/events", json=events).json()["accepted"] == 600
        options = ("--data", settings.storage.data, "--config", config(settings, tmp_path))
        done = run("features", "propose", *options, "--out", out, "--json")
        printed = run("features", "propose", *options)
    assert done.exit_code == printed.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert (answer["events"], answer["items"]) == (600, 60)
    assert {each["source"] for each in answer["refused"]} == REFUSED.keys()
    assert printed.stdout == out.read_text()
    assert f"{len(answer['proposed'])} definitions proposed" in printed.stderr
    for text in (done.output, out.read_text(), printed.stderr):
        assert "mail.example" not in text and "+49" not in text
    checked = run("features", "check", out)
    assert checked.exit_code == 0, checked.output
    assert "item.brand" in checked.stdout and "name: spend," in checked.stdout
    again = run("features", "propose", *options, "--out", out)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    nowhere = run("features", "propose", *options, "--out", tmp_path / "no" / "new.yaml")
    assert nowhere.exit_code == 2
    assert "there is no folder" in nowhere.stderr


def config(settings: Settings, directory: Path) -> Path:
    file = directory / "tactful.toml"
    file.write_text(f'[engine]\nfeatures = "{settings.features}"\n')
    return file


@pytest.mark.slow
def test_the_proposed_file_starts_a_server(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "new.yaml"
    with write_log(settings.storage.data / "log", catalogue_and_views()) as log:
        profile = profile_log(log)
    proposals = propose(profile, load_definitions(settings.features), 64)
    out.write_text(as_yaml(proposals, settings.features.read_text()))
    changed = replace(settings, engine=replace(settings.engine, features=out))
    assert changed.features == out
    with Live(Platform.open(changed, build)) as live:
        live.http.post("/v1/events", json=[{**view_of(1), "timestamp": now_ms()}])
        read = live.http.get("/v1/users/u1/features").json()
    assert "brand_84d" in read["features"]
    # What the file has is not proposed again.
    assert propose(profile, load_definitions(out), 64).proposed == []


def view_of(number: int) -> dict[str, Any]:
    return {
        "event_id": f"e{number}",
        "type": "view",
        "timestamp": 1_700_000_000_000 + number,
        "user_id": f"u{number % 13}",
        "item_id": f"i{number % 60}",
        "properties": {"scroll": number / 7},
    }


def catalogue_and_views() -> list[Entry]:
    items: list[Entry] = [
        Item(item_id=f"i{number}", timestamp=0, properties=item_properties(number))
        for number in range(60)
    ]
    return items + [Event(**view_of(number)) for number in range(300)]


@pytest.mark.slow
def test_a_log_without_events_is_no_source(settings: Settings, tmp_path: Path) -> None:
    options = ("--data", settings.storage.data, "--config", config(settings, tmp_path))
    missing = run("features", "propose", *options)
    assert missing.exit_code == 1
    assert "nothing to" in missing.stderr
    with Live(Platform.open(settings, build)):
        pass
    empty = run("features", "propose", *options)
    assert empty.exit_code == 1
    assert "nothing to propose from" in empty.stderr


def test_odd_names_and_values_make_no_odd_file() -> None:
    """No name of the log ends a comment of the file, or makes a name that is not one."""
    odd = ("größe", "# x", "a\nb", "a.b", "9lives", "'\"{}", "价格", "- {name: x}", "x" * 200)
    log: list[Entry] = [
        Event(
            event_id=f"{number}",
            type="view",
            timestamp=number,
            user_id="u",
            item_id="i",
            properties={"huge": 10**400, "h2": 1e308, **{name: number + 0.5 for name in odd}},
        )
        for number in range(100)
    ]
    kind = Kind()
    for event in log:
        assert isinstance(event, Event)
        kind.with_item += 1
        kind.add(event.properties)
    present = load_definitions(PACKAGED_FEATURES)
    proposals = propose(LogProfile({"view": kind}, Kind()), present, 64)
    made = load_definitions(as_yaml(proposals, PACKAGED_FEATURES.read_text()))
    assert len(made.features) == len(present.features) + len(proposals.proposed)
    assert len(proposals.proposed) == 2 * 4
    assert (
        propose(LogProfile({"view": kind}, Kind()), present, 3).proposed == (proposals.proposed[:3])
    )


@pytest.mark.slow
def test_proposed_features_are_columns_of_a_trained_ranking(tmp_path: Path) -> None:
    shop = make_shop(7, people=15, items=40, days=30)
    log = write_log(tmp_path / "log", with_brands(entries(shop)))
    present = load_definitions(PACKAGED_FEATURES)
    proposals = propose(profile_log(log), present, 64)
    defined = load_definitions(as_yaml(proposals, PACKAGED_FEATURES.read_text()))
    train(log, defined, tmp_path / "model", TrainingOptions(label_days=15, rounds=2, threads=1))
    log.close()
    names = [column.name for column in own_columns(defined)]
    assert {"user.brand_84d", "item.item_weight_84d", "user.usual_weight_84d"} <= set(names)
    assert [*read_manifest(tmp_path / "model").features[-len(names) :]] == names


def with_brands(rows: list[Entry]) -> list[Entry]:
    return [
        msgspec.structs.replace(entry, properties=item_properties(number))
        if isinstance(entry, Item)
        else entry
        for number, entry in enumerate(rows)
    ]
