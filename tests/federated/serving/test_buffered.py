"""Training without rounds over a grid: filled by whoever comes, late or never, and accounted."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from tests.federated.private_run import SIZE, constant, small_plan, training
from tests.federated.private_run import WISHES as SMALL

from tactful_federated.core.invitation import Invitation
from tactful_federated.core.plan import Wishes, without_noise
from tactful_federated.core.polling import Polling
from tactful_federated.core.server_optimizer import Optimizer
from tactful_federated.device.ledger import DeviceLedger
from tactful_federated.errors import BudgetError, SecureSumError, SettingsError
from tactful_federated.model.vectors import Vector
from tactful_federated.secagg.messages import Session
from tactful_federated.serving.buffered import BufferedTraining, FlowerStream, serve_buffered
from tactful_federated.serving.rounds import invite
from tactful_federated.transport.flower_clear import LocalGrid, training_app

BARE = without_noise(small_plan())
CATEGORIES = ["bread", "cheese", "milk"]
WISHES = replace(SMALL, epsilon=8.0, delta=1e-3, over_selection=2.0, minimum_reports=2)
WISHES = replace(WISHES, population=16, rounds=6, report_goal=3, update_norm=2.0)


class Phones(LocalGrid):
    """Devices that train as `train` says; answers stay away for as many looks as `late` says."""

    def __init__(
        self,
        invitation: Invitation,
        nodes: int = 16,
        *,
        train: Callable[[int, int], None] = lambda node, round_number: None,
        late: Callable[[int], int] = lambda node: 0,
        **more: Any,
    ) -> None:
        super().__init__(training_app(invitation.vocabulary, self._train), nodes, **more)
        self._checked, self._late = train, late
        self._node, self._of, self._looks = 0, dict[str, int](), Counter[str]()
        self.asked: list[tuple[int, int]] = []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        numbers = []
        for message in messages:
            self._node = message.metadata.dst_node_id
            self.asked.append((self._node, int(message.metadata.group_id)))
            numbers += super().push_messages([message])
            self._of[numbers[-1]] = self._node
        return numbers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        asked = list(message_ids)
        self._looks.update(asked)
        return super().pull_messages(
            [number for number in asked if self._looks[number] > self._late(self._of[number])]
        )

    def _train(self, weights: Vector, round_number: int) -> Vector:
        self._checked(self._node, round_number)
        return np.full(weights.size, 1 / np.sqrt(weights.size), dtype=np.float32)


class Clock:
    """Goes on when it is slept on, and says how often that was."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        assert self.now < 500, "nothing happens any more"


def invited(directory: Path, wishes: Wishes = WISHES, **more: Any) -> Invitation:
    return invite(directory, wishes, CATEGORIES, run="test", tier="clear", **more)


def serve(
    directory: Path,
    invitation: Invitation,
    grid: LocalGrid,
    sleep: Callable[[float], None] | None = None,
    **more: Any,
) -> list[int]:
    clock, told = Clock(), list[int]()
    stream = FlowerStream(grid, invitation.vocabulary, deadline=30.0, clock=clock)
    more["polling"] = Polling(0.5, clock, sleep or clock.sleep)
    more["progress"] = lambda outcome, view: told.append(outcome.releases)
    serve_buffered(directory, invitation, stream, **more)
    return told


def test_slow_devices_hold_nobody_up_and_land_in_later_releases(tmp_path: Path) -> None:
    wishes = replace(WISHES, population=60)
    invitation = invited(tmp_path, wishes)
    grid = Phones(invitation, 60, late=lambda node: 3 * (node % 4 == 0))
    assert serve(tmp_path, invitation, grid) == [1, 2, 3, 4, 5, 6]
    assert len({round_number for _, round_number in grid.asked}) > 2
    assert (tmp_path / "model").exists() and (tmp_path / "live.json").exists()
    assert np.isfinite(np.load(tmp_path / "weights.npy")).all()


def test_what_the_server_asks_a_devices_own_ledger_allows(tmp_path: Path) -> None:
    invitation = invited(tmp_path)
    plan, refused = invitation.plan, list[SecureSumError]()
    assert 1 < plan.participations < plan.rounds and plan.separation > 1
    ledgers = {node: DeviceLedger(tmp_path / f"ledger-{node}") for node in range(1, 17)}

    def claim(node: int, round_number: int) -> None:
        nonce = str(round_number).encode()
        try:
            ledgers[node].claim(Session("test", round_number, nonce, plan.parameters), plan)
        except SecureSumError as error:
            refused.append(error)

    grid = Phones(invitation, train=claim, late=lambda node: node % 3)
    assert serve(tmp_path, invitation, grid)[-1] == plan.rounds
    assert refused == [] and max(Counter(node for node, _ in grid.asked).values()) > 1


def test_a_killed_server_goes_on_without_its_buffer(tmp_path: Path) -> None:
    invitation = invited(tmp_path, replace(WISHES, population=40))
    told = serve(tmp_path, invitation, Phones(invitation, 40), rounds=2)
    assert told == [1, 2]

    class KilledError(Exception):
        pass

    def kill(seconds: float) -> None:
        raise KilledError

    with pytest.raises(KilledError):  # two are in the buffer, the others never answer
        grid = Phones(invitation, 40, late=lambda node: 0 if node in {1, 2, 3, 4} else 99)
        serve(tmp_path, invitation, grid, sleep=kill)
    assert serve(tmp_path, invitation, Phones(invitation, 40))[-1] == 6


@pytest.mark.slow
def test_who_is_silent_or_fails_is_not_waited_for_nor_pestered(tmp_path: Path) -> None:
    invitation = invited(tmp_path, replace(WISHES, population=120))
    fails = {node for node in range(1, 121) if node % 5 in (1, 2, 3)}

    def fail(node: int, round_number: int) -> None:
        if node in fails:
            raise OSError("no room")

    grid = Phones(invitation, 120, train=fail, drops=lambda node, message: node % 5 == 0)
    assert serve(tmp_path, invitation, grid)[-1] == 6
    failing = Counter(of for of in grid.asked if of[0] in fails)
    # Who is asked is drawn: 18 reports before the first failure have a chance of 1e-14.
    assert failing and max(failing.values()) == 1


def test_what_a_buffer_cannot_do_is_refused(tmp_path: Path) -> None:
    wishes = replace(WISHES, minimum_reports=3)
    secret = invite(tmp_path / "secret", wishes, CATEGORIES, run="test", tier="secret")
    with pytest.raises(SettingsError, match="clear"):
        serve(tmp_path / "secret", secret, Phones(secret))
    invitation = invited(tmp_path)
    serve(tmp_path, invitation, Phones(invitation), rounds=1)
    with pytest.raises(SettingsError, match=r"optimizer\.json"):
        other = Optimizer("fedyogi", 0.01)
        serve(tmp_path, invitation, Phones(invitation), optimizer=other)
    assert invited(tmp_path / "near", proximal=0.1).proximal == 0.1
    with pytest.raises(SettingsError, match="proximal"):
        invited(tmp_path / "other", proximal=-1.0)


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
