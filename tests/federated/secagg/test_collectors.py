"""Trimming costs no privacy, and stops what a few poisoned devices would do to the sum."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.federated.private_run import SIZE, Devices, small_plan, training

from tactful_federated.core.plan import without_noise
from tactful_federated.errors import SettingsError
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import ClearCollector, trimmed_sum
from tactful_federated.serving.rounds import collector_for

BARE = without_noise(small_plan())
ZERO: Vector = np.zeros(SIZE, dtype=np.float32)
UPDATES = arrays(np.int32, (7, 3), elements=st.integers(-50, 50))


@given(updates=UPDATES, trimmed=st.integers(0, 3))
def test_the_sum_is_of_the_middle_of_each_coordinate(updates: np.ndarray, trimmed: int) -> None:
    expected = [sum(sorted(column)[trimmed : 7 - trimmed]) for column in updates.T.tolist()]
    assert trimmed_sum(updates, trimmed).tolist() == expected


@given(updates=UPDATES, trimmed=st.integers(0, 3), device=st.integers(0, 6))
def test_trimming_keeps_the_sensitivity(updates: np.ndarray, trimmed: int, device: int) -> None:
    """So the sensitivity is the bound on its norm; rescaling to all rows would exceed it."""
    without = updates.copy()
    without[device] = 0
    change = trimmed_sum(updates, trimmed) - trimmed_sum(without, trimmed)
    assert (np.abs(change) <= np.abs(updates[device])).all()


@settings(max_examples=20)
@given(silent=st.sets(st.integers(0, 7), max_size=7))
def test_silence_is_a_row_of_zeros_wherever_it_falls(silent: set[int]) -> None:
    def sent(device: int, round_number: int) -> Vector:
        return np.full(SIZE, 0.01 * (device + 1), dtype=np.float32)

    def collected(update: object) -> list[int]:
        population = Devices(8, update)  # type: ignore[arg-type]
        total = ClearCollector(population, trim=0.25).collect(range(8), ZERO, BARE, 1).total
        return [int(value) for value in total]

    zeros = np.zeros(SIZE, dtype=np.float32)
    assert collected(lambda d, r: None if d in silent else sent(d, r)) == collected(
        lambda d, r: zeros if d in silent else sent(d, r)
    )


def test_trimming_bounds_two_poisoned_devices(tmp_path: Path) -> None:
    """Two poisoned devices of eight move the sum no further than honest ones could."""

    def update(device: int, round_number: int) -> Vector:
        poisoned = device in (2, 5)
        return np.full(SIZE, -9.0 if poisoned else 0.1, dtype=np.float32)

    moved = {}
    for trim in (0.0, 0.25):
        collector = ClearCollector(Devices(8, update), trim=trim)
        moved[trim] = collector.collect(range(8), ZERO, BARE, 1).total
    assert (moved[0.0] < 0).all()  # without trimming two outvote six
    honest = BARE.grid.encode(np.full(SIZE, 0.1, dtype=np.float32))
    assert moved[0.25].tolist() == (4 * honest).tolist()
    run = training(tmp_path, small_plan())
    assert run.run_round(ClearCollector(Devices(60, update), trim=0.25)).released
    run.close()


def test_nothing_may_not_be_left() -> None:
    with pytest.raises(SettingsError, match=r"below 0\.5"):
        ClearCollector(Devices(8, lambda d, r: None), trim=0.5)
    with pytest.raises(SettingsError, match="at each end"):
        trimmed_sum(np.zeros((4, 2), dtype=np.int32), 2)


@pytest.mark.parametrize("goal", [3, 7, 49, 1000])
def test_a_share_of_nobody_is_refused_with_one_that_is_taken(goal: int) -> None:
    grid: Any = None
    invitation: Any = SimpleNamespace(tier="clear", plan=SimpleNamespace(report_goal=goal))
    with pytest.raises(SettingsError, match="trim at least") as refused:
        collector_for(invitation, grid, deadline=1.0, trim=0.9 / goal)
    (least,) = re.findall(r"at least ([0-9.]+)", str(refused.value))
    assert 1 <= float(least) * goal < 1.01
