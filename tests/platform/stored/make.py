"""Make the stored installation anew: `scripts/test tests/platform/stored/make.py`.

The installation that is kept was made by commit 6480cc4. Made anew it is one of the present
version, which no longer shows that older ones can be read.
"""

from __future__ import annotations

import base64
import io
import json
import lzma
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import redis
from tests.platform.shop import make_shop
from tests.platform.stored.installation import (
    BEGIN,
    DAY,
    END,
    ERASED,
    HERE,
    PREFIX,
    Installation,
    get,
    read_all,
    recommend,
    restore,
    unpack,
    wait_until,
)

CUT = BEGIN + 30 * DAY
"""Events before it train the model; from then on the log is sealed."""

Json = dict[str, Any]


def test_make(redis_url: str, tmp_path: Path) -> None:
    """Make the installation, its backup and the copy in Redis; record what is read from them."""
    store: Any = redis.Redis.from_url(redis_url)
    for key in store.scan_iter(f"{PREFIX}:*"):
        store.delete(key)
    folder = tmp_path / "installation"
    installation = Installation.create(folder, {"TACTFUL_REDIS_URL": redis_url})
    made = build(installation)
    # One archive: the compression finds what data and backup share.
    pack(folder, ["data", "tombstones", "backup"], HERE / "installation.tar.xz")
    write(HERE / "made.json", made)
    blobs = {
        key.decode().removeprefix(PREFIX): base64.b64encode(store.get(key)).decode()
        for key in sorted(store.scan_iter(f"{PREFIX}:*"))
    }
    write(HERE / "online.json", blobs)


def test_record(tmp_path: Path) -> None:
    """Record what is read from the stored installation and from its restored backup."""
    made = json.loads((HERE / "made.json").read_text("utf-8"))
    installation = unpack(tmp_path / "shop")
    expected = read_all(installation, made, quiet)
    write(HERE / "expected.json", expected)
    restored = read_all(restore(installation, tmp_path / "restored"), made, quiet)
    different = {part: values for part, values in restored.items() if values != expected[part]}
    write(HERE / "expected_restored.json", different)


def quiet(actions: Json) -> bool:
    """Return whether no action comes for ten seconds."""
    before = len(actions)
    time.sleep(10)
    return len(actions) == before


def build(installation: Installation) -> Json:
    """Fill an empty installation; return the ids and keys that were drawn."""
    key = installation.command_json("keys", "create", "--scope", "admin")["key"]
    browser = installation.command_json("keys", "create", "--scope", "browser", "--note", "page")
    revoked = installation.command_json("keys", "create", "--scope", "ingest")
    installation.command("keys", "revoke", revoked["id"])
    shop = make_shop(7, people=12, items=60, days=40)
    events = [with_details(event) for event in shop.events(0, len(shop))]
    with installation.serving(key, TACTFUL_PRIVACY__SEALED_LOG="false") as http:
        put(http, "/v1/items", shop.items)
        put(http, "/v1/users", [{"properties": {"country": "CH"}, **user} for user in shop.users])
        put(http, "/v1/users/person-05/consent", {"purposes": {"personalisation": False}})
        send(http, [event for event in events if event["timestamp"] < CUT])
        recommend(http, user_id="person-01", timestamp=CUT)
    installation.command(
        *("train", "--promote", "--lists", 100, "--label-days", 15, "--by", "make"),
        *("--reason", "first model"),
    )
    with installation.serving(key, TACTFUL_RECOMMEND__LOOK_MINUTES="0.2") as http:
        put(http, "/v1/items", [{**shop.items[5], "item_id": "item-new", "price": 4.5}])
        put(http, "/v1/users/person-06/consent", {"purposes": {"measurement": False}})
        send(http, [event for event in events if CUT <= event["timestamp"] < END])
        shown = recommend(http, user_id="person-02")
        item = shown["items"][0]["item_id"]
        send(http, [*set_aside(), outcome(shown["recommendation_id"], item)])
        wait_until(lambda: get(http, "/v1/experiments/cheaper-first")["looks"])
        erased = http.delete(f"/v1/users/{ERASED}")
        erased.raise_for_status()
        receipt = erased.json()["receipt"]
        wait_until(lambda: get(http, f"/v1/erasures/{receipt}")["state"] == "done", 120)
        installation.command("backup", "backup")
        send(http, [visit(END - 3_600_000, "person-07", "item-001")])
    return {
        "key": key,
        "browser_key": browser["key"],
        "revoked_key": revoked["key"],
        "receipt": receipt,
        "recommendation_id": shown["recommendation_id"],
        "sent": events[-1],
    }


