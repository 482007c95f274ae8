"""A server watches the Flink job: readiness, gauges, the doctor, and an outage of the cluster."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.platform.support import Live, build, small_settings, wait_until
from tests.streaming.flink_rest import Fake, Recorded, cluster_with

from tactful.config.engine import FlinkSettings
from tactful.config.settings import Settings
from tactful.maintenance.check_flink import check_flink, read_health
from tactful.maintenance.doctor import examine
from tactful.server import background
from tactful.server.flink_job import FlinkMonitor, open_monitor
from tactful.server.platform import Platform
from tactful_streaming.errors import FlinkUnreachableError
from tactful_streaming.flink.job_health import JobHealth

WELL = JobHealth("tactful", job="j", state="RUNNING", checkpoint_age_s=2.0, lag=7, restarts=1)


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()


def watching(settings: Settings, cluster: str) -> Settings:
    """Settings of a server whose features come from a cluster, as far as the watch reads them."""
    changed = replace(settings, flink=FlinkSettings(cluster=cluster))
    # Other parts of the configuration need Kafka and Redis, which this test does without.
    object.__setattr__(changed, "engine", replace(changed.engine, kind="flink"))
    return changed


def test_it_reports_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[JobHealth | Exception] = [
        WELL,
        FlinkUnreachableError("http://f does not answer"),
        replace(WELL, state="RESTARTING"),
        WELL,
        WELL,
    ]

    def read() -> JobHealth:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monitor = FlinkMonitor(read)
    assert (monitor.finding, monitor.failing, monitor.lag) == ("not read yet", False, 0.0)
    found = []
    with caplog.at_level(logging.INFO, "tactful.server.flink_job"):
        while answers:
            monitor.look()
            found.append((monitor.finding, monitor.failing, monitor.checkpoint_age_s, monitor.lag))
    assert found == [
        ("ok", False, 2.0, 7.0),
        ("http://f does not answer", True, 0.0, 0.0),
        ("job tactful is RESTARTING", True, 2.0, 7.0),
        ("ok", False, 2.0, 7.0),
        ("ok", False, 2.0, 7.0),
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    monitor = FlinkMonitor(lambda: replace(WELL, checkpoint_age_s=None, running_s=40.0, lag=None))
    monitor.look()
    assert (monitor.checkpoint_age_s, monitor.lag, monitor.restarts) == (40.0, 0.0, 1.0)


def test_only_a_server_with_a_cluster_watches(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    assert open_monitor(settings) is None
    assert open_monitor(replace(settings, flink=FlinkSettings(cluster="http://f"))) is None
    assert open_monitor(watching(settings, "")) is None
    assert open_monitor(watching(settings, "http://f")) is not None


def test_readiness_and_gauges_follow_the_job(
    tmp_path: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "LOOK_S", 0.02)
    fake.answers = cluster_with(Recorded(completed=4.5, restarts=2))
    settings = small_settings(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        # The platform itself is that of an embedded engine; only the watch is under test.
        patch.setattr(
            "tactful.server.platform.open_monitor",
            lambda given: open_monitor(watching(given, fake.url)),
        )
        platform = Platform.open(settings, build)

    def shown() -> dict[str, float]:
        text = live.http.get("/metrics").text
        return {
            name: float(value)
            for name, value in re.findall(r"^tactful_flink_(\w+) (\S+)$", text, re.MULTILINE)
        }

    def check() -> str:
        answer = live.http.get("/readyz")
        assert answer.status_code == 200, "a job that is gone takes no server away"
        return str(answer.json()["checks"]["flink"])

    with Live(platform) as live:
        wait_until(lambda: check() == "ok")
        assert shown() == {
            "job_failing": 0.0,
            "checkpoint_age_seconds": 4.5,
            "lag": 7.0,
            "job_restarts": 2.0,
        }
        fake.answers = cluster_with(Recorded("FAILED", failures=(9.0,)))
        wait_until(lambda: "is FAILED" in check())
        assert shown()["job_failing"] == 1.0
        fake.close()
        wait_until(lambda: "does not answer" in check())
        assert shown() == {
            "job_failing": 1.0,
            "checkpoint_age_seconds": 0.0,
            "lag": 0.0,
            "job_restarts": 0.0,
        }
        checks = {it.name: it for it in live.platform.system().checks}
        assert checks["flink"].state == "failed"


@pytest.mark.parametrize(
    ("job", "state", "said"),
    [
        (Recorded(), "ok", "job tactful runs on {}, its last checkpoint is 1 s old, 7 records"),
        (Recorded(pending=()), "ok", "1 s old"),
        (Recorded("RESTARTING"), "warning", "job tactful is RESTARTING; features stay as they are"),
        (Recorded(name="other"), "warning", "no job tactful on the cluster"),
    ],
)
def test_the_doctor_reads_the_job(
    tmp_path: Path, fake: Fake, job: Recorded, state: str, said: str
) -> None:
    fake.answers = cluster_with(job)
    settings = watching(small_settings(tmp_path), fake.url)
    assert read_health(settings).name == "tactful"
    (check,) = [check for check in examine(settings) if check.name == "flink"]
    assert check.state == state
    assert said.format(fake.url) in check.said


def test_the_doctor_without_a_cluster(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    assert check_flink(watching(settings, ""))[0] == "warning"
    state, said = check_flink(watching(settings, "http://127.0.0.1:9"))
    assert state == "warning" and "127.0.0.1:9 does not answer" in said
    assert "flink" not in {check.name for check in examine(settings)}
