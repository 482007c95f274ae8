"""Rounds that keep to their plan: charged before asked, kept before told, whatever is killed."""

import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.federated.private_run import SIZE, Devices, constant, small_plan, training

from tactful_federated.core.invitation import Invitation, Tier
from tactful_federated.core.participation import Participation
from tactful_federated.core.plan import without_noise
from tactful_federated.core.private_training import PrivateTraining
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.errors import BudgetError, CheckpointError
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.collectors import ClearCollector
from tactful_federated.serving.rounds import LiveView, initial_weights, serve_rounds

BARE = without_noise(small_plan())
PLAIN = Optimizer(momentum=0.0, averaging=0.0)
ZERO: Vector = np.zeros(SIZE, dtype=np.float32)


def test_the_divisor_is_the_report_goal(tmp_path: Path) -> None:
    def six_report(device: int, round_number: int) -> Vector | None:
        return constant(device, round_number) if device in devices.asked[-1][:6] else None

    devices, run = Devices(60, six_report), training(tmp_path, BARE)
    assert run.run_round(ClearCollector(devices)).released
    # Silent devices do not raise the others' weight (flwr divides by those who replied).
    assert np.allclose(run.weights, 6 * 0.25 / BARE.report_goal, atol=1e-4)


def test_a_void_round_keeps_charges(tmp_path: Path) -> None:
    """With too few reports the model is unchanged and devices stay charged."""
    run = training(tmp_path, small_plan())
    devices = Devices(60, lambda device, _: constant(device, 0) if device < 4 else None)
    outcome = run.run_round(ClearCollector(devices))
    assert (outcome.released, outcome.releases) == (False, 0)
    assert outcome.reason == "too few devices reported"
    assert run.weights.tolist() == [0.0] * SIZE
    assert not set(devices.asked[0]) & set(run.ledger.eligible(range(60), 0))


@given(attempts=st.lists(st.booleans(), max_size=8), population=st.sampled_from([12, 17, 40]))
@settings(max_examples=8, deadline=None)
def test_void_rounds_leave_somebody_to_ask_and_count_for_nothing(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[bool], population: int
) -> None:
    """Of twelve devices asked at a time, one void round barred a population of twelve for good."""
    plan = without_noise(small_plan(population=population, rounds=4, delta=1e-3, spare=8))
    run, silent = training(tmp_path_factory.mktemp("run"), plan), iter(attempts)
    joined: list[list[int]] = []
    claimed: dict[int, list[int]] = {}  # the devices' own ledgers
    while run.releases < plan.rounds:
        quiet = next(silent, False)
        devices = Devices(population, (lambda device, _: None) if quiet else constant)
        outcome = run.run_round(ClearCollector(devices))
        assert outcome.released != quiet
        for device in devices.asked[0]:  # nobody is asked who would refuse
            rounds = claimed.setdefault(device, [])
            assert len(rounds) < plan.participations
            assert not rounds or outcome.round - rounds[-1] >= plan.separation
            rounds.append(outcome.round)
        if outcome.released:
            joined.append(devices.asked[0])
    for device in range(population):
        when = [release for release, cohort in enumerate(joined) if device in cohort]
        assert all(after - before >= plan.separation for before, after in pairwise(when))
    run.close()


def test_a_ledger_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    file = sqlite3.connect(tmp_path / "old.db")
    file.execute(
        "CREATE TABLE participation (device TEXT PRIMARY KEY, times INTEGER, latest INTEGER)"
    )
    file.execute("INSERT INTO participation VALUES ('1', 2, 5), ('2', 1, 5), ('3', 3, 1)")
    file.commit()
    file.close()
    ledger = Participation(tmp_path / "old.db", times=3, separation=2)
    assert ledger.eligible(range(1, 5), 5, 9) == [4]
    ledger.did_not_come(5)  # of the first it is not known when it took part before
    assert ledger.eligible(range(1, 5), 5, 9) == [2, 4]
    ledger.charge([2, 4], 5, 9)
    assert ledger.eligible(range(1, 5), 7, 10) == [1]
    assert ledger.eligible(range(1, 5), 7, 11) == [1, 2, 4]
    ledger.close()
    ledger = Participation(tmp_path / "ledger.db", times=1, separation=1)
    ledger.charge([2**64 - 1], 0)  # numbers of 64 bits
    assert ledger.eligible([2**64 - 1, 2**63], 5) == [2**63]


