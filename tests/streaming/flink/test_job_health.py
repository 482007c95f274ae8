"""Health of a job, from answers as a cluster gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.streaming.flink_rest import NOW, Fake, Recorded, cluster_with

from tactful_streaming.errors import FlinkError, FlinkUnreachableError
from tactful_streaming.flink.job_health import ABSENT, LOOP_FAILURES, JobHealth, job_health
from tactful_streaming.flink.rest_client import ENDED, FlinkCluster


@pytest.fixture
def cluster(fake: Fake) -> Iterator[FlinkCluster]:
    with FlinkCluster(fake.url) as opened:
        yield opened


def test_a_job_that_is_well(fake: Fake, cluster: FlinkCluster) -> None:
    job = Recorded(restarts=2, pending=("7", "NaN", "5"), failures=(700.0,), completed=4.5)
    fake.answers = cluster_with(job)
    health = job_health(cluster, "tactful")
    assert health == JobHealth(
        name="tactful",
        job=job.id,
        state="RUNNING",
        running_s=3_600.0,
        restarts=2,
        recent_failures=0,
        failure="Caused by: IOException: no broker",
        checkpoint_age_s=4.5,
        checkpoint=job.path,
        interval_s=10.0,
        lag=12,
    )
    assert health.problem == ""
    assert job_health(cluster, job.id) == replace(health, name=job.id)


FAILURES = tuple(10.0 * n for n in range(2, 2 + LOOP_FAILURES))


@pytest.mark.parametrize(
    ("jobs", "problem"),
    [
        ([], "no job tactful on the cluster: start it"),
        ([Recorded(name="other")], "no job tactful on the cluster"),
        (
            [Recorded("FAILED", failures=(9.0,))],
            "is FAILED: Caused by: IOException: no broker; `",
        ),
        ([Recorded("CANCELED")], "is CANCELED; `tactful flink submit` resumes it"),
        ([Recorded("FINISHED")], "is FINISHED"),
        ([Recorded(), Recorded(id="cd" * 16, started=9)], "2 jobs tactful run at once"),
        ([Recorded("RESTARTING", failures=(1.0,))], "is RESTARTING: Caused by: IOException"),
        ([Recorded("FAILING")], "is FAILING"),
        ([Recorded("CREATED", completed=None, started=1)], "is CREATED"),
        # Between two failures the job looks as if it ran: only their number shows the loop.
        ([Recorded(failures=FAILURES, completed=60.0)], "fails again and again, 3 times in 10 min"),
        ([Recorded("RESTARTING", failures=FAILURES, completed=None)], "fails again and again, 3"),
        ([Recorded(checkpointing=False)], "makes no checkpoints"),
        ([Recorded(interval_ms=2**63 - 1)], "makes no checkpoints"),
        ([Recorded(completed=101.0)], "no checkpoint for 2 minutes: see"),
        ([Recorded(completed=101.0, failed=2)], "2 minutes, the last attempt failed: see"),
        ([Recorded(completed=None, started=600.0)], "no checkpoint for 10 minutes"),
        # These are well.
        ([Recorded(failures=FAILURES, completed=1.0)], ""),
        ([Recorded(failures=FAILURES[1:], completed=60.0)], ""),
        ([Recorded(failures=FAILURES, completed=35.0)], ""),  # one of them was before
        ([Recorded(completed=99.0)], ""),
        ([Recorded(completed=900.0, interval_ms=100_000)], ""),
        ([Recorded(completed=59.0, interval_ms=500)], ""),
        ([Recorded(completed=None, started=30.0)], ""),
        ([Recorded(pending=())], ""),
        ([Recorded("FAILED", id="cd" * 16, started=1), Recorded(started=99)], ""),
    ],
)
def test_problems(fake: Fake, cluster: FlinkCluster, jobs: list[Recorded], problem: str) -> None:
    fake.answers = cluster_with(*jobs)
    found = job_health(cluster, "tactful").problem
    assert problem in found
    assert bool(found) == bool(problem)


def test_of_ended_jobs_the_newest_counts(fake: Fake, cluster: FlinkCluster) -> None:
    older = Recorded("FAILED", id="cd" * 16, started=500)
    fake.answers = cluster_with(older, Recorded("CANCELED", started=100))
    assert job_health(cluster, "tactful").state == "CANCELED"
    assert {"FAILED", "CANCELED"} < ENDED


def test_a_job_removed_meanwhile_is_absent(fake: Fake, cluster: FlinkCluster) -> None:
    known = Recorded().overview()
    fake.answers = {
        "GET /jobs/overview": [(200, {"jobs": [known]}), (200, {"jobs": []})],
    }
    assert job_health(cluster, "tactful").state == ABSENT


def test_an_answer_that_is_refused_is_an_error(fake: Fake, cluster: FlinkCluster) -> None:
    fake.answers = cluster_with(Recorded()) | {f"GET /jobs/{Recorded().id}": (500, {})}
    with pytest.raises(FlinkError, match="500"):
        job_health(cluster, "tactful")


def test_a_cluster_that_does_not_answer_is_an_error() -> None:
    with FlinkCluster("http://127.0.0.1:9") as cluster, pytest.raises(FlinkUnreachableError):
        job_health(cluster, "tactful")


def test_times_are_those_of_the_cluster(fake: Fake, cluster: FlinkCluster) -> None:
    fake.answers = cluster_with(Recorded(completed=30.0))
    assert NOW > 1_796_000_000_000  # far from the clock of this machine
    assert job_health(cluster, "tactful").checkpoint_age_s == 30.0
