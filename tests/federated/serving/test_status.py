"""Status of a run: what its directory says in each state, and that reading changes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.federated.private_run import WISHES as SMALL

from tactful_federated.core.invitation import Invitation, Tier
from tactful_federated.core.plan import TrainingPlan
from tactful_federated.core.private_training import Collected
from tactful_federated.errors import CheckpointError, SettingsError
from tactful_federated.model.vectors import Vector
from tactful_federated.serving.evaluations import invite_to_evaluations, serve_evaluation
from tactful_federated.serving.rounds import LiveView, invite, serve_rounds
from tactful_federated.serving.status import RunStatus, read_status

CATEGORIES = ["bread", "cheese", "milk"]
WISHES = replace(SMALL, rounds=4, epsilon=8.0, delta=1e-3, update_norm=2.0)


class Silent:
    """Devices that report zeros, too few of them in the rounds of `void`."""

    def __init__(
        self, meanwhile: Callable[[], None] = lambda: None, void: Sequence[int] = ()
    ) -> None:
        self._meanwhile, self._void = meanwhile, void

    def ids(self) -> list[int]:
        return list(range(60))

    def collect(
        self, ids: Sequence[int], weights: Vector, plan: TrainingPlan, round_number: int
    ) -> Collected:
        self._meanwhile()
        reports = 1 if round_number in self._void else len(ids)
        return Collected(np.zeros(plan.parameters, dtype=np.int64), reports)


def invited(directory: Path, tier: Tier = "clear", **more: Any) -> Invitation:
    return invite(directory, replace(WISHES, **more), CATEGORIES, run="test", tier=tier)


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.mark.parametrize("tier", ["clear", "noise-in-sum"])
def test_each_state_of_a_run_is_read(tmp_path: Path, tier: Tier) -> None:
    invitation = invited(tmp_path, tier)
    plan, during, views = invitation.plan, list[RunStatus](), list[LiveView]()
    begun = read_status(tmp_path)
    assert (begun.run, begun.tier, begun.simulated, begun.running) == ("test", tier, False, False)
    assert (begun.round, begun.releases, begun.epsilon) == (0, 0, 0.0)
    assert (begun.completed_at, begun.seconds, begun.next_round) == (None, None, "start")
    devices = Silent(lambda: during.append(read_status(tmp_path)), void=[2])
    serve_rounds(
        tmp_path,
        invitation,
        devices,
        rounds=2,
        progress=lambda outcome, view: views.append(view),
    )
    assert [status.running for status in during] == [True] * 3
    assert [status.next_round for status in during] == ["devices"] * 3
    assert [(status.round, status.releases) for status in during] == [(0, 0), (1, 1), (2, 1)]
    assert [bool(status.reason) for status in during] == [False, False, True]
    for status, view in zip(during[1:], views, strict=False):
        assert (status.epsilon, status.seconds) == (view.epsilon, view.seconds)
    before = contents(tmp_path)
    stopped = read_status(tmp_path)
    assert contents(tmp_path) == before
    assert (stopped.running, stopped.next_round) == (False, "start")
    assert stopped.epsilon + stopped.epsilon_left == pytest.approx(plan.epsilon)
    assert (stopped.needs, stopped.rests) == (plan.minimum_reports, min(2, plan.separation - 1))
    serve_rounds(tmp_path, invitation, Silent())
    done = read_status(tmp_path)
    assert (done.releases, done.planned, done.epsilon_left) == (4, 4, 0.0)
    assert (done.next_round, done.published, done.evaluations) == ("never", True, None)


def test_evaluations_have_their_own_budget(tmp_path: Path) -> None:
    trained = invited(tmp_path)
    asked = invite_to_evaluations(tmp_path, replace(WISHES, rounds=2, epsilon=2.0))
    assert (planned := read_status(tmp_path).evaluations) is not None
    assert (planned.made, planned.planned, planned.epsilon) == (0, 2, 0.0)
    weights = np.zeros(trained.plan.parameters, dtype=np.float32)
    serve_evaluation(tmp_path, asked, weights, Silent())
    assert (made := read_status(tmp_path)).evaluations is not None
    assert (made.evaluations.made, made.epsilon) == (1, 0.0)
    assert made.evaluations.epsilon + made.evaluations.epsilon_left == pytest.approx(2.0)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_tier(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"tier":"clear"', b'"tier":"secret"'))


def of_another_plan(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"epsilon": 8.0', b'"epsilon": 4.0'))


@pytest.mark.parametrize(
    ("name", "spoil", "kind", "problem"),
    [
        ("rounds/state.npz", cut, CheckpointError, "state.npz is damaged"),
        ("rounds/state.npz", Path.unlink, CheckpointError, "0 releases, and the ledger"),
        ("rounds/participation.db", Path.unlink, CheckpointError, "2 releases, and the ledger"),
        ("rounds/participation.db", cut, CheckpointError, "participation.db cannot be read"),
        ("rounds/plan.json", cut, CheckpointError, "plan.json is no plan"),
        ("rounds/plan.json", of_another_plan, SettingsError, "files of two runs"),
        ("live.json", cut, CheckpointError, "live.json cannot be read"),
        ("live.json", of_another_tier, SettingsError, "live.json of 'test' with tier secret"),
        ("invitation.json", cut, SettingsError, "not an invitation"),
    ],
)
def test_a_spoilt_directory_is_named(
    served: Path, name: str, spoil: Callable[[Path], None], kind: type[Exception], problem: str
) -> None:
    spoil(served / name)
    with pytest.raises(kind, match=problem):
        read_status(served)


@pytest.fixture(scope="module")
def two_rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("served")
    serve_rounds(directory, invited(directory), Silent(), rounds=2)
    return directory


@pytest.fixture
def served(two_rounds: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_rounds, tmp_path / "server"))


def test_other_directories_are_refused(served: Path, tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.mkdir()
    (device / "request.json").write_bytes(b"{}")
    (tmp_path / "empty").mkdir()
    for wrong, problem in {
        "empty": "has no run",
        "device": "belongs to a device",
        "missing": "is no directory",
        "server/rounds": "is a part of a run: give .*server",
    }.items():
        with pytest.raises(SettingsError, match=problem):
            read_status(tmp_path / wrong)
    shutil.copy(served / "invitation.json", tmp_path)  # the copy that devices get
    assert read_status(served).releases == 2