def test_spare_participations_add_noise() -> None:
    plain, spared = small_plan(), small_plan(spare=2)
    assert spared.participations == plain.participations + 2
    assert spared.sigma_squared > plain.sigma_squared


@pytest.mark.parametrize("tier", ["secret", "noise-in-sum"])
def test_epsilon_counts_void_rounds_of_visible_sums(tmp_path: Path, tier: Tier) -> None:
    """Void rounds count as spent if the server may have seen their sums."""
    categories, views = ["bread", "milk"], list[LiveView]()
    weights = initial_weights(Vocabulary.from_catalogue(categories))
    planned = small_plan(population=40, rounds=4, delta=1e-3, spare=8)
    plan = replace(planned, parameters=weights.size, sigma_squared=0)
    kept, quiet = np.zeros(weights.size, dtype=np.float32), range(1, 4)
    devices = Devices(40, lambda _, number: None if number in quiet else kept)
    key, collector = bytes(32), ClearCollector(devices)
    invitation = Invitation(
        run="test", tier=tier, plan=plan, categories=categories, authority=key, signer=key
    )
    serve_rounds(tmp_path, invitation, collector, rounds=1, progress=lambda _, v: views.append(v))
    spent = [view.epsilon for view in views]
    assert [view.releases for view in views] == [0, 0, 0, 1] and plan.separation == 3
    if tier == "secret":
        assert spent[:3] == [0, 0, 0] and 0 < spent[3] < 4
    else:
        assert 0 < spent[0] == spent[2] < spent[3] < 4


def test_unfit_updates_count_as_reports_of_zeros(tmp_path: Path) -> None:
    """Were they left out, whether a round is released would depend on what they hold."""
    poisons: list[Any] = [np.full(SIZE, bad, dtype=np.float32) for bad in (np.nan, np.inf)]
    poisons += [np.zeros(SIZE + 1, dtype=np.float32), np.zeros(SIZE, dtype=np.float64)]

    def poisoned(device: int, round_number: int) -> Vector:
        poison: Vector = poisons[device % 4]
        return poison if device % 2 else ZERO

    run = training(tmp_path, BARE)
    assert run.run_round(ClearCollector(Devices(60, poisoned))).released
    assert run.weights.tolist() == [0.0] * SIZE


def test_one_device_moves_the_sum_by_its_clip() -> None:
    # In flwr a device of weight 1,000 moves the model by a thousand times its share.
    def greedy(device: int, round_number: int) -> Vector:
        return np.full(SIZE, 1e20 if device == 3 else 0.0, dtype=np.float32)

    collected = ClearCollector(Devices(8, greedy)).collect(range(8), ZERO, BARE, 1)
    assert float(np.linalg.norm(collected.total)) <= BARE.units


def test_unrequested_updates_are_ignored() -> None:
    class Eager(Devices):
        def train(self, ids, weights, round_number):  # type: ignore[no-untyped-def]
            yield 999, constant(0, 0)
            yield ids[0], constant(0, 0)
            yield ids[0], constant(0, 0)
            for device in ids[1 : BARE.report_goal]:
                yield device, constant(0, 0)
            raise AssertionError("read on after the report goal")

    collected = ClearCollector(Eager(60, constant)).collect(range(12), ZERO, BARE, 1)
    assert collected.reports == BARE.report_goal
    expected = BARE.grid.encode(constant(0, 0)) * BARE.report_goal
    assert collected.total.tolist() == expected.tolist()


def test_stragglers_after_the_deadline_are_left_out() -> None:
    ticks = iter([0.0, 1.0, 2.0, 11.0])
    collector = ClearCollector(Devices(60, constant), deadline=10.0, clock=lambda: next(ticks))
    assert collector.collect(range(12), ZERO, BARE, 1).reports == 3


def test_no_device_takes_part_more_often_or_closer_than_planned(tmp_path: Path) -> None:
    plan = small_plan()
    run, devices = training(tmp_path, plan), Devices(60, constant)
    while run.releases < plan.rounds:
        assert run.run_round(ClearCollector(devices)).released
    when: dict[int, list[int]] = {}
    for number, cohort in enumerate(devices.asked):
        assert len(cohort) == plan.cohort
        for device in cohort:
            when.setdefault(device, []).append(number)
    for rounds in when.values():
        assert len(rounds) <= plan.participations
        assert all(b - a >= plan.separation for a, b in pairwise(rounds))
    with pytest.raises(BudgetError, match="all 20 releases"):
        run.run_round(ClearCollector(devices))
    assert max(Counter(d for c in devices.asked for d in c).values()) > 1


