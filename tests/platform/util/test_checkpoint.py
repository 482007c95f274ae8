"""A training that is killed goes on where it was, and one that fails starts anew."""

from __future__ import annotations

import contextlib
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
    definitions = load_definitions(Settings().features)
    keeps = dict(checkpoint=checkpoint, progress=progress)
    train(log, definitions, folder / "killed", {OPTIONS!r}, **keeps)
"""


def killed(folder: Path, stage: str, share: float) -> None:
    command = [sys.executable, "-c", KILLED_AT, str(folder), stage, str(share)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


class Stopped(Exception):
    """Ends a training like a kill."""


def trained(
    folder: Path, name: str, options: TrainingOptions = OPTIONS, *, until: str = ""
) -> Trained:
    """Train; stop when the stage `until` begins ("any": at once)."""

    def progress(stage: str, done: int, total: int) -> None:
        if until in ("any", stage):
            raise Stopped

    log = EmbeddedLog(folder / "log", read_only=True)
    with contextlib.closing(log), Checkpoint.hold(folder / "checkpoint") as checkpoint:
        keeps: dict[str, Any] = {"checkpoint": checkpoint, "progress": progress}
        return train(log, definitions(), folder / name, options, **keeps)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(training_rows, "_PART", SMALL_PART)
    write_log(tmp_path / "log", ENTRIES).close()
    return tmp_path


@pytest.fixture(scope="module")
def killed_twice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log and the checkpoint of a training that was killed at its rows and at its trees."""
    folder = tmp_path_factory.mktemp("killed")
    write_log(folder / "log", ENTRIES).close()
    killed(folder, "replay", 0.97)
    assert len(list((folder / "checkpoint" / "parts").glob("*.npz"))) >= 2
    killed(folder, "fit", 0.5)
    forests = (folder / "checkpoint").glob("forest-*.ubj")
    assert [path.name for path in forests] == ["forest-10.ubj"]
    return folder


@pytest.mark.slow
def test_killed_twice(folder: Path, killed_twice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EmbeddedLog(folder / "log", read_only=True)
    train(log, definitions(), folder / "whole", OPTIONS)
    log.close()
    shutil.copytree(killed_twice / "checkpoint", folder / "checkpoint")
    # The server goes on meanwhile; the training sees the log as it was.
    grown = EmbeddedLog(folder / "log", durability="process")
    grown.append([encode_entry(entry) for entry in ENTRIES[-50:]])
    grown.close()
    monkeypatch.setattr(training_rows, "assemble", None)  # all rows were there
    assert trained(folder, "resumed").resumed
    assert read_manifest(folder / "resumed") == read_manifest(folder / "whole")
    assert (folder / "resumed/model.ubj").read_bytes() == (folder / "whole/model.ubj").read_bytes()


@pytest.mark.slow
def test_finished_rows_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(Stopped):
        trained(folder, "model", until="fit")
    assert number[0] + 10**6 == 120 - 3 * SMALL_PART


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "older_s", "kept"),
    [(OPTIONS, 0, True), (replace(OPTIONS, seed=1), 0, False), (OPTIONS, 90_000, False)],
)
def test_another_training_begins_anew(
    folder: Path, killed_twice: Path, options: TrainingOptions, older_s: int, kept: bool
) -> None:
    shutil.copytree(killed_twice / "checkpoint", folder / "checkpoint")
    about = folder / "checkpoint" / "about.json"
    old = about.stat().st_mtime - older_s
    os.utime(about, (old, old))
    with pytest.raises(Stopped):
        trained(folder, "model", options, until="any")
    for kind in ("parts/*.npz", "forest-*.ubj"):
        assert bool(list((folder / "checkpoint").glob(kind))) is kept


def test_a_damaged_part_says_what_to_do(tmp_path: Path) -> None:
    with Checkpoint.hold(tmp_path) as checkpoint:
        checkpoint.begin({})
        checkpoint.save_part(0, {"sizes": np.arange(3)})
        checkpoint.save_part(1, {"sizes": np.arange(3)})
        assert len([*checkpoint.parts()]) == 2
        (tmp_path / "parts" / "000000.npz").write_bytes(b"rubbish")
        with pytest.raises(ModelError, match="train again from the start"):
            [*checkpoint.parts()]
        checkpoint.clear()
        assert ([*checkpoint.parts()], checkpoint.about()) == ([], None)


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ModelError("too little to learn from"), False),
        (MemoryError(), False),
        (ConnectionError("the broker is away"), True),
        (KeyboardInterrupt(), True),
        (SystemExit(143), True),
    ],
    ids=lambda it: type(it).__name__,
)
def test_only_what_was_interrupted_keeps_its_checkpoint(
    tmp_path: Path, error: BaseException, kept: bool
) -> None:
    with Checkpoint.hold(tmp_path) as checkpoint:
        checkpoint.begin({"end": 7})
        checkpoint.save_part(0, {"sizes": np.arange(3)})
        with pytest.raises(type(error)), checkpoint.cleared_on_failure(but=ConnectionError):
            raise error
        assert (checkpoint.about() is not None) is kept
        assert len([*checkpoint.parts()]) == kept
        with checkpoint.cleared_on_failure(but=ConnectionError):
            pass
        assert (checkpoint.about() is not None) is kept


def test_what_is_kept_takes_the_place_of_the_former(tmp_path: Path) -> None:
    with Checkpoint.hold(tmp_path) as checkpoint:
        for number in ("first", "second"):
            checkpoint.begin({"end": 7})
            assert (tmp_path / "kept").exists() is (number == "second"), "a training begins with it"
            (tmp_path / "next").mkdir()
            (tmp_path / "next" / "about.json").write_text(number)
            checkpoint.end()
            assert (tmp_path / "kept" / "about.json").read_text() == number
            assert sorted(it.name for it in tmp_path.iterdir()) == ["kept", "lock"]
        checkpoint.begin({"end": 8})
        (tmp_path / "next").mkdir()  # killed before it was whole
        checkpoint.end()
        assert (tmp_path / "kept" / "about.json").read_text() == "second"


def test_what_is_kept_for_two_weeks_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "about.json").write_text("{}")
    written = (tmp_path / "kept" / "about.json").stat().st_mtime
    for days, left in ((13.9, ["kept", "lock"]), (14.1, ["lock"])):
        with Checkpoint.hold(tmp_path, clock=lambda: written + days * 86_400) as checkpoint:  # noqa: B023
            checkpoint.discard_old()
        assert sorted(it.name for it in tmp_path.iterdir()) == left


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
