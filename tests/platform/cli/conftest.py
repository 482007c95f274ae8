"""A working directory and an environment of their own for tests of the command line."""

from pathlib import Path

import pytest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings, keys, logs, registry or progress of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("TACTFUL_API_KEY", "TACTFUL_URL"):
        monkeypatch.delenv(name, raising=False)
