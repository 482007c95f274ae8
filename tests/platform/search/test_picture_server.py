"""Search by picture over HTTP, with an encoder whose vector is the mean colour."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.platform.support import Live, small_settings
from tests.platform.understanding.tiny_picture_model import plain_picture, write_picture_model

from tactful.cli.main import main
from tactful.client.aio import AsyncClient
from tactful.client.sync import Client
from tactful.errors import BadRequest, StorageError
from tactful.models.encode_catalogue import described, encode_catalogue
from tactful.recommend.build import build
from tactful.server.platform import Platform

for module in ("tantivy", "onnxruntime", "PIL", "onnx"):
    pytest.importorskip(module)

COLOURS = {"ruby": (255, 0, 0), "rose": (255, 60, 60), "leaf": (0, 255, 0), "sky": (0, 40, 255)}
RED, BLUE = plain_picture((250, 5, 5)), plain_picture((10, 10, 240), kind="JPEG")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("pictures")
    base = small_settings(directory)
    model = str(write_picture_model(directory / "colours"))
    chosen = replace(base.understanding, picture_model=model, background=False, query_s=60.0)
    with Live(Platform.open(replace(base, understanding=chosen), build)) as live:
        items: list[dict[str, Any]] = [
            {"item_id": it, "title": f"{it} scarf", "price": 9, "image": url(plain_picture(colour))}
            for it, colour in COLOURS.items()
        ]
        items.append({"item_id": "plain", "title": "plain scarf"})
        sent = live.http.put("/v1/items", json=items).json()
        body = {"query": "scarf", "after": sent["position"]}
        assert live.http.post("/v1/search", json=body).json()["total"] == 5
        held = live.platform.backend.source.items.values()
        assert encode_catalogue(live.platform.settings, map(described, held)).new == 4
        yield live


def url(picture: bytes) -> str:
    return f"data:image/png;base64,{b64encode(picture).decode()}"


def search(live: Live, picture: bytes, **fields: Any) -> Any:
    return live.http.post("/v1/search", json={"picture": b64encode(picture).decode(), **fields})


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer.json()["items"]]


def test_items_that_look_like_a_picture_are_found(shop: Live) -> None:
    answer = search(shop, RED, facets=["price"], user_id="u-1")
    assert ids(answer) == ["ruby", "rose"]
    first, second = answer.json()["items"]
    assert first["vector_match"] == pytest.approx(1.0, abs=1e-3)
    assert (first["text_match"], first["vector_match"] > second["vector_match"]) == (None, True)
    assert answer.json()["note"] is None and answer.json()["recommendation_id"]
    assert sum(part["items"] for part in answer.json()["facets"]["prices"]) == 2
    assert ids(search(shop, BLUE)) == ["sky"]
    assert ids(search(shop, RED, max_price=1)) == []


def test_neighbours_of_an_item_by_picture(shop: Live) -> None:
    def near(item_id: str) -> list[str]:
        read = shop.http.get(f"/v1/items/{item_id}/neighbours", params={"count": 1}).json()
        assert read["meaning"] is None
        return [it["item_id"] for it in read["pictures"]]

    assert (near("ruby"), near("rose"), near("plain")) == (["rose"], ["ruby"], [])


def test_a_damaged_store_of_pictures_leaves_the_other_neighbours(
    shop: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(item: object) -> bytes:
        raise StorageError("pictures.db: database disk image is malformed")

    monkeypatch.setattr(shop.platform.searches._near, "_picture_of", damaged)
    read = shop.http.get("/v1/items/ruby/neighbours")
    assert (read.status_code, read.json()["pictures"]) == (200, None)


def test_words_beside_a_picture_count_as_much(shop: Live) -> None:
    assert ids(search(shop, RED, query="scarf"))[0] == "ruby"
    both = ids(search(shop, RED, query="rose"))
    assert (both[0], {*both}) == ("rose", {"rose", "ruby"})


def test_a_page_needs_the_same_picture(shop: Live) -> None:
    first = search(shop, RED, limit=1)
    cursor = first.json()["next_cursor"]
    assert ids(search(shop, RED, limit=1, cursor=cursor)) == ["rose"]
    other = search(shop, BLUE, limit=1, cursor=cursor)
    assert (other.status_code, other.json()["field"]) == (422, "$.cursor")


def test_refusals_have_reasons(shop: Live) -> None:
    for data, reason in {
        b"": "empty",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>": "SVG",
        RED[:50]: "damaged",
        plain_picture((1, 2, 3), kind="BMP"): "unknown format",
        b"\x89PNG\r\n\x1a\n" + bytes(100): "damaged",
    }.items():
        answer = search(shop, data)
        assert (answer.status_code, answer.json()["field"]) == (422, "$.picture")
        assert reason in answer.json()["detail"]
    assert shop.http.post("/v1/search", json={"picture": "no base64!"}).status_code == 422
    both = {"picture": "", "audio": ""}
    assert "no picture" in shop.http.post("/v1/search", json=both).json()["detail"]
    assert ids(search(shop, RED))  # it answers on


def test_clients_and_command_send_pictures(shop: Live, tmp_path: Path) -> None:
    url = str(shop.http.base_url)
    with Client(url) as client:
        assert [hit.item_id for hit in client.search("", picture=BLUE).items] == ["sky"]
        with pytest.raises(BadRequest, match="empty"):
            client.search("", picture=b"")

    async def asked() -> list[str]:
        async with AsyncClient(url) as other:
            return [hit.item_id for hit in (await other.search("", picture=BLUE)).items]

    assert asyncio.run(asked()) == ["sky"]
    file = tmp_path / "red.png"
    file.write_bytes(RED)
    printed = CliRunner().invoke(main, ["items", "search", "--picture", str(file), "--url", url])
    assert printed.stdout.splitlines() == ["ruby  ruby scarf", "rose  rose scarf"], printed.output
    nothing = CliRunner().invoke(main, ["items", "search", "--url", url])
    assert nothing.exit_code == 2 and "--picture" in nothing.output


def test_a_server_without_an_encoder_says_so(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        answer = search(live, RED)
        assert answer.status_code == 404 and "picture_model" in answer.json()["detail"]
