"""Champions are swapped under load, over HTTP, and no request fails."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.shop import entries, make_shop, rename_version, train_version, write_log
from tests.platform.support import Live, now_ms, wait_until

from tactful.config.engine import EngineSettings
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.ranking.model import Pointer, read_manifest, version_directory, write_pointer
from tactful.recommend.build import build
from tactful.recommend.recommender import LEARNED, RANKING_EXPERIMENT
from tactful.server.platform import Platform

SHOP = make_shop(7, people=14, items=70, days=40)
SPOILED = "9"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, and in `models` three versions that fit and one that does not."""
    directory = tmp_path_factory.mktemp("trained")
    log = write_log(directory / "log", entries(SHOP))
    first = train_version(log, directory / "models", rounds=10)
    log.close()
    features = read_manifest(first).features
    for version in ("2", "3", SPOILED):
        place = Path(shutil.copytree(first, version_directory(directory / "models", version)))
        order = -1 if version == SPOILED else 1
        rename_version(place, version, features=features[::order])
    return directory


@pytest.fixture
def settings(trained: Path, tmp_path: Path) -> Settings:
    shutil.copytree(trained / "log", tmp_path / "data" / "log")
    models = Path(shutil.copytree(trained / "models", tmp_path / "models"))
    write_pointer(models, Pointer(version="1"))
    return Settings(
        # Four threads send as fast as they can: a slow machine cannot keep up.
        server=ServerSettings(port=0, dev=True, recommend_wait_s=60, recommend_standing_s=60),
        storage=StorageSettings(data=tmp_path / "data", models=models, durability="process"),
        engine=EngineSettings(clock="events"),
    )


class Load:
    """Outcomes of the requests."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.versions: Counter[str] = Counter()
        self.failures: list[str] = []

    def seen(self, version: str) -> None:
        """Wait for a recommendation of a version."""
        before = self.versions[version]
        wait_until(lambda: self.versions[version] > before, seconds=60)


@contextmanager
def load_on(live: Live) -> Iterator[Load]:
    """Send requests, events and items until the context ends."""
    load, stop, lock = Load(), threading.Event(), threading.Lock()

    def ask(number: int) -> None:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            for person in itertools.islice(itertools.cycle(SHOP.person), number, None):
                if stop.is_set():
                    return
                body = {"user_id": person, "force": {RANKING_EXPERIMENT: LEARNED}}
                try:
                    answer = http.post("/v1/recommend", json=body)
                except httpx.HTTPError as error:
                    load.failures.append(repr(error))
                    continue
                with lock:
                    load.statuses[answer.status_code] += 1
                    if answer.status_code == 200:
                        load.versions[answer.json()["model_version"]] += 1

    def send() -> None:
        with httpx.Client(base_url=live.url, timeout=60) as http:
            for number in itertools.count():
                if stop.wait(0.01):
                    return
                item: dict[str, Any] = {"item_id": f"new-{number % 40}", "category": "kind-1"}
                view = {"type": "view", "timestamp": now_ms(), "user_id": "u", **item}
                del view["category"]
                for answer in (
                    http.put("/v1/items", json=[{**item, "price": number % 9 + 0.5}]),
                    http.post("/v1/events", json=view),
                ):
                    with lock:
                        load.statuses[answer.status_code] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    threads.append(threading.Thread(target=send))
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


@pytest.mark.slow
def test_no_request_fails_while_champions_come_and_go(settings: Settings) -> None:
    models = settings.models
    with Live(Platform.open(settings, build)) as live:
        with load_on(live) as load:
            load.seen("1")
            for version, previous in (("2", "1"), ("3", "2"), ("2", "3"), ("1", "2")):
                write_pointer(models, Pointer(version=version, previous=previous))
                load.seen(version)
            write_pointer(models, Pointer(version=SPOILED, previous="1"))
            wait_until(lambda: live.http.get("/v1/models").json()["refused"] is not None)
            load.seen("1")
        said = live.http.get("/v1/models").json()
    assert load.failures == []
    assert set(load.statuses) == {200, 202}, load.statuses
    assert set(load.versions) == {"1", "2", "3"}
    assert said["champion"]["version"] == "1"
    assert "order differs" in said["refused"]


def test_a_restart_with_an_unfit_champion_serves_the_last_one(settings: Settings) -> None:
    write_pointer(settings.models, Pointer(version=SPOILED, previous="2"))
    calm = replace(settings, server=replace(settings.server, recommend_wait_s=1))
    with Live(Platform.open(calm, build)) as live:
        body = {"user_id": SHOP.person[0], "force": {RANKING_EXPERIMENT: LEARNED}}
        answer = live.http.post("/v1/recommend", json=body)
    assert (answer.status_code, answer.json()["model_version"]) == (200, "2")


def test_a_changed_champion_is_refused_and_the_last_one_serves(settings: Settings) -> None:
    """It is changed after the server has signed the models of an earlier version."""
    Platform.open(settings, build).close()
    (version_directory(settings.models, "3") / "index" / "index.json").write_text("{}")
    write_pointer(settings.models, Pointer(version="3", previous="2"))
    with Live(Platform.open(settings, build)) as live:
        said = live.http.get("/v1/models").json()
    assert (said["champion"]["version"], "signed" in said["refused"]) == ("2", True)
