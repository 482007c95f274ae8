"""Routes for those who operate a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.platform.support import Live, build, now_ms, small_settings, view, wait_until

from tactful.client import Client
from tactful.client.routes import operations as routes
from tactful.metrics.readings import Reading
from tactful.server import background
from tactful.server.platform import Platform
from tactful.util.jobs import tracked

LAG = "tactful_engine_lag"
RATE = 'tactful_ingested_per_second{kind="event",result="accepted"}'


@pytest.fixture
def live_jobs(tmp_path: Path) -> Iterator[Live]:
    """Server of one process with a data directory of its own."""
    with Live(Platform.open(small_settings(tmp_path), build)) as server:
        yield server


def add_points(live: Live, count: int, last: int) -> None:
    for number in range(count):
        at = last - 10_000 * (count - 1 - number)
        live.platform.history.add(at, Reading({LAG: float(number)}, {RATE: 2.0}))


def test_metrics_of_the_last_hour_are_read_in_steps(shared: Live) -> None:
    add_points(shared, 12, now_ms())
    answer = shared.http.get("/v1/metrics", params={"names": LAG, "step": 60}).json()
    (series,) = answer["series"]
    assert (series["name"], answer["step_s"]) == (LAG, 60)
    # The server itself adds points, of a minute each as well.
    assert len(series["means"]) == len(answer["times"]) <= 61
    assert not any(at % 60_000 for at in answer["times"])
    assert 11 in series["highest"]
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


@pytest.mark.slow
def test_a_monitor_does_not_learn_when_somebody_acted_or_left(locked: Live) -> None:
    platform = locked.platform
    platform.online_erasures.stop()
    platform.erasures.request("somebody")
    keys = {scope: {"x-api-key": locked.create_key(scope)} for scope in ("admin", "monitor")}
    assert locked.http.post("/v1/events", json=[view(1)], headers=keys["admin"]).is_success
    wait_until(lambda: platform.engine.watermark > 0)
    seen = {}
    for scope, key in keys.items():
        system = locked.http.get("/v1/system", headers=key).json()
        jobs = locked.http.get("/v1/jobs", headers=key).json()["jobs"]
        kinds = [job["kind"] for job in jobs]
        seen[scope] = system["watermark_at"] is None, "erasure" in kinds
    assert seen == {"admin": (False, True), "monitor": (True, False)}
    lines = locked.http.get("/metrics", headers=keys["monitor"]).text.splitlines()
    (age,) = [line for line in lines if line.startswith("tactful_watermark_age_seconds")]
    assert float(age.split()[-1]) % 60 == 0


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server keeps a point each second."""
    monkeypatch.setattr(background, "STEP_S", 1.0)


@pytest.mark.slow
def test_a_server_keeps_its_own_metrics(hurried: None, live: Live) -> None:
    live.http.post("/v1/events", json=[view(1), {"type": "dance"}])
    live.http.post("/v1/recommend", json={"user_id": "u"})
    recorded = "/v1/recommend" if live.workers else "tactful_request_seconds"
    wait_until(lambda: recorded in str(getattr(live.platform.history.latest, "public", "")))
    answer = live.http.get("/v1/metrics", params={"step": 10}).json()
    highest = {series["name"]: series["highest"] for series in answer["series"]}
    found = {name: max(it or 0.0 for it in values) for name, values in highest.items()}
    assert found[RATE] > 0
    assert found["tactful_memory_bytes"] > 2**24
    assert 0 < found["tactful_disk_free_bytes"] <= found["tactful_disk_bytes"]
    assert any(name.startswith("tactful_rejections_share") for name in found)
    if live.workers:
        assert found['tactful_request_seconds{quantile="0.99",route="/v1/recommend"}'] > 0


def test_jobs_are_listed_newest_first_and_by_page(live_jobs: Live) -> None:
    data = live_jobs.platform.settings.storage.data
    with tracked(data, "training", clock=lambda: 2000) as job:
        job.advance(1, 4, "replay")
        with pytest.raises(ValueError, match="broken"), tracked(data, "backup", clock=lambda: 3000):
            raise ValueError("broken")
        first = live_jobs.http.get("/v1/jobs", params={"limit": 1}).json()
        cursor = first["next_cursor"]
        second = live_jobs.http.get("/v1/jobs", params={"cursor": cursor}).json()
    (backup,), (training, *_) = first["jobs"], second["jobs"]
    assert (backup["kind"], backup["state"]) == ("backup", "failed")
    assert (training["state"], training["stage"], training["progress"]) == (
        *("running", "replay"),
        0.25,
    )


def test_the_machine_is_described_with_its_last_backup(live_jobs: Live) -> None:
    data = live_jobs.platform.settings.storage.data
    assert live_jobs.http.get("/v1/system").json()["last_backup"] is None
    with tracked(data, "backup", clock=lambda: 1000):
        pass
    with pytest.raises(OSError, match="full"), tracked(data, "backup", clock=lambda: 2000):
        raise OSError("full")
    found = live_jobs.http.get("/v1/system").json()
    assert found["last_backup"]["ended_at"] == 1000
    assert (found["status"], found["log"], found["lag"]) == ("ok", "embedded", 0)
    assert 0 < found["disk_free_bytes"] <= found["disk_bytes"]
    assert found["memory_bytes"] > 2**24
    states = {check["name"]: check["state"] for check in found["checks"]}
    assert {"engine", "space", "permissions", "model", "retention"} <= states.keys()
    assert (states["engine"], states["model"]) == ("ok", "warning")


def test_an_erasure_that_waits_is_a_job_without_a_name(live_jobs: Live) -> None:
    platform = live_jobs.platform
    platform.online_erasures.stop()
    platform.erasures.request("somebody")
    answer = live_jobs.http.get("/v1/jobs")
    (job,) = [job for job in answer.json()["jobs"] if job["kind"] == "erasure"]
    assert (job["state"], job["stage"]) == ("running", "waiting")
    assert "somebody" not in answer.text


def test_the_clients_read_all_of_it(live_jobs: Live) -> None:
    with Client(live_jobs.url) as client:
        assert client.run(routes.jobs(limit=5)).next_cursor is None
        assert client.run(routes.system()).status == "ok"
        add_points(live_jobs, 2, now_ms())
        page = client.run(routes.metrics([LAG], since=0, step=86_400))
        assert [series.name for series in page.series] == [LAG]
