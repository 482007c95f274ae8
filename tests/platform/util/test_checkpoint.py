"""A training that is killed goes on where it was, and gives what it would have given."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.platform.shop import definitions, entries, make_shop, write_log

from tactful.errors import ModelError, TrainingBusy
from tactful.ranking.features import assemble
from tactful.ranking.model import read_manifest
from tactful.training import replay_rows as training_rows
from tactful.training.options import TrainingOptions
from tactful.training.train import Trained, train
from tactful.util.checkpoint import Checkpoint
from tactful_streaming.contract.log_entries import encode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

ENTRIES = entries(make_shop(3, people=8, items=40, days=30))
OPTIONS = TrainingOptions(label_days=14, lists=120, rounds=34, patience=34, threads=1, shown=0)
SMALL_PART = 16

KILLED_AT = f"""
import os, signal, sys
from pathlib import Path
from tactful.training import replay_rows
from tactful.util.checkpoint import Checkpoint
from tactful.config.settings import Settings
from tactful.training.options import TrainingOptions
from tactful.training.train import train
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.log.embedded_log import EmbeddedLog

replay_rows._PART = {SMALL_PART}
folder, stage, share = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])

def progress(now, done, total):
    if now == stage and done >= share * total:
        os.kill(os.getpid(), signal.SIGKILL)

log = EmbeddedLog(folder / "log", read_only=True)
with Checkpoint.hold(folder / "checkpoint") as checkpoint:
    train(
        log,
        load_definitions(Settings().features),
        folder / "killed",
        {OPTIONS!r},
        checkpoint=checkpoint,
        progress=progress,
    )
"""


def killed(folder: Path, stage: str, share: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT, str(folder), stage, str(share)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def trained(folder: Path, name: str, options: TrainingOptions = OPTIONS) -> Trained:
    log = EmbeddedLog(folder / "log", read_only=True)
    try:
        with Checkpoint.hold(folder / "checkpoint") as checkpoint:
            return train(log, definitions(), folder / name, options, checkpoint=checkpoint)
    finally:
        log.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(training_rows, "_PART", SMALL_PART)
    write_log(tmp_path / "log", ENTRIES).close()
    return tmp_path


def test_a_training_that_was_killed_twice_ends_as_one_that_was_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = EmbeddedLog(folder / "log", read_only=True)
    train(log, definitions(), folder / "whole", OPTIONS)
    log.close()

    killed(folder, "replay", 0.97)
    rows = len(list((folder / "checkpoint" / "parts").glob("*.npz")))
    assert rows >= 2
    killed(folder, "fit", 0.5)
    forests = list((folder / "checkpoint").glob("forest-*.ubj"))
    assert [path.name for path in forests] == ["forest-10.ubj"]

    # The server goes on meanwhile; the training sees the log as it was.
    grown = EmbeddedLog(folder / "log", durability="process")
    grown.append([encode_entry(entry) for entry in ENTRIES[-50:]])
    grown.close()
    laid_out: list[int] = []

    def count(*given: Any, **named: Any) -> Any:
        laid_out.append(1)
        return assemble(*given, **named)

    monkeypatch.setattr(training_rows, "assemble", count)
    result = trained(folder, "resumed")

    assert result.resumed
    assert not laid_out, "all rows were there"
    assert read_manifest(folder / "resumed") == read_manifest(folder / "whole")
    assert (folder / "resumed/model.ubj").read_bytes() == (folder / "whole/model.ubj").read_bytes()


def test_what_was_laid_out_is_not_laid_out_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        """Ends a training like a kill."""

    number = [0]

    def stop(*given: Any, **named: Any) -> Any:
        number[0] += 1
        if number[0] > 3 * SMALL_PART + 5:
            raise Stopped
        return assemble(*given, **named)

    monkeypatch.setattr(training_rows, "assemble", stop)
    with pytest.raises(Stopped):
        trained(folder, "stopped")
    number[0] = -(10**6)
    trained(folder, "model")

    assert number[0] + 10**6 == 120 - 3 * SMALL_PART


def test_another_training_begins_anew(folder: Path) -> None:
    killed(folder, "fit", 0.5)
    left, checkpoint = folder / "left", folder / "checkpoint"
    shutil.copytree(checkpoint, left)
    assert not trained(folder, "other", replace(OPTIONS, seed=1)).resumed

    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(left, checkpoint)
    about = checkpoint / "about.json"
    old = about.stat().st_mtime - 90_000
    os.utime(about, (old, old))
    assert not trained(folder, "stale").resumed


def test_a_damaged_part_says_what_to_do(tmp_path: Path) -> None:
    with Checkpoint.hold(tmp_path) as checkpoint:
        checkpoint.begin({})
        checkpoint.save_part(0, {"sizes": np.arange(3)})
        checkpoint.save_part(1, {"sizes": np.arange(3)})
        assert len(checkpoint.parts()) == 2
        (tmp_path / "parts" / "000000.npz").write_bytes(b"rubbish")
        with pytest.raises(ModelError, match="--fresh"):
            checkpoint.parts()
        checkpoint.clear()
        assert (checkpoint.parts(), checkpoint.about()) == ([], None)


def test_trees_belong_to_their_curve(tmp_path: Path) -> None:
    with Checkpoint.hold(tmp_path) as checkpoint:
        assert checkpoint.forest() == (None, [])
        checkpoint.save_forest(b"ten", [0.1] * 10)
        checkpoint.save_forest(b"twenty", [0.1] * 20)
        assert checkpoint.forest() == (b"twenty", [0.1] * 20)
        # Killed between the two files: the trees are there and the curve does not know them yet.
        (tmp_path / "forest-30.ubj").write_bytes(b"thirty")
        assert checkpoint.forest() == (b"twenty", [0.1] * 20)


def test_two_trainings_of_one_model_do_not_meet(tmp_path: Path) -> None:
    with (
        Checkpoint.hold(tmp_path),
        pytest.raises(TrainingBusy, match="another process trains"),
        Checkpoint.hold(tmp_path),
    ):
        raise AssertionError("nobody should come here")
    with Checkpoint.hold(tmp_path):
        pass
