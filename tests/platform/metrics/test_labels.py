"""Metrics of a server that works have few labels, and none of them names a person."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.platform.support import Live, build, small_settings, view, wait_until

from tactful.errors import StorageError
from tactful.metrics.registry import LABELS
from tactful.server.gauges import Kept
from tactful.server.platform import Platform
from tactful.util.jobs import tracked

STAGES = {"log", "apply", "commit"}
_MOST_VALUES = 150


def test_labels_are_from_a_fixed_list_and_name_nobody(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        live.http.put("/v1/items", json=[{"item_id": "secret-item", "category": "secret-kind"}])
        for number in range(5):
            live.http.post("/v1/events", json=view(number, f"secret-{number}"))
            live.http.post("/v1/recommend", json={"user_id": f"secret-{number}"})
            live.http.get(f"/v1/users/secret-{number}/features")
            live.http.get(f"/nothing/secret-{number}")
        live.http.post("/v1/events", json={"type": "secret-type"})
        live.http.put("/v1/users", json=[{"user_id": "secret-9", "properties": {"a": "secret"}}])
        wait_until(lambda: live.platform.applier.lag == 0)
        exact = list(live.platform.metrics.others.collect())
        shown = live.http.get("/metrics").text
    values: dict[str, set[str]] = {}
    for family in exact:
        assert family.name.startswith("tactful_"), family.name
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    assert values.keys() <= LABELS
    assert not [value for found in values.values() for value in found if "secret" in value]
    assert "secret" not in shown
    assert max(map(len, values.values())) < _MOST_VALUES
    assert values["stage"] >= STAGES


def test_jobs_and_backups_are_counted_by_state(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    with Live(Platform.open(settings, build)) as live:
        with tracked(settings.storage.data, "backup"):
            pass
        with tracked(settings.storage.data, "training"):
            shown = live.http.get("/metrics").text
    assert 'tactful_jobs{state="running"} 1.0' in shown
    assert 'tactful_jobs{state="failed"} 0.0' in shown
    age = next(
        line
        for line in shown.splitlines()
        if line.startswith('tactful_job_age_seconds{kind="backup"}')
    )
    assert 0 <= float(age.split()[1]) < 60


@pytest.mark.parametrize("error", [StorageError("down"), OSError("gone")])
def test_a_store_that_is_down_hides_its_own_number_alone(error: Exception) -> None:
    now = [0.0]
    answers: list[float | Exception] = [3.0, error, 4.0]

    def read() -> float:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(read, -1.0, lambda: now[0])
    assert (kept(), kept()) == (3.0, 3.0)
    now[0] = 31.0
    assert kept() == -1.0
    now[0] = 62.0
    assert kept() == 4.0