def test_noise_of_a_run_has_the_planned_width(tmp_path: Path) -> None:
    plan = replace(small_plan(parameters=4_000), rounds=6)
    entropy, start = np.random.default_rng(11).bytes, np.zeros(4_000, dtype=np.float32)
    run = PrivateTraining(tmp_path, plan, PLAIN, start, entropy=entropy)
    errors = plan.root.prefix_errors(6)
    for t in range(6):
        assert run.release(np.zeros(4_000, dtype=np.int64)).released
        assert run.weights.std() == pytest.approx(plan.step_noise * errors[t], rel=0.05)


def test_a_run_goes_on_from_its_checkpoint_as_if_never_stopped(tmp_path: Path) -> None:
    def rounds(directory: Path, stop_after: int) -> Vector:
        entropy = np.random.default_rng(4).bytes
        weights = np.zeros(SIZE, dtype=np.float32)
        run = PrivateTraining(directory, small_plan(), PLAIN, weights, entropy=entropy)
        for number in range(6):
            if number == stop_after:
                run.close()
                run = PrivateTraining(directory, small_plan(), PLAIN, weights, entropy=entropy)
            run.run_round(ClearCollector(Devices(60, constant)))
        return run.model

    assert np.array_equal(rounds(tmp_path / "a", 99), rounds(tmp_path / "b", 3))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["training", "saving", "recording"])
def test_kill_9_keeps_the_budget(tmp_path: Path, step: str) -> None:
    program = Path(__file__).parents[1] / "private_run.py"
    command = [sys.executable, str(program), str(tmp_path), step]
    died = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert died.returncode == -9, died.stderr
    told = [line.split() for line in died.stdout.splitlines()]
    assert [line[0] for line in told] == ["1", "2"]
    run = training(tmp_path, small_plan())
    if step == "recording":  # kept but not yet told: the third release goes on from there
        assert run.releases == run.ledger.released == 3
    else:  # neither kept nor told: the weights are those that the world knows
        assert run.releases == run.ledger.released == 2
        assert run.weights.tolist() == pytest.approx([float(w) for w in told[-1][1:]])
    # The third round's devices were asked, so they stay charged.
    barred = 60 - len(run.ledger.eligible(range(60), run.releases))
    assert barred >= min(3, run.plan.separation - 1) * run.plan.cohort - run.plan.cohort * (
        step == "recording"
    )
    assert run.run_round(ClearCollector(Devices(60, constant))).released


def test_what_is_not_kept_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, devices = training(tmp_path, small_plan()), ClearCollector(Devices(60, constant))
    run.run_round(devices)
    before, memory = run.weights, run._memory
    assert (tmp_path / "state.npz").stat().st_mode & 0o077 == 0

    def full(path: Path, data: bytes) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr("tactful_federated.core.checkpoint.write_whole", full)
        run.run_round(devices)
    assert (run.round, run.releases) == (1, 1)
    assert np.array_equal(run.weights, before) and run._memory is memory
    assert run.run_round(devices).releases == 2


