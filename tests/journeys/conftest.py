"""The first day of somebody who has never used the platform: one fresh installation for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.journeys.installation import Terminal, install


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs that a fresh installation of the wheel has."""
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; it is in the group dev")
    return install(tmp_path_factory.mktemp("installed"))


@pytest.fixture
def terminal(programs: Path, tmp_path: Path) -> Terminal:
    """A terminal in an empty folder."""
    return Terminal(programs, tmp_path)
