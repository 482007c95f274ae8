"""Pictures of items over HTTP: kept by content, refused one by one, encoded beside the server."""

import asyncio
import base64
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.platform.support import Live, now_ms, small_settings
from tests.platform.understanding.tiny_picture_model import plain_picture

from tactful.client.aio import AsyncClient
from tactful.client.sync import Client
from tactful.maintenance.backup import make_backup
from tactful.maintenance.backup_source import FILES
from tactful.models.encode_catalogue import encode_catalogue
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful.understanding.picture_store import PictureStore, picture_path

pytest.importorskip("PIL")


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def reference(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


KINDS = ("JPEG", "PNG", "GIF", "WEBP")
BLUE = plain_picture((0, 0, 200), 600)
REFUSED = {
    url(b""): "empty",
    url(BLUE[: len(BLUE) // 2]): "damaged",
    url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"): "SVG",
    url(plain_picture((9, 9, 9)), "image/jpeg"): "not 'image/jpeg'",
    "data:image/png;base64,AAA*": "no base64",
    "data:image/png;base64,é": "no base64",
    "data:text/html;base64,PGI+": "image/",
    "data:image/png,AAAA": "base64",
    "file:///etc/passwd": "none of a picture",
    "https://shop.example/blue.png": "fetch_pictures",
    reference(b"unknown"): "no picture",
    "sha256:00": "none of a picture",
}


def test_a_damaged_store_refuses_pictures_and_no_other_item(
    live: Live, caplog: pytest.LogCaptureFixture
) -> None:
    file = picture_path(live.platform.settings.storage.data)
    file.parent.mkdir()
    file.write_bytes(b"no database" * 100)
    answer = live.http.put("/v1/items", json=[{"item_id": "blue", "image": url(BLUE)}])
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "restore the file from a backup" in caplog.text
    assert live.http.put("/v1/items", json=[{"item_id": "plain"}]).json()["accepted"] == 1


def test_pictures_are_kept_by_content_and_refused_one_by_one(live: Live, tmp_path: Path) -> None:
    good: list[dict[str, Any]] = [
        {"item_id": "blue", "image": url(BLUE)},
        {"item_id": "same", "image": url(BLUE)},
        {"item_id": "again", "image": reference(BLUE)},
        {"item_id": "plain", "image": None},
        {"item_id": "empty", "image": ""},
    ]
    bad = [{"item_id": f"bad-{n}", "image": image} for n, image in enumerate(REFUSED)]
    sent = live.http.put("/v1/items", json=[*good, *bad]).json()
    assert sent["accepted"] == len(good), sent
    assert [it["index"] for it in sent["rejected"]] == [*range(len(good), len(good) + len(bad))]
    for refusal, (image, message) in zip(sent["rejected"], REFUSED.items(), strict=True):
        assert refusal["code"] == "bad_picture" and message in refusal["message"], image[:40]
    after = {"after": sent["position"]}
    for name in ("blue", "same", "again"):
        assert live.http.get(f"/v1/items/{name}", params=after).json()["image"] == reference(BLUE)
    for name in ("plain", "empty"):
        assert "image" not in live.http.get(f"/v1/items/{name}").json()
    data = live.platform.settings.storage.data
    store = PictureStore(picture_path(data))
    kept = store.get([hashlib.sha256(BLUE).digest()])
    store.close()
    assert [picture[:2] for picture in kept.values()] == [b"\xff\xd8"]
    assert live.http.put("/v1/items", json={"item_id": "n", "image": 3}).json()["rejected"]
    encoded = base64.b64encode(BLUE)[40:80]
    for path in data.rglob("*"):
        if path.is_file() and "pictures" not in path.parts:
            assert encoded not in path.read_bytes() and BLUE[40:60] not in path.read_bytes()


def test_clients_take_bytes(live: Live) -> None:
    items = [{"item_id": kind, "image": plain_picture((9, 9, 9), 8, kind)} for kind in KINDS]
    with Client(live.url, None) as client:
        assert client.items(items).accepted == len(KINDS)
        assert (
            client.items([{"item_id": "no", "image": b"nothing"}]).rejected[0].code == "bad_picture"
        )

    async def send() -> int:
        async with AsyncClient(live.url, None) as client:
            return (await client.items(items)).accepted

    assert asyncio.run(send()) == len(KINDS)


def test_a_backup_holds_the_pictures_of_its_log(live: Live, tmp_path: Path) -> None:
    assert live.http.put("/v1/items", json={"item_id": "a", "image": url(BLUE)}).json()["accepted"]
    make_backup(live.platform.settings, tmp_path / "backup", clock=now_ms)
    store = PictureStore(picture_path(tmp_path / "backup" / FILES))
    assert store.held([hashlib.sha256(BLUE).digest()])
    store.close()


def test_a_server_encodes_pictures_beside_itself(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    base = small_settings(tmp_path)
    chosen = replace(base.understanding, picture_model="packaged", background=False)
    configured = replace(base, understanding=chosen)
    with Live(Platform.open(configured, build)) as live:
        items = [{"item_id": "blue", "image": url(BLUE)}, {"item_id": "plain"}]
        assert live.http.put("/v1/items", json=items).json()["accepted"] == 2
        found = encode_catalogue(configured)
    assert (found.new, found.kept, found.removed) == (1, 0, 0)
    assert encode_catalogue(configured).kept == 1
