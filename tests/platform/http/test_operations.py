"""What those who operate a server may read of it."""

from __future__ import annotations

import pytest
from tests.platform.support import Live, now_ms, view, wait_until

from tactful.metrics.readings import Reading
from tactful.server import background

LAG = "tactful_engine_lag"
RATE = 'tactful_ingested_per_second{kind="event",result="accepted"}'


def add_points(live: Live, count: int, last: int) -> None:
    for number in range(count):
        at = last - 10_000 * (count - 1 - number)
        live.platform.history.add(at, Reading({LAG: float(number)}, {RATE: 2.0}))


def test_metrics_of_the_last_hour_are_read_in_steps(shared: Live) -> None:
    add_points(shared, 12, now_ms())
    answer = shared.http.get("/v1/metrics", params={"names": LAG, "step": 60}).json()
    (series,) = answer["series"]
    assert (series["name"], answer["step_s"]) == (LAG, 60)
    assert len(series["means"]) == len(answer["times"]) <= 4
    assert max(series["highest"]) == 11
    assert answer["until"] - answer["since"] == 3_600_000


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"since": "0"}, 200),
        ({"since": "0", "step": "10"}, 400),
        ({"step": "5"}, 400),
        ({"since": "9999999999999"}, 400),
        ({"until": "5"}, 400),
        ({"since": "yesterday"}, 400),
        ({"names": "x" * 3000}, 400),
        ({"names": "tactful_nothing"}, 200),
        ({"step": "86400"}, 200),
    ],
)
def test_odd_questions_have_bounded_answers(
    shared: Live, query: dict[str, str], status: int
) -> None:
    answer = shared.http.get("/v1/metrics", params=query)
    assert answer.status_code == status, answer.text
    if status == 200:
        assert len(answer.json()["times"]) <= 1000


def test_exact_rates_are_for_administrators(shop: Live) -> None:
    add_points(shop, 3, now_ms())
    seen = {}
    for scope in ("monitor", "admin", "analyst"):
        headers = {"x-api-key": shop.create_key(scope)}
        answer = shop.http.get("/v1/metrics", headers=headers)
        names = [series["name"] for series in answer.json().get("series", ())]
        seen[scope] = answer.status_code, LAG in names, RATE in names
    assert seen == {
        "monitor": (200, True, False),
        "admin": (200, True, True),
        "analyst": (403, False, False),
    }


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server keeps a point each second."""
    monkeypatch.setattr(background, "STEP_S", 1.0)


@pytest.mark.slow
def test_a_server_keeps_its_own_metrics(hurried: None, live: Live) -> None:
    live.http.post("/v1/events", json=[view(1), {"type": "dance"}])
    live.http.post("/v1/recommend", json={"user_id": "u"})
    recorded = "tactful_request_seconds"
    wait_until(lambda: recorded in str(getattr(live.platform.history.latest, "public", "")))
    answer = live.http.get("/v1/metrics", params={"step": 10}).json()
    found = {series["name"]: series["highest"][-1] for series in answer["series"]}
    assert found[RATE] > 0
    assert found["tactful_memory_bytes"] > 2**24
    assert 0 < found["tactful_disk_free_bytes"] <= found["tactful_disk_bytes"]
    assert any(name.startswith("tactful_rejections_share") for name in found)
    if live.workers:
        assert found['tactful_request_seconds{quantile="0.99",route="/v1/recommend"}'] > 0
