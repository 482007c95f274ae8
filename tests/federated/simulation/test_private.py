"""A whole private run in one process learns, in each tier, and goes on where it stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tactful_federated.core.private_training import Outcome
from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.errors import CheckpointError, SettingsError
from tactful_federated.simulation.private import PrivateSimulationSettings, simulate_privately

SMALL = PrivateSimulationSettings(devices=60, rounds=3, report_goal=8, epsilon=8.0)


@pytest.mark.slow
def test_enough_devices_learn_through_the_noise(tmp_path: Path) -> None:
    seen: list[Outcome] = []
    found = simulate_privately(
        tmp_path,
        PrivateSimulationSettings(devices=1_000, rounds=6, report_goal=300, epsilon=10.0),
        progress=seen.append,
    )
    assert found.releases == 6 and found.void == 0
    assert [outcome.releases for outcome in seen] == list(range(1, 7))
    assert found.after.mean_loss < found.before.mean_loss - 0.3


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["secret", "noise-in-sum"])
def test_the_secret_tiers_run_and_go_on(tmp_path: Path, tier: Any) -> None:
    settings = replace(SMALL, tier=tier)

    def stop(outcome: Outcome) -> None:
        if outcome.releases == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_privately(tmp_path, settings, progress=stop)
    found = simulate_privately(tmp_path, settings)
    assert (found.releases, found.void) == (3, 0)
    assert bool(found.plan.device_sigma_squared) == (tier == "noise-in-sum")
    # Each device has charged its own account, not the server's alone, across the restart, too.
    took = 0
    for path in (tmp_path / "devices").iterdir():
        ledger = DeviceLedger(path)
        took += ledger.times("simulation")
        ledger.close()
    assert took == 3 * found.plan.cohort
    with pytest.raises(CheckpointError, match="another plan"):
        simulate_privately(tmp_path, replace(SMALL, epsilon=4.0))


def test_numbers_that_make_no_plan_are_refused(tmp_path: Path) -> None:
    wrong: dict[str, Any]
    for wrong in ({"report_goal": 100}, {"tier": "open"}):
        with pytest.raises(SettingsError):
            simulate_privately(tmp_path, replace(SMALL, **wrong))
