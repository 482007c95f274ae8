"""Asynchronous aggregation: releases as full as planned, and each participation accounted for."""

from pathlib import Path

import numpy as np
import pytest
from tests.federated.private_run import SIZE, constant, small_plan, training

from tactful_federated.core.buffered import BufferedTraining
from tactful_federated.core.plan import without_noise
from tactful_federated.errors import BudgetError, SettingsError

BARE = without_noise(small_plan())


def test_a_full_buffer_is_released_and_old_updates_weigh_less(tmp_path: Path) -> None:
    run = training(tmp_path, BARE)
    buffer = BufferedTraining(run)
    weights, release = buffer.hand_out()
    assert (weights.tolist(), release) == ([0.0] * SIZE, 0)
    for device in range(BARE.report_goal - 1):
        assert buffer.accept(device, constant(device, 0), release) is None
    outcome = buffer.accept(50, constant(50, 0), release)
    assert outcome is not None and outcome.releases == 1
    assert np.allclose(run.weights, 0.25, atol=1e-4)
    for device in range(20, 20 + BARE.report_goal):
        buffer.accept(device, constant(device, 0), 0)  # one release old
    assert np.allclose(run.weights, 0.25 + 0.25 / np.sqrt(2), atol=1e-4)


def test_participation_counts_for_the_release_it_lands_in(tmp_path: Path) -> None:
    plan = small_plan()
    run = training(tmp_path, plan)
    buffer = BufferedTraining(run)
    buffer.accept(1, constant(1, 0), 0)
    with pytest.raises(BudgetError):
        buffer.accept(1, constant(1, 0), 0)  # twice in one release
    others = iter(range(2, 60))
    while run.releases < plan.separation:
        assert run.releases == 0 or 1 not in run.ledger.eligible([1], run.releases)
        buffer.accept(next(others), constant(0, 0), run.releases)
    buffer.accept(1, constant(1, 0), run.releases)


def test_a_restart_loses_the_buffer_and_no_budget(tmp_path: Path) -> None:
    run = training(tmp_path, small_plan())
    BufferedTraining(run).accept(1, constant(1, 0), 0)
    run.close()
    again = BufferedTraining(training(tmp_path, small_plan()))
    with pytest.raises(BudgetError):
        again.accept(1, constant(1, 0), 0)


def test_unfit_and_long_updates_count_and_do_no_harm(tmp_path: Path) -> None:
    run = training(tmp_path, BARE)
    buffer = BufferedTraining(run)
    buffer.accept(0, np.full(SIZE, np.nan, dtype=np.float32), 0)
    buffer.accept(1, np.zeros(SIZE + 1, dtype=np.float32), 0)
    for device in range(2, BARE.report_goal):
        buffer.accept(device, np.full(SIZE, 1e9, dtype=np.float32), 0)
    assert run.releases == 1
    length = float(np.linalg.norm(run.weights))
    assert length <= BARE.update_norm * (BARE.report_goal - 2) / BARE.report_goal + 1e-6


def test_too_old_or_impossible_updates_are_refused_uncharged(tmp_path: Path) -> None:
    run = training(tmp_path, BARE)
    for trained_from in (-2, 1):
        with pytest.raises(BudgetError, match="releases old"):
            BufferedTraining(run, most_stale=1).accept(1, constant(1, 0), trained_from)
        assert run.ledger.eligible([1], 0) == [1]
    with pytest.raises(SettingsError):
        BufferedTraining(run, most_stale=-1)
