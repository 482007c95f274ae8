"""Routes of models on a real server: versions, changes of the champion, and training now."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.platform.models.test_mlflow_registry import EXAMPLE, make_model
from tests.platform.models.test_mlflow_run import RECORD
from tests.platform.support import Live, wait_until

from tactful.client import Client
from tactful.client.routes import models as routes
from tactful.errors import ApiError
from tactful.models.commands import ModelCommands
from tactful.models.mlflow_registry import audited_registry
from tactful.models.training_record import write_record
from tactful.ranking.model import Pointer, version_directory, write_pointer
from tactful.schemas.models import ServedDrift, TrainingState
from tactful.util.checkpoint import Checkpoint
from tactful.util.jobs import tracked


@pytest.fixture
def workers() -> int:
    """Number of worker processes: these routes are answered by the main process."""
    return 0


def keep(models: Path, number: int, **changes: Any) -> None:
    """Put a version into the models directory, with the record of its training."""
    place = make_model(models.parent / f"made-{number}", number)
    write_record(place, msgspec.structs.replace(RECORD, **changes))
    target = version_directory(models, str(number))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(place, target)


@pytest.fixture
def models(live: Live) -> Path:
    """The models directory of a server with three versions, of which the second serves."""
    models = live.platform.settings.models
    for number in (1, 2, 3):
        keep(models, number, served=ServedDrift(version=str(number - 1), drift={"price": 0.3}))
    write_pointer(models, Pointer(version="2", previous="1"))
    return models


def test_versions_are_compared_newest_first(
    live: Live, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@mlflow.example:5000/shop/")
    (models / "training.json").unlink(missing_ok=True)
    (version_directory(models, "1") / "training.json").unlink()
    keep(models, 4, run_path="#/experiments/1/runs/abc")
    (version_directory(models, "4") / "manifest.json").rename(models / "aside")
    with Client(live.url) as client:
        first = client.run(routes.versions(limit=2))
        rest = client.run(routes.versions(cursor=first.next_cursor or "", limit=2))
    found = [*first.versions, *rest.versions]
    assert [it.version for it in found] == ["3", "2", "1"], "a damaged one is left out"
    assert [it.aliases for it in found] == [[], ["champion"], ["previous"]]
    assert found[1].metrics == {"hr20": 0.25, "ndcg20": 0.25}
    assert found[1].intervals == RECORD.intervals
    assert found[2].intervals == {}, "an earlier version has no record"
    assert found[2].trained_at > RECORD.trained_at
    assert rest.next_cursor is None
    (models / "aside").rename(version_directory(models, "4") / "manifest.json")
    with Client(live.url) as client:
        newest = client.run(routes.versions(limit=1)).versions[0]
    assert newest.aliases == ["challenger"]
    assert newest.run_url == "https://mlflow.example:5000/shop/#/experiments/1/runs/abc"


def test_the_training_of_a_version_is_described(live: Live, models: Path) -> None:
    with Client(live.url) as client:
        details = client.run(routes.version("2"))
        assert details.curve == RECORD.curve
        assert details.losses == RECORD.losses
        assert details.served == ServedDrift(version="2", drift={"price": 0.3})
        assert client.run(routes.version("3")).served is None, "nothing was trained since"
        for unknown in ("7", "..", "x"):
            with pytest.raises(ApiError, match="lists the versions"):
                client.run(routes.version(unknown))


def stand_in(directory: Path, body: str) -> str:
    """An interpreter that does something else."""
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_command_gets_author_and_reason_and_its_refusal_is_told(
    live: Live, models: Path, tmp_path: Path
) -> None:
    note = f'printf "%s|" "$@" >> {tmp_path}/asked'
    refusal = "echo tactful: a rollout compares the champion >&2; exit 1"
    commands = ModelCommands(
        live.platform.settings, python=stand_in(tmp_path, f"{note}\n{refusal}")
    )
    live.platform.model_commands = commands
    with Client(live.url) as client:
        with pytest.raises(ApiError, match="a rollout compares the champion"):
            client.run(routes.promote("3", reason="--better; $(touch /tmp/x)"))
        asked = (tmp_path / "asked").read_text().split("|")
        assert asked[:5] == ["-m", "tactful", "models", "promote", "3"]
        assert "--by=the API without keys" in asked
        assert "--reason=--better; $(touch /tmp/x)" in asked
        with pytest.raises(ApiError, match="not in the models directory"):
            client.run(routes.promote("9", reason="why not"))
    refused = live.http.post("/v1/models/promote", json={"version": "../3", "reason": "x"})
    assert refused.json()["code"] == "invalid"
    write_pointer(models, Pointer(version="2"))
    refused = live.http.post("/v1/models/rollback", json={"reason": "x"})
    assert "no previous champion" in refused.json()["detail"]


def test_a_training_is_started_once_and_watched(live: Live, tmp_path: Path) -> None:
    """Its progress comes from the process that trains, whichever has started it."""
    models = live.platform.settings.models
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    python = stand_in(tmp_path, f"{wait}\necho tactful: too little to learn from >&2; exit 1")
    live.platform.model_commands = ModelCommands(live.platform.settings, python=python)
    with Client(live.url) as client:
        assert client.run(routes.training()) == TrainingState(running=False)
        assert client.run(routes.train(reason="new items")).running
        with pytest.raises(ApiError, match="a training is running"):
            client.run(routes.train(reason="again"))
        (tmp_path / "go").touch()
        wait_until(lambda: not client.run(routes.training()).running)
        assert client.run(routes.training()).error == "too little to learn from"
        data = live.platform.settings.storage.data
        with Checkpoint.hold(models / "training"), tracked(data, "training") as job:
            job.advance(120, 300, "fit")
            state = client.run(routes.training())
            assert (state.running, state.stage, state.progress) == (True, "fit", 0.4)
            with pytest.raises(ApiError, match="a training is running"):
                client.run(routes.train(reason="beside the command line"))
        assert not client.run(routes.training()).running


def test_a_stopping_server_ends_its_training(live: Live, tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")
    live.platform.model_commands = ModelCommands(live.platform.settings, python=python)
    with Client(live.url) as client:
        client.run(routes.train(reason="new items"))
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    pid = int((tmp_path / "pid").read_text())
    live.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.slow
def test_a_version_is_promoted_and_rolled_back_by_http(live: Live, tracking_uri: str) -> None:
    """By the real command beside the real registry; the audit log names the caller."""
    settings = live.platform.settings
    with audited_registry(settings, "ranker") as registry:
        for number in (1, 2):
            registry.register(
                make_model(settings.models.parent / f"m{number}", number),
                example=EXAMPLE,
                figures={},
            )
    with Client(live.url, timeout=120) as client:
        for version in ("1", "2"):
            promoted = client.run(routes.promote(version, reason="good"))
        assert (promoted.version, promoted.previous) == ("2", "1")
        back = client.run(routes.roll_back(reason="fewer clicks"))
        assert (back.version, back.previous) == ("1", "2")
        entry = client.run(routes.log(limit=1)).changes[0]
        assert (entry.action, entry.version, entry.state) == ("rollback", "1", "done")
        assert (entry.changed_by, entry.reason) == ("the API without keys", "fewer clicks")
        aliases = {it.version: it.aliases for it in client.run(routes.versions()).versions}
        assert aliases == {"1": ["champion"], "2": ["previous"]}
