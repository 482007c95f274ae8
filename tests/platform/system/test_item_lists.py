"""Lists of items of ``tactful serve``: trained and untrained, one process and workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.platform.shop import entries, make_shop, train_version, write_log
from tests.platform.support import now_ms, wait_until
from tests.platform.system.test_worker_processes import Server

from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.models.untrained_recall import learn_recall
from tactful.ranking.model import Pointer, write_pointer
from tactful.training.history import History
from tactful_streaming.log.embedded_log import EmbeddedLog

SHOP = make_shop(7, people=40, items=40, days=40)
LEAST = 10
LISTS = ("similar", "together", "next")
EVERYWHERE = ("popular", "trending", "latest")


@pytest.fixture(scope="module", params=["trained", "untrained"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with a log, and a model that serves or recall that needs none."""
    data = tmp_path_factory.mktemp(request.param) / "data"
    log = write_log(data / "log", entries(SHOP))
    if request.param == "trained":
        train_version(log, data / "models")
        write_pointer(data / "models", Pointer(version="1"))
    log.close()
    if request.param == "untrained":
        assert learn_recall(Settings(storage=StorageSettings(data=data))) is not None
    first = Server(data, workers=0)  # so that both servers begin with the same state
    assert first.stop() == 0
    return data


def every_list(server: Server, items: list[str]) -> dict[str, Any]:
    """Return all lists, each on a new connection, which may meet another worker."""
    paths = [f"items/{quote(item)}/{name}?count=60" for item in items for name in LISTS]
    paths += [f"{name}?count=25&category={kind}" for name in EVERYWHERE for kind in _kinds()]
    paths += [*EVERYWHERE, "items?search=item&limit=1000", *(f"items/{it}" for it in items)]
    with httpx.Client(base_url=f"{server.url}/v1/", timeout=30) as http:
        answers = {}
        for path in paths:
            answer = http.get(path, headers={"connection": "close"})
            assert answer.status_code == 200, answer.text
            answers[path] = answer.json()
    return answers


def _kinds() -> list[str]:
    return sorted({item["category"] for item in SHOP.items})[:3]


@pytest.mark.slow
def test_workers_list_what_one_process_lists(data: Path, tmp_path: Path) -> None:
    """And both list what a count over the log has found."""
    items = [item["item_id"] for item in SHOP.items]
    alone = Server(Path(shutil.copytree(data, tmp_path / "alone")), workers=0)
    several = Server(Path(shutil.copytree(data, tmp_path / "several")), workers=2)
    try:
        wait_until(lambda: bool(alone.http.get("/v1/popular").json()["items"]))
        wait_until(lambda: every_list(several, items[:3]) == every_list(alone, items[:3]))
        found = every_list(alone, items)
        assert every_list(several, items) == found
        check_against_the_log(data, items, found)
        for server in (alone, several):
            check_a_new_item(server)
    finally:
        assert several.stop() == 0
        assert alone.stop() == 0


def check_a_new_item(server: Server) -> None:
    """Send an item, which lists contain at once: what a worker lacks, it forwards."""
    fresh = {"item_id": "a/new", "title": "item new", "category": "new"}
    server.http.put("/v1/items", json=[fresh]).raise_for_status()

    def found(path: str) -> bool:
        answer = server.http.get(f"/v1/{path}", params={"category": "new"})
        return [item["item_id"] for item in answer.json()["items"]] == ["a/new"]

    wait_until(lambda: server.http.get("/v1/items/a%2Fnew/similar").status_code == 200)
    wait_until(lambda: server.http.get("/v1/items/a%2Fnew/together").status_code == 200)
    wait_until(lambda: found("latest") and found("items"))


def check_against_the_log(data: Path, items: list[str], found: dict[str, Any]) -> None:
    """Compare lists of pairs with the people of each pair."""
    log = EmbeddedLog(data / "log", durability="process")
    history = History.read(log)
    log.close()
    subjects, rows = history.subjects, {id_: row for row, id_ in enumerate(history.item_ids)}
    takers: dict[int, set[str | None]] = {}
    visits: dict[int, set[int]] = {}
    for row, visit in zip(history.item.tolist(), history.session.tolist(), strict=True):
        takers.setdefault(row, set()).add(subjects[visit])
        visits.setdefault(visit, set()).add(row)
    listed = 0
    for item in items:
        row, together = rows[item], found[f"items/{quote(item)}/together?count=60"]["items"]
        people: dict[int, set[str | None]] = {}
        for visit, taken in visits.items():
            if row in taken:
                for other in taken - {row}:
                    people.setdefault(other, set()).add(subjects[visit])
        shown = {other["item_id"] for other in together}
        listed += len(shown)
        for other_id in shown:
            assert len(people[rows[other_id]]) >= LEAST
        for other, who in people.items():
            common = min(len(takers.get(row, ())), len(takers[other])) >= LEAST
            described = found[f"items/{history.item_ids[other]}"]
            if common and len(who) >= LEAST and described["available"]:
                assert history.item_ids[other] in shown
    assert listed > 100


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An empty server that learns recall every second and lets three people make a pair."""
    monkeypatch.setenv("TACTFUL_TRAINING__RECALL_SECONDS", "1")
    monkeypatch.setenv("TACTFUL_RECOMMEND__ANONYMOUS_MINIMUM", "3")
    (tmp_path / "data").mkdir()
    server = Server(tmp_path / "data", workers=1)
    yield server
    assert server.stop() == 0


@pytest.mark.slow
def test_a_new_shop_lists_pairs_within_seconds_and_no_secret(untrained: Server) -> None:
    """Items and events in, and out come pairs; one person's pair never comes out."""
    http = untrained.http
    now = now_ms()
    items = [{"item_id": f"i/{number}", "title": f"thing {number}"} for number in range(12)]
    http.put("/v1/items", json=items).raise_for_status()
    visits = [(f"p{n}", ["i/0", "i/1", "i/2"]) for n in range(4)]
    visits += [(f"q{n}", ["i/3"]) for n in range(4)] + [(f"r{n}", ["i/4"]) for n in range(4)]
    visits += [("victim", ["i/3", "i/4"]), ("friend", ["i/3", "i/4"])]
    events = [
        {"type": "purchase", "timestamp": now - 60_000 + place, "item_id": item}
        | {"user_id": person, "session_id": f"s-{person}", "event_id": f"{person}-{place}"}
        for person, taken in visits
        for place, item in enumerate(taken)
    ]
    http.post("/v1/events", json=events).raise_for_status()

    def listed(path: str) -> list[str]:
        return [item["item_id"] for item in http.get(f"/v1/items/{path}").json()["items"]]

    wait_until(lambda: {*listed("i%2F0/together")} == {"i/1", "i/2"})
    wait_until(lambda: listed("i%2F0/next") == ["i/1"])
    for item in ("i%2F3", "i%2F4"):
        assert listed(f"{item}/together") == listed(f"{item}/next") == []
    assert {*listed("i%2F9/similar")} == {f"i/{number}" for number in range(12)} - {"i/9"}