def with_details(event: Json) -> Json:
    """An event of the shop with a device and, for views, a place."""
    person = event["user_id"]
    if event["type"] == "view":
        event = {**event, "properties": {"place": "top", **event.get("properties", {})}}
    # No id is a part of another: after an erasure all files are searched for the ids.
    number = int(event["event_id"].removeprefix("shop-"))
    return {
        **event,
        "event_id": f"shop-{number:06d}",
        "device_id": f"device-of-{person}",
        "session_id": f"{event['session_id']}-end",
    }


def visit(at: int, person: str, item: str) -> Json:
    return {
        "event_id": f"visit-{person}-{at}",
        "type": "view",
        "timestamp": at,
        "user_id": person,
        "item_id": item,
    }


def set_aside() -> list[Json]:
    """Events that rules set aside, drop or find too late, and a login."""
    costly = {"properties": {"price": 2_000_000.0}}
    return [
        {**visit(END - DAY, "person-08", "item-002"), **costly, "event_id": "costly"},
        {**visit(END - DAY, "test-1", "item-002"), "event_id": "test account"},
        {**visit(BEGIN - 900 * DAY, "person-08", "item-003"), "event_id": "late"},
        {
            "event_id": "login",
            "type": "x.login",
            "timestamp": END - DAY,
            "user_id": "person-03",
            "device_id": "device-linked",
        },
        {"event_id": "end", "type": "x.clock", "timestamp": END, "device_id": "clock"},
    ]


def outcome(recommendation_id: str, item: str) -> Json:
    return {
        **visit(END - 1, "person-02", item),
        "type": "add_to_cart",
        "recommendation_id": recommendation_id,
    }


def put(http: httpx.Client, path: str, body: object) -> None:
    answer = http.put(path, json=body)
    assert answer.is_success, answer.text
    assert not answer.json().get("rejected"), answer.text


def send(http: httpx.Client, events: list[Json]) -> None:
    """Send events with a tick of the clock for each day; wait until the engine applied them."""
    position = 0
    for chunk in chunks(events):
        answer = http.post("/v1/events", json=chunk).json()
        assert not answer["rejected"], answer
        position = answer["position"]
    answer = http.post("/v1/recommend", json={"after": position, "timestamp": END})
    assert answer.status_code == 200, answer.text


def chunks(events: list[Json]) -> Iterator[list[Json]]:
    day = 0
    chunk: list[Json] = []
    for event in events:
        if event["timestamp"] // DAY > day:
            day = event["timestamp"] // DAY
            tick = {"type": "x.clock", "timestamp": day * DAY, "device_id": "clock"}
            chunk.append({**tick, "event_id": f"clock-{day}"})
        chunk.append(event)
        if len(chunk) >= 500:
            yield chunk
            chunk = []
    yield chunk


def pack(folder: Path, names: list[str], target: Path) -> None:
    """Write files of a folder to an archive, with the same bytes for the same files."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name in names:
            for path in sorted([folder / name, *(folder / name).rglob("*")]):
                entry = archive.gettarinfo(path, str(path.relative_to(folder)))
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                if path.is_file():
                    with path.open("rb") as content:
                        archive.addfile(entry, content)
                else:
                    archive.addfile(entry)
    target.write_bytes(lzma.compress(held.getvalue(), preset=9 | lzma.PRESET_EXTREME))


def write(path: Path, content: Json) -> None:
    """Write a JSON object, each of its fields on a line."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, sort_keys=True)}"
        for name, value in content.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
