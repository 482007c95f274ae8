"""Files that are uploaded, previewed and imported by the server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.platform.support import Live, blocked, build, small_settings, wait_until

from tactful.client import Client
from tactful.client.routes import data as routes
from tactful.schemas.data.imports import Import, ImportMapping, NewImport
from tactful.server.platform import Platform
from tactful.server.uploads import Uploads

IMPORT = "9f3c" * 8
ROWS = 1_300


def table(rows: int = ROWS) -> bytes:
    lines = ["customer_no,sku,what,when,price"]
    for number in range(rows):
        price = "no price" if number == 3 else "2,50"
        lines.append(
            f'u{number % 9},i{number % 5},view,2026-03-01T12:00:{number % 60:02}Z,"{price}"'
        )
    return "\n".join(lines).encode() + b"\n"


MAPPING = ImportMapping(
    maps={"user": "customer_no", "item": "sku", "type": "what", "timestamp": "when"},
    decimal="comma",
)


def upload(client: Client, content: bytes, name: str = "orders.csv", part: int = 9_000) -> None:
    client.run(routes.register_import(IMPORT, NewImport(name=name, kind="events")))
    for offset in range(0, len(content), part):
        told = client.run(routes.upload(IMPORT, offset, content[offset : offset + part]))
    assert told.bytes == len(content)


def ended(client: Client) -> Import:
    wait_until(lambda: client.run(routes.import_(IMPORT)).ended_at is not None)
    return client.run(routes.import_(IMPORT))


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform.open(small_settings(tmp_path), build)


def test_a_file_is_previewed_and_imported(platform: Platform) -> None:
    with Live(platform) as live, Client(live.url) as client:
        upload(client, table())
        client.run(routes.upload(IMPORT, 0, table()))  # again, as after a lost answer
        seen = client.run(routes.preview_file(IMPORT, MAPPING))
        assert seen.mapping["user_id"] == "customer_no"
        assert seen.columns == ["customer_no", "sku", "what", "when", "price"]
        assert len(seen.elements) == 20
        assert [row.row for row in seen.refused] == [5]
        assert client.run(routes.imports()).imports[0].accepted == 0
        client.run(routes.start_import(IMPORT, MAPPING))
        done = ended(client)
        assert (done.state, done.accepted, done.refused) == ("done", ROWS - 1, 1)
        end = live.http.post("/v1/events", json=[]).json()["position"]
        assert live.views("u0", end) == len(range(0, ROWS, 9))
        assert client.run(routes.preview_undo(IMPORT)).people == 9
        wait_until(lambda: not (platform.settings.storage.data / "uploads" / IMPORT).exists())


def test_an_import_goes_on_at_the_next_start(tmp_path: Path, platform: Platform) -> None:
    with Live(platform) as live, Client(live.url) as client:
        upload(client, table())
        with blocked(platform.backend.commit, "append_keyed") as gate:
            client.run(routes.start_import(IMPORT, MAPPING))
            gate.set()
        platform.uploads._stopping = True
        wait_until(lambda: not platform.uploads._running)
    again = Platform.open(small_settings(tmp_path), build)
    with Live(again) as live, Client(live.url) as client:
        assert ended(client).state == "done"
        end = live.http.post("/v1/events", json=[]).json()["position"]
        assert live.views("u0", end) == len(range(0, ROWS, 9))


def test_parquet_is_read_too(tmp_path: Path, platform: Platform) -> None:
    path = tmp_path / "orders.parquet"
    columns = {"user_id": ["a", "b"], "item_id": ["x", "y"], "type": ["view", "view"]}
    pq.write_table(pa.table({**columns, "timestamp": [1_772_366_400_000] * 2}), path)
    with Live(platform) as live, Client(live.url) as client:
        upload(client, path.read_bytes(), "orders.parquet", part=100)
        client.run(routes.start_import(IMPORT, ImportMapping()))
        assert ended(client).accepted == 2


def test_what_is_wrong_is_said_and_leaves_the_server_alone(platform: Platform) -> None:
    with Live(platform) as live, Client(live.url) as client:
        refused = live.http.put(f"/v1/imports/{IMPORT}/file", content=b"a")
        assert refused.status_code == 404
        upload(client, b"colour,size\nred,3\n")
        hole = httpx.put(f"{live.url}/v1/imports/{IMPORT}/file?offset=99", content=b"a")
        assert (hole.status_code, "ends at 18" in hole.json()["detail"]) == (422, True)
        for path in ("preview", "start"):
            told = live.http.post(f"/v1/imports/{IMPORT}/{path}", json={})
            assert (told.status_code, told.json()["code"]) == (422, "invalid")
            assert str(platform.settings.storage.data) not in told.text
        everything = b"user,item,type,timestamp\n" + b"u,i,view,2999-01-01T00:00:00Z\n" * 700
        client.run(routes.upload(IMPORT, 0, everything))
        client.run(routes.start_import(IMPORT, ImportMapping(kind="events")))
        wait_until(lambda: bool(client.run(routes.import_(IMPORT)).problem))
        assert "rejected" in client.run(routes.import_(IMPORT)).problem


def test_a_name_never_leaves_the_folder(platform: Platform, tmp_path: Path) -> None:
    with Live(platform):
        uploads: Uploads = platform.uploads
        for name in ("../../x.csv", "/etc/passwd", "a/b.tsv.gz", "…"):
            uploads.append("a" * 32, name, 0, b"x")
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.name.startswith("c")]
    assert [path.name for path in written if path.parent.name == "a" * 32] == ["content.csv"]
