"""Reports of federated runs: kept once, listed, and without exact numbers for analysts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.platform.support import Live

from tactful.client import Client
from tactful.client.routes import federated as routes
from tactful.errors import ApiError
from tactful.metadata import federated_runs
from tactful.metadata.federated_runs import FederatedRunStore
from tactful.metadata.store import MetadataStore
from tactful.schemas.federated import FederatedPlan, FederatedReport, FederatedRound

PLAN = FederatedPlan(
    epsilon=2.0, delta=1e-6, rounds=500, cohort=1300, report_goal=1000, minimum_reports=667
)
RUN = "3f2a9c0d1e4b5a697887a6b5c4d3e2f1"


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)], ids=["process", "worker"])
def workers(request: pytest.FixtureRequest) -> int:
    """Number of worker processes; a server with one takes seconds to start."""
    count: int = request.param
    return count


def a_round(number: int, **more: Any) -> FederatedRound:
    figures = {"releases": number, "epsilon": 0.1 * number, "seconds": 4.5, "asked": 1300}
    at = 1_772_366_400_000 + number
    return FederatedRound(number=number, at=at, reports=1100, **{**figures, **more})


def a_report(*rounds: FederatedRound, run: str = RUN, **more: Any) -> FederatedReport:
    return FederatedReport(
        id=run, name="intent-1", tier="secret", plan=PLAN, rounds=[*rounds], **more
    )


def test_rounds_are_kept_once_on_each_database(database: MetadataStore) -> None:
    """Repeated, late and corrected reports leave the latest figures of each round."""
    now = [1_000]
    store = FederatedRunStore(database, clock=lambda: now[0])
    assert store.take(a_report(a_round(1), a_round(2)), by="key 1") == 2
    assert store.take(a_report(a_round(1), a_round(2)), by="key 1") == 2
    now[0] = 2_000
    assert store.take(a_report(a_round(2, top1=0.5), a_round(3)), by="key 1") == 3
    assert store.take(a_report(state="done"), by="key 1") == 3
    (found,) = store.runs(limit=10)
    assert (found.started_at, found.updated_at, found.state) == (1_000, 2_000, "done")
    assert found.rounds == 3 and found.last == a_round(3)
    assert store.rounds(RUN, after=1, limit=1) == [a_round(2, top1=0.5)]
    store.take(a_report(a_round(2)), by="key 1")
    assert store.runs(limit=1)[0].state == "done", "a late report opens no run that has ended"
    store.take(a_report(a_round(4)), by="key 1")
    assert store.runs(limit=1)[0].state == "running", "it went on"
    assert store.find("0" * 32) is None


def test_the_oldest_runs_are_deleted(
    sqlite: MetadataStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federated_runs, "_MOST_RUNS", 20)
    now = [0]
    store = FederatedRunStore(sqlite, clock=lambda: now[0])
    for number in range(23):
        now[0] = number
        store.take(a_report(a_round(1), run=f"{number:032x}"), by="key 1")
    runs = store.runs(limit=1_000)
    assert len(runs) == 20
    assert runs[0].id == f"{22:032x}" and runs[-1].id == f"{3:032x}"
    assert store.rounds(f"{2:032x}", after=0, limit=5) == []


def test_runs_and_rounds_are_paged(live: Live) -> None:
    with Client(live.url) as client:
        for number in range(3):
            report = a_report(*map(a_round, range(1, 6)), run=f"{number:032x}")
            assert client.run(routes.report(report)).rounds == 5
        first = client.run(routes.runs(limit=2))
        rest = client.run(routes.runs(cursor=first.next_cursor or "", limit=2))
        assert len({it.id for it in [*first.runs, *rest.runs]}) == 3
        assert rest.next_cursor is None
        page = client.run(routes.rounds(f"{0:032x}", limit=3))
        more = client.run(routes.rounds(f"{0:032x}", cursor=page.next_cursor or "", limit=3))
        assert [it.number for it in [*page.rounds, *more.rounds]] == [1, 2, 3, 4, 5]
        for unknown in ("0", "Z" * 32, "f" * 32):
            with pytest.raises(ApiError, match="lists all runs"):
                client.run(routes.rounds(unknown))
        bad = msgspec.to_builtins(a_report()) | {"id": "../x"}
    assert live.http.post("/v1/federated/runs", json=bad).json()["code"] == "invalid"


def test_an_analyst_reads_no_number_of_devices(locked: Live) -> None:
    ingest, analyst, admin = map(locked.create_key, ("ingest", "analyst", "admin"))
    with Client(locked.url, ingest) as client:
        client.run(routes.report(a_report(a_round(1), state="failed", reason="/home/ann: full")))
        with pytest.raises(ApiError, match="scope"):
            client.run(routes.runs())
    for key, asked in ((analyst, None), (admin, 1300)):
        with Client(locked.url, key) as client:
            (run,) = client.run(routes.runs()).runs
            (figures,) = client.run(routes.rounds(RUN)).rounds
            assert run.last is not None and run.last.asked == figures.asked == asked
            assert (figures.reports is None) == (asked is None)
            assert ("ann" in run.reason) == (asked is not None) and run.reason
            assert figures.epsilon == 0.1


def test_a_failed_round_is_counted_once(live: Live) -> None:
    name, failed = "tactful_federated_rounds_total", {"result": "failed"}

    def counted() -> float:
        samples = live.platform.metrics.all_samples()
        return sum(value for found, labels, value in samples if (found, labels) == (name, failed))

    with Client(live.url) as client:
        for _ in range(2):  # a report that is repeated
            report = a_report(a_round(1), a_round(2, reason="too few devices"))
            client.run(routes.report(report))
    assert counted() == 1.0
