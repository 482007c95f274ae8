"""The end of a rollout is kept once, and what cannot be kept is not tried for ever."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.platform.support import small_settings

from tactful.errors import ConfigError, ModelError
from tactful.experiments.definitions import RolloutDefinition
from tactful.experiments.messages import move
from tactful.experiments.store import RolloutStore
from tactful.metadata.store import open_metadata
from tactful.models.record_rollout import Recorder, record

AT = 1_772_366_400_000


def ended(directory: Path) -> RolloutStore:
    store = RolloutStore(open_metadata(directory / "metadata.db"), clock=lambda: AT)
    change = {"diversity": {"strength": 1}}
    for key in ("over", "going"):
        store.apply(RolloutDefinition(key=key, change=change), by="ann", reason="r")
    move(store, "over", "shadow", by="ann", reason="r")
    move(store, "over", "rollback", by="bob", reason="odd lists")
    return store


def test_who_fails_is_tried_three_times(tmp_path: Path) -> None:
    store, calls = ended(tmp_path), tmp_path / "calls"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$*" >> {calls}\nexit 1\n')
    python.chmod(0o755)
    recorder = Recorder(small_settings(tmp_path), store, python=str(python))
    for _ in range(5):
        asyncio.run(recorder.run())
    assert calls.read_text().splitlines() == ["-m tactful experiment record over"] * 3
    store.record_run("over", "r1")
    asyncio.run(Recorder(small_settings(tmp_path), store, python=str(python)).run())
    assert len(calls.read_text().splitlines()) == 3
    with pytest.raises(ConfigError, match="'going' has not ended"):
        record(store, small_settings(tmp_path), "going")


def test_a_shipped_model_becomes_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The champion changes before the run is recorded."""
    store = ended(tmp_path)
    promoted: list[str] = []

    class Registry:
        def promote(self, version: str, *, reason: str) -> None:
            if not promoted:
                promoted.append("refused")
                raise ModelError("its files are not here")
            promoted.append(version)

    place = "tactful.models.record_rollout"
    monkeypatch.setattr(f"{place}.audited_registry", lambda *_, **__: nullcontext(Registry()))
    monkeypatch.setattr(f"{place}._log_run", lambda store, stored, effects: "run")
    definition = RolloutDefinition(key="seven", change={"model": "7"}, start=True)
    store.apply(definition, by="ann", reason="r")
    move(store, "seven", "decide", by="ann", reason="a gain", decision="ship")
    with pytest.raises(ModelError):
        record(store, small_settings(tmp_path), "seven")
    for _ in range(2):
        assert record(store, small_settings(tmp_path), "seven") == "run"
    assert promoted == ["refused", "7"]


@pytest.mark.slow
def test_an_end_is_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ended(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    run_id = record(store, small_settings(tmp_path), "over")
    assert record(store, small_settings(tmp_path), "over") == run_id
    store.record_run("over", "")  # as if it had been killed before it was noted
    assert record(store, small_settings(tmp_path), "over") == run_id
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    found = client.get_run(run_id)
    assert found.data.tags["state"] == "rolled back"
    assert found.data.params["guardrails"] == "takers"
    history = mlflow.artifacts.load_dict(f"{found.info.artifact_uri}/history.json")["history"]
    last = {"action": "shadow → rolled back", "by": "bob", "why": "odd lists"}
    assert {key: history[-1][key] for key in last} == last
    stored = store.find("over")
    assert stored is not None
    assert stored.run_id == run_id
