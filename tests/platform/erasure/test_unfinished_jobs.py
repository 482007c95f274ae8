"""Erasure removes files of killed backfills and rescalings; both can be resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.platform.support import small_settings

from tactful.erasure.unfinished_jobs import RESCALING, purge_unfinished
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.state.store import RocksState


def test_a_note_covers_no_half_rescaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its states are removed: a rescaling that trusted the note would miss some."""
    settings = small_settings(tmp_path)
    data = settings.storage.data
    for number in range(2):
        folder = data / RESCALING[0] / f"events-{number}" / "state"
        folder.mkdir(parents=True)
        RocksState(folder).close()
    (data / RESCALING[1]).write_text("{}")

    def killed(path: Path, **_: Any) -> None:
        removed(path / "events-1")
        raise KeyboardInterrupt

    removed = shutil.rmtree
    traces = SubjectIds(users=frozenset({"ada"}))
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            purge_unfinished(settings, load_definitions(settings.features), traces)
    assert not (data / RESCALING[1]).exists()
    step = purge_unfinished(settings, load_definitions(settings.features), traces)
    assert step.removed == 1
    assert not (data / RESCALING[0]).exists()
