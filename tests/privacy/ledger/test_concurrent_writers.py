"""Writers that race on one ledger and are killed at random: never overspent, never drawn twice."""

from pathlib import Path

import pytest

from benchmarks.privacy.ledger import run_apart


@pytest.mark.slow
def test_writers_that_are_killed_overspend_nothing(location: str) -> None:
    found = run_apart(location, writers=12, kills=25, seed=3)
    assert found.overspends == found.failed == 0
    assert found.killed >= 25
    assert found.shown > 100
    assert found.refused > 0


@pytest.mark.slow
@pytest.mark.parametrize("mistake", ["shows its own draw", "looks before it locks"])
def test_mistakes_of_a_ledger_are_caught(mistake: str, tmp_path: Path) -> None:
    found = run_apart(str(tmp_path / "ledger.db"), 12, 25, 3, mistake)
    assert found.overspends > 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(  # the longest test: of the servers one is enough
    "location", ["sqlite", pytest.param("mysql", marks=pytest.mark.service("mysql"))], indirect=True
)
def test_two_hundred_writers_that_are_killed_overspend_nothing(location: str) -> None:
    found = run_apart(location, writers=200, kills=400, seed=5)
    assert found.overspends == found.failed == 0
    assert found.killed >= 400
    assert found.shown > 1_000
    assert found.refused > 0
