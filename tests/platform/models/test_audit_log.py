"""The audit log of models: written before a change, closed after it, and never without a reason."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.platform.models.test_mlflow_registry import make_model, register
from tests.platform.support import Live

from tactful.errors import ModelError, StorageError
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.models.audit_log import ModelChange, ModelLog
from tactful.models.mlflow_registry import Registry
from tactful.ranking.model import Pointer, read_pointer


@pytest.fixture
def log(database: MetadataStore) -> ModelLog:
    times = itertools.count(1_000)
    return ModelLog(database, clock=lambda: next(times))


def test_an_entry_is_there_before_the_change_and_closed_after_it(log: ModelLog) -> None:
    with log.entry("train", "ranker", by="ann@shop", reason="é: wöchentlich") as made:
        (begun,) = log.changes()
        names: dict[str, Any] = {"action": "train", "name": "ranker", "version": "", "previous": ""}
        why: dict[str, Any] = {"changed_by": "ann@shop", "reason": "é: wöchentlich"}
        assert begun == ModelChange(id=begun.id, state="begun", begun_at=1_000, **names, **why)
        made("7")
    (done,) = log.changes()
    assert (done.state, done.version, done.ended_at, done.error) == ("done", "7", 1_001, None)


def test_a_change_that_failed_says_why(log: ModelLog) -> None:
    with (
        pytest.raises(ValueError, match="the disk"),
        log.entry("promote", "ranker", by="a", reason="", version="2", previous="1"),
    ):
        raise ValueError("the disk is full" + "!" * 10_000)
    (failed,) = log.changes()
    assert (failed.state, failed.version, failed.previous) == ("failed", "2", "1")
    assert failed.error is not None
    assert failed.error.startswith("the disk is full!")
    assert len(failed.error) == 2_000


def test_a_killed_process_leaves_an_entry_that_says_begun(log: ModelLog) -> None:
    with pytest.raises(KeyboardInterrupt), log.entry("rollback", "ranker", by="a", reason="b"):
        raise KeyboardInterrupt
    assert [change.state for change in log.changes()] == ["begun"]


def test_entries_come_newest_first_page_by_page(log: ModelLog) -> None:
    for number in range(5):
        with log.entry("train", f"m{number % 2}", by="a", reason=str(number)):
            pass
    whole = log.changes()
    assert [change.reason for change in whole] == ["4", "3", "2", "1", "0"]
    assert log.changes(limit=2) == whole[:2]
    assert log.changes(limit=2, before=whole[1].id) == whole[2:4]
    latest = log.latest("train", "m1")
    assert latest is not None
    assert latest.reason == "3"
    assert log.latest("promote", "m1") is None


@pytest.fixture
def audited(tracking_uri: str, tmp_path: Path) -> Iterator[tuple[Registry, ModelLog]]:
    with closing(open_metadata(tmp_path / "metadata.db", clock=lambda: 5)) as store:
        log = ModelLog(store, clock=lambda: 5)
        registry = Registry("ranker", tmp_path / "models", audit=log, by="ann")
        for number in (1, 2):
            register(registry, make_model(tmp_path / f"m{number}", number))
        yield registry, log


@pytest.mark.slow
def test_changes_are_recorded(audited: tuple[Registry, ModelLog], tmp_path: Path) -> None:
    registry, log = audited
    registry.promote("1", reason="the first")
    registry.promote("2", reason="better")
    assert registry.rollback(reason="worse") == "1"
    assert {(it.changed_by, it.state) for it in log.changes()} == {("ann", "done")}
    assert [(it.action, it.version, it.previous, it.reason) for it in log.changes()] == [
        ("rollback", "1", "2", "worse"),
        ("promote", "2", "1", "better"),
        ("promote", "1", "", "the first"),
    ]


def test_what_is_refused_before_it_begins_is_no_change(audited: tuple[Registry, ModelLog]) -> None:
    registry, log = audited
    for act in (lambda: registry.promote("9"), lambda: registry.rollback(reason="none")):
        with pytest.raises(ModelError):
            act()
    assert log.changes() == []


@pytest.mark.slow
def test_without_an_entry_nothing_is_changed(
    audited: tuple[Registry, ModelLog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, _ = audited
    registry.promote("1")

    def away(*_: object) -> None:
        raise StorageError("the metadata cannot be used")

    monkeypatch.setattr(MetadataStore, "change", away)
    with pytest.raises(StorageError):
        registry.promote("2")
    assert read_pointer(tmp_path / "models") == Pointer(version="1")
    assert [it["aliases"] for it in registry.versions()] == ["challenger", "champion"]


def test_the_log_is_read_page_by_page_over_http(live: Live) -> None:
    log = live.platform.model_log
    assert log is not None
    for number in range(3):
        with log.entry("train", "ranker", by="ann", reason=str(number)):
            pass
    first = live.http.get("/v1/models/log", params={"limit": 2}).json()
    assert [it["reason"] for it in first["changes"]] == ["2", "1"]
    rest = live.http.get("/v1/models/log", params={"cursor": first["next_cursor"]}).json()
    assert [it["reason"] for it in rest["changes"]] == ["0"]
    assert rest["next_cursor"] is None
    for cursor in ("x", "-1", "1" * 30):
        answer = live.http.get("/v1/models/log", params={"cursor": cursor})
        assert answer.json()["code"] == "bad_query"


def test_the_log_is_for_administrators(locked: Live) -> None:
    for scope, status in (("analyst", 403), ("recommend", 403), ("admin", 200)):
        key, _ = locked.platform.keys.create([scope])
        headers = {"Authorization": f"Bearer {key}"}
        assert locked.http.get("/v1/models/log", headers=headers).status_code == status
