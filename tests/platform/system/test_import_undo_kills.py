"""Undo of an import by a server that is killed again and again."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.platform.maintenance.test_import_undo import BEGIN, HEADERS, IMPORT, USERS, drawn
from tests.platform.support import wait_until
from tests.platform.system.test_durability import Process


def send(url: str, events: list[dict[str, Any]], headers: dict[str, str] | None = None) -> None:
    for start in range(0, len(events), 500):
        part = events[start : start + 500]
        answer = httpx.post(f"{url}/v1/events", json=part, headers=headers, timeout=60)
        assert answer.status_code == 202, answer.text


def features(url: str) -> list[Any]:
    """Return the features of all users once everything is applied."""
    end = httpx.post(f"{url}/v1/events", json=[]).json()["position"]
    at = BEGIN + 21 * 86_400_000

    def of(user: str) -> dict[str, Any]:
        return dict(httpx.get(f"{url}/v1/users/{user}/features", params={"at": at}).json())

    wait_until(lambda: of(USERS[0]).get("position", -1) >= end)
    return [of(user)["features"] for user in USERS]


@pytest.mark.slow
def test_kills_during_an_undo_change_nothing_of_its_result(tmp_path: Path) -> None:
    random_ = random.Random(1)
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    server = Process(tmp_path / "with")
    server.start()
    send(server.url, drawn(1, 600))
    body = {"name": "wrong.csv", "kind": "events"}
    httpx.put(f"{server.url}/v1/imports/{IMPORT}", json=body).raise_for_status()
    send(server.url, drawn(2, 1_500), HEADERS)
    send(server.url, drawn(3, 600))
    assert httpx.delete(f"{server.url}/v1/imports/{IMPORT}").status_code == 202

    def told() -> dict[str, Any]:
        return dict(httpx.get(f"{server.url}/v1/imports/{IMPORT}", timeout=60).json())

    for place in ("log", "models"):
        wait_until(lambda place=place: _is_past(told(), place), 120)  # type: ignore[misc]
        time.sleep(random_.random() * 2)
        server.end(signal.SIGKILL)
        server.start()
    wait_until(lambda: told()["state"] == "undone", 120)
    found = features(server.url)
    server.end(signal.SIGKILL)
    other = Process(tmp_path / "without")
    other.start()
    send(other.url, drawn(1, 600))
    send(other.url, drawn(3, 600))
    assert features(other.url) == found
    other.end(signal.SIGTERM)


def _is_past(told: dict[str, Any], place: str) -> bool:
    steps = {step["place"] for step in told["undo"]["steps"]}
    return place in steps or told["state"] == "undone"