def test_an_older_checkpoint_is_refused(tmp_path: Path) -> None:
    run = training(tmp_path, small_plan())
    run.run_round(ClearCollector(Devices(60, constant)))
    old = (tmp_path / "state.npz").read_bytes()
    run.run_round(ClearCollector(Devices(60, constant)))
    run.close()
    for content, problem in (
        (old, "older than the ledger"),
        (None, "older than the ledger"),
        (old[: len(old) // 2], "damaged"),
    ):
        (tmp_path / "state.npz").unlink(missing_ok=True)
        if content is not None:
            (tmp_path / "state.npz").write_bytes(content)
        with pytest.raises(CheckpointError, match=problem):
            training(tmp_path, small_plan())


@pytest.mark.parametrize("copied", [0, 2])
def test_a_restored_copy_draws_no_release_again(tmp_path: Path, copied: int) -> None:
    """Checkpoint and ledger of an older copy agree, and a release was drawn twice."""

    def rounds(count: int) -> None:
        run = training(tmp_path / "run", small_plan())
        for _ in range(count):
            run.run_round(ClearCollector(Devices(60, constant)))
        run.close()

    rounds(copied)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    rounds(1)
    newest = tmp_path / "newest"
    (tmp_path / "run").rename(newest)
    for place in ("run", "elsewhere"):
        (tmp_path / place).mkdir()
        for file in ("state.npz", "participation.db"):
            shutil.copy(tmp_path / "copy" / file, tmp_path / place / file)
        with pytest.raises(CheckpointError, match="restored from an older copy"):
            training(tmp_path / place, small_plan())
    run = training(newest, small_plan())
    assert run.releases == copied + 1
    run.close()


def test_an_older_ledger_is_refused(tmp_path: Path) -> None:
    """A ledger restored alone had none of the later charges."""
    run = training(tmp_path, small_plan())
    old = (tmp_path / "participation.db").read_bytes()
    for _ in range(2):
        run.run_round(ClearCollector(Devices(60, constant)))
    run.close()
    for content in (old, None):
        (tmp_path / "participation.db").unlink()
        if content is not None:
            (tmp_path / "participation.db").write_bytes(content)
        with pytest.raises(CheckpointError, match="could take part too"):
            training(tmp_path, small_plan())


def test_a_lost_counter_is_told_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def again() -> None:
        run = training(tmp_path / "run", small_plan())
        run.run_round(ClearCollector(Devices(60, constant)))
        run.close()

    again()
    again()
    assert "is missing" not in caplog.text
    (counter,) = (tmp_path / "state" / "tactful" / "rounds").iterdir()
    assert counter.read_text() == "2" and counter.stat().st_mode & 0o077 == 0
    counter.unlink()
    again()
    assert "is missing" in caplog.text and counter.read_text() == "3"
    counter.write_text("x")
    with pytest.raises(CheckpointError, match="cannot be read"):
        again()

    def change(statement: str) -> None:
        with closing(sqlite3.connect(tmp_path / "run" / "participation.db")) as ledger, ledger:
            ledger.execute(statement)

    change("UPDATE run SET name = '../x'")
    with pytest.raises(CheckpointError, match="is damaged"):
        again()
    change("DROP TABLE run")  # as in an earlier version
    again()


def test_a_run_keeps_its_plan_and_its_directory_to_itself(tmp_path: Path) -> None:
    run = training(tmp_path, small_plan())
    with pytest.raises(CheckpointError, match="another process uses"):
        training(tmp_path, small_plan())
    run.close()
    with pytest.raises(CheckpointError, match="another plan"):
        training(tmp_path, small_plan(epsilon=8.0))
    with pytest.raises(CheckpointError, match="6 parameters, not 2"):
        PrivateTraining(tmp_path / "new", small_plan(), PLAIN, np.zeros(2, dtype=np.float32))
    training(tmp_path, small_plan()).close()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sets(st.integers(0, 7)), st.integers(0, 2)), max_size=25))
def test_the_ledger_agrees_with_a_naive_one(asked: list[tuple[set[int], int]]) -> None:
    ledger = Participation(Path(":memory:"), times=2, separation=3)
    took: dict[int, list[int]] = {device: [] for device in range(8)}
    release = 0
    for devices, passed in asked:
        release += passed
        rested = {d for d in range(8) if all(release - r >= 3 for r in took[d])}
        may = [d for d in range(8) if len(took[d]) < 2 and d in rested]
        assert ledger.eligible(range(8), release) == may
        if devices <= set(may):
            ledger.charge(sorted(devices), release)
            for device in devices:
                took[device].append(release)
        else:
            with pytest.raises(BudgetError):
                ledger.charge(sorted(devices), release)
            assert ledger.eligible(range(8), release) == may


def test_the_noise_is_for_the_norm_that_clips_and_neither_moves(tmp_path: Path) -> None:
    """flwr adapts the norm the wrong way round, and scales the noise by the norm afterwards."""
    plans = [small_plan(update_norm=norm) for norm in (0.1, 10.0)]
    assert plans[1].step_noise == pytest.approx(100 * plans[0].step_noise)
    assert plans[0].sigma_squared == plans[1].sigma_squared  # on the grid, both are one norm
    for number, plan in enumerate(plans):
        run = training(tmp_path / str(number), plan)
        ones = Devices(60, lambda device, _: np.full(SIZE, 6**-0.5, dtype=np.float32))
        for _ in range(3):
            total = ClearCollector(ones).collect(range(8), ZERO, plan, 1).total
            length = float(np.linalg.norm(plan.grid.decode(total))) / 8
            assert length == pytest.approx(min(1.0, plan.update_norm), rel=1e-3)
            run.run_round(ClearCollector(ones))
        assert run.plan == plan
