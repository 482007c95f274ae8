"""The verification of an erasure searches every place of an installation."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.platform.support import small_settings

from tactful.config.settings import Settings
from tactful.erasure.verify import places_elsewhere, still_there, verified
from tactful.subjects.trace_search import SearchResult
from tactful_streaming.contract.subject_ids import SubjectIds

ADA = SearchResult(SubjectIds(users=frozenset({"zq-sentinel-ada"})), frozenset(), 1)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = small_settings(tmp_path)
    settings.storage.data.mkdir(exist_ok=True)
    storage = replace(settings.storage, models=tmp_path / "kept-elsewhere", reports=Path("told"))
    return replace(settings, storage=storage)


def leave(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0before zq-sentinel-ada and behind")
    return str(path.absolute())


def test_every_configured_place_is_searched(settings: Settings, tmp_path: Path) -> None:
    assert still_there(settings, [ADA]) == []
    wanted = [
        leave(settings.models / "ranker" / "7" / "index.bin"),
        leave(tmp_path / "told" / "off-policy.json"),
        leave(tmp_path / "runs" / "1" / "abc" / "artifacts" / "figures" / "curve.html"),
        leave(tmp_path / "by file" / "2" / "model.ubj"),
    ]
    with closing(sqlite3.connect("mlflow.db")) as database:
        database.execute("CREATE TABLE experiments (artifact_location TEXT)")
        rows = ["runs/1", (tmp_path / "by file" / "2").as_uri(), "s3://elsewhere/3", None]
        database.executemany("INSERT INTO experiments VALUES (?)", [(row,) for row in rows])
        database.execute("CREATE TABLE tags (value TEXT)")
        database.execute("INSERT INTO tags VALUES ('zq-sentinel-ada')")
        database.commit()
    wanted.append(str(tmp_path / "mlflow.db"))
    found = still_there(settings, [ADA])
    assert found == sorted(wanted)
    step = verified(ADA, found)
    assert step.removed == len(wanted)
    assert "expire --models" in step.note and "--rebuild" not in step.note


def test_runs_in_a_directory_or_on_another_host(settings: Settings, tmp_path: Path) -> None:
    for uri, more in (
        (f"file://{tmp_path}/all-runs", [tmp_path / "all-runs"]),
        ("http://mlflow.example:5000", []),
        (f"sqlite:///{tmp_path}/none.db", [tmp_path / "none.db", tmp_path / "none.db-wal"]),
        (f"sqlite:///{settings.storage.data}/mlflow.db", []),
    ):
        found = places_elsewhere(settings, {"MLFLOW_TRACKING_URI": uri})
        assert [*found[2:]] == more
        assert found[:2] == (settings.models, tmp_path / "told")
