"""Copies outside the log expire by retention times; erasures name the next training."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.alone import alone
from tests.platform.metadata.test_rights import installed
from tests.platform.support import build, now_ms, small_settings

from tactful.cli.main import main
from tactful.config.privacy import RetentionSettings
from tactful.config.recommendation import TrainingSettings
from tactful.config.settings import Settings
from tactful.erasure.erase import request_erasure, run_erasures
from tactful.errors import ConfigError
from tactful.maintenance.backup import FORMAT, Manifest, write_manifest
from tactful.maintenance.backup_source import MANIFEST
from tactful.maintenance.expiry import expire_backups, expire_exports, expire_models, kept_for
from tactful.metadata.store import MetadataStore
from tactful.models.audit_log import ModelLog
from tactful.models.schedule import after_erasure
from tactful.models.training_run import reason_to_train
from tactful.server.platform import Platform

DAY = 86_400_000


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo leaves its data in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return small_settings(tmp_path)


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    """Two backups, one of them forty days old, and other files."""
    directory = tmp_path / "backups"
    for name, days in (("new", 0), ("old", 40)):
        at = now_ms() - days * DAY
        (directory / name).mkdir(parents=True)
        (directory / name / "metadata.db").write_text("people")
        nothing: dict[str, Any] = {"log": None, "state": None, "elsewhere": [], "files": []}
        made: dict[str, Any] = {"format": FORMAT, "version": "0", "begun_at": at, "ended_at": at}
        write_manifest(directory / name, Manifest(**made, **nothing))
    (directory / "other").mkdir()
    (directory / "other" / "file").write_text("not ours")
    return directory


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["expire", *map(str, arguments)])


def trained(metadata: MetadataStore) -> None:
    """Record a training like `tactful train`."""
    with ModelLog(metadata, clock=now_ms).entry("train", "ranker", by="test", reason="") as made:
        made("1")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_backups_that_are_too_old_go_and_a_dry_run_only_tells(backups: Path) -> None:
    told = run("--backups", backups, "--older-than", 30, "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    (one,) = json.loads(told.stdout)
    assert (one["kind"], one["what"], one["removed"]) == ("backup", str(backups / "old"), False)
    assert names(backups) == {"new", "old", "other"}
    assert run("--backups", backups, "--older-than", 30).exit_code == 0
    assert names(backups) == {"new", "other"}
    assert json.loads(run("--backups", backups, "--older-than", 30, "--json").stdout) == []


def expire_until_killed(backups: Path) -> None:
    pytest.MonkeyPatch().setattr(shutil, "rmtree", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    list(expire_backups(backups, now_ms() - 30 * DAY, dry_run=False))


def test_a_half_removed_backup_is_removed(backups: Path) -> None:
    """A killed expiry leaves no directory that counts as a backup."""
    with pytest.raises(BrokenProcessPool):
        alone(expire_until_killed, backups)
    assert not (backups / "old").exists()
    assert (backups / "new" / MANIFEST).exists()
    (left,) = names(backups) - {"new", "other"}
    assert run("--backups", backups, "--older-than", 30, "--dry-run").exit_code == 0
    assert (backups / left / "metadata.db").exists()
    assert run("--backups", backups, "--older-than", 30).exit_code == 0
    assert names(backups) == {"new", "other"}


def test_an_unfinished_backup_expires_by_its_age(backups: Path) -> None:
    for name, days in ((".begun.unfinished", 0), (".left.unfinished", 40)):
        (backups / name).mkdir()
        (backups / name / "metadata.db").write_text("people")
        at = now_ms() / 1000 - days * DAY / 1000
        os.utime(backups / name, (at, at))
    assert run("--backups", backups, "--older-than", 30).exit_code == 0
    assert names(backups) == {"new", "other", ".begun.unfinished"}


def test_what_tells_no_age_stays_and_is_told(backups: Path) -> None:
    (backups / "old" / MANIFEST).write_text("torn")
    told = run("--backups", backups, "--older-than", 30, "--json")
    assert told.exit_code == 6
    (one,) = json.loads(told.stdout)
    assert (one["kind"], one["removed"]) == ("unreadable", False)
    assert (backups / "old").is_dir()


def test_exports_that_are_too_old_go_with_their_page(tmp_path: Path) -> None:
    now = now_ms()
    for name, age in (("a/ada", 40), ("bob", 3)):
        directory = tmp_path / "exports" / name
        directory.mkdir(parents=True)
        export = {"made_at": now - age * DAY, "person": name}
        (directory / "export.json").write_text(json.dumps(export))
        (directory / "export.html").write_text("<h1>Your data</h1>")
    (tmp_path / "exports" / "export.json").write_text('{"of": "another program"}')
    before = now - 30 * DAY
    for dry_run in (True, False):
        found = list(expire_exports(tmp_path / "exports", before, dry_run=dry_run))
        first, second = ((it.kind, it.removed) for it in found)
        assert (first, second) == (("export", not dry_run), ("unreadable", False))
    assert sorted(path.parent.name for path in tmp_path.rglob("export.html")) == ["bob"]
    assert not (tmp_path / "exports" / "a" / "ada" / "export.json").exists()
    assert (tmp_path / "exports" / "export.json").exists()


def test_unused_models_expire_and_serving_ones_are_reported() -> None:
    gone: list[str] = []
    versions = [("3", 300, ""), ("2", 100, "champion"), ("1", 50, "")]
    for dry_run, removed in ((True, []), (False, ["1"])):
        found = list(expire_models(versions, 200, gone.append, dry_run=dry_run))
        champion, other = ((it.what, it.removed, bool(it.note)) for it in found)
        assert (champion, other) == (("2", False, True), ("1", not dry_run, False))
        assert gone == removed


def test_how_long_copies_are_kept_follows_from_the_shortest_time(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="--older-than"):
        kept_for(settings)
    days = RetentionSettings(personalisation_days=400, impressions_days=180)
    kept = replace(settings, retention=days)
    assert kept_for(kept) == 180 * DAY
    assert kept_for(kept, 2.5) == 2.5 * DAY
    assert run("--older-than", 30).exit_code == 2
    assert run("--models", "--older-than", "nan").exit_code == 2


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (TrainingSettings(), "no training is scheduled"),
        (TrainingSettings(drift_psi=0.2), "within 15 minutes of the erasure.*once it is promoted"),
        (
            TrainingSettings(every_hours=24, check_minutes=5, promote=True),
            "within 5 minutes of the erasure.*if it is no worse",
        ),
    ],
)
def test_the_next_training_is_said_in_words(training: TrainingSettings, said: str) -> None:
    assert re.search(said, after_erasure(training))


def test_an_erasure_makes_a_training_due(settings: Settings) -> None:
    """Its receipt names the time of the next training."""
    settings = replace(settings, training=TrainingSettings(every_hours=1_000))
    Platform.open(settings, build).close()
    with installed(settings) as installation:
        trained(installation.metadata)
        assert reason_to_train(settings, now=now_ms()) is None
        request_erasure(installation, "somebody")
        (receipt,) = run_erasures(installation)
        (note,) = [step.note for step in receipt.steps if step.place == "models"]
        assert note == after_erasure(settings.training)
        assert "within 15 minutes" in note
        assert receipt.due_at > receipt.requested_at
        reason = reason_to_train(settings, now=now_ms())
        assert reason == "a user was erased since the last training"
        trained(installation.metadata)
        assert reason_to_train(settings, now=now_ms()) is None


def test_what_is_not_kept_any_more_makes_a_training_due(settings: Settings) -> None:
    Platform.open(settings, build).close()
    kept = replace(settings, retention=RetentionSettings(impressions_days=40))
    with installed(settings) as installation:
        trained(installation.metadata)
    for days, due in ((39, None), (41, "the last training used data whose retention is over")):
        assert reason_to_train(kept, now=now_ms() + days * DAY) == due
        assert reason_to_train(settings, now=now_ms() + days * DAY) is None
