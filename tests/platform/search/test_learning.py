"""A model is trained on the items that searches show and people take, and ranks searches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.platform.shop import (
    DAY,
    MINUTE,
    Clock,
    definitions,
    entries,
    make_shop,
    rename_version,
    write_log,
)
from tests.platform.support import Live

from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.ranking.features import ASKED
from tactful.ranking.model import Pointer, read_manifest, version_directory, write_pointer
from tactful.recommend.build import build
from tactful.server.platform import Platform
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful.util.signing import open_signing_key, sign_directory
from tactful_streaming.contract.log_entries import Item
from tactful_streaming.log.embedded_log import EmbeddedLog

pytest.importorskip("tantivy")

SHOP = make_shop(7, people=14, items=70, days=40)
END = int(SHOP.timestamp[-1])
NOUNS = ("lamp", "chair", "rug", "vase", "clock", "shelf", "mirror", "basket")
UNSEEN = "kettle"  # nobody searches for it before the training
WORDS = ("made", "by", "hand", "from", "very", "old", "wood", "and", "wool")
SIZES = range(6)


def titled() -> list[Item]:
    """Items of each noun; the more other words a title has, the lower its score of the noun."""
    return [
        Item(
            item_id=f"{noun}-{size}",
            timestamp=int(SHOP.timestamp[0]) - DAY,
            title=" ".join([noun, *WORDS[: size + 3]]),
            price=10.0,
        )
        for noun in (*NOUNS, UNSEEN)
        for size in SIZES
    ]


def search(live: Live, noun: str, **fields: Any) -> Any:
    answer = live.http.post("/v1/search", json={"query": f"{noun} ", "limit": 6, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def bought(live: Live, clock: Clock) -> None:
    """Let everybody search for twelve days, and take what has the lowest score of the words."""
    position = None
    for turn in range(24):
        clock.at, events = END + turn * DAY // 2, []
        for number, person in enumerate(sorted({*SHOP.person})):
            noun = NOUNS[(turn + number) % len(NOUNS)]
            shown = search(live, noun, user_id=person, record=False, after=position)
            worst = min(shown["items"], key=lambda item: item["text_match"])
            event = {"type": "purchase", "user_id": person, "item_id": worst["item_id"]}
            event["recommendation_id"] = shown["recommendation_id"]
            events.append(event | {"timestamp": clock.at + MINUTE})
        clock.at += 2 * MINUTE
        position = live.http.post("/v1/events", json=events).json()["position"]
    clock.at += 2 * DAY  # the time of the outcomes is over
    live.http.post("/v1/events", json={"type": "view", "user_id": "u", "item_id": "lamp-0"})


def train_on(data: Path, models: Path, version: str) -> Path:
    """Train a version of the model, which is served from now on."""
    place = version_directory(models, version)
    with EmbeddedLog(data / "log") as log:
        train(log, definitions(), place, TrainingOptions(label_days=30, rounds=25, threads=1))
    rename_version(place, version)
    sign_directory(place, open_signing_key(data))
    write_pointer(models, Pointer(version=version))
    return place


@pytest.mark.slow  # three hundred searches and two trainings
def test_searches_train_the_ranking_of_searches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, models, clock = tmp_path / "data", tmp_path / "models", Clock()
    clock.at = END
    monkeypatch.setattr("tactful.server.resources.now_ms", clock)
    (data / "log").mkdir(parents=True)
    write_log(data / "log", [*entries(SHOP), *titled()]).close()
    settings = Settings(
        server=ServerSettings(port=0, dev=True, recommend_wait_s=60, recommend_standing_s=60),
        storage=StorageSettings(data=data, models=models, durability="process"),
    )
    asked = {"user_id": SHOP.person[0], "record": False}
    train_on(data, models, "1")
    with Live(Platform.open(settings, build)) as live:
        before = search(live, UNSEEN, **asked)
        bought(live, clock)
    place = train_on(data, models, "2")
    # Score and BM25 have one order here, so that the trees use either.
    assert not read_manifest(place).gains.keys().isdisjoint(ASKED)
    with Live(Platform.open(settings, build)) as live:
        after = search(live, UNSEEN, **asked)
    assert [answer["model_version"] for answer in (before, after)] == ["1", "2"]
    texts = [[item["text_match"] for item in it["items"]] for it in (before, after)]
    assert texts[0][0] == max(texts[0]), "at first the best match comes first"
    assert texts[1][0] == min(texts[1]), "the model has learned what people take"
