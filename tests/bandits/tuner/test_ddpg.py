"""The agent and what it is made of: replay, learning, resuming, export."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from tactful_bandits.errors import PolicyError
from tactful_bandits.tuner.ddpg import DdpgAgent, Effect
from tactful_bandits.tuner.ddpg_settings import DdpgSettings
from tactful_bandits.tuner.network import NetworkPolicy, gaussian_log_density
from tactful_bandits.tuner.replay_buffer import Replay

SMALL = DdpgSettings(hidden=(16,), batch=32, warm_up=64, learning_rate=3e-3, target_rate=0.02)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("on_disk", [False, True])
def test_replay_keeps_the_latest(on_disk: bool, tmp_path: Path) -> None:
    path = tmp_path / "replay" if on_disk else None
    replay = Replay(2, 1, capacity=7, path=path)
    kept: list[list[float]] = []
    rng = np.random.default_rng(0)
    for at in range(23):
        row = [float(at), 0.5, 0.25, float(at) / 2, at + 1.0, 1.5, float(at % 3 == 0)]
        replay.add(row[:2], row[2:3], row[3], row[4:6], bool(row[6]))
        kept = [*kept, row][-7:]
        seen = np.column_stack([np.atleast_2d(part.T).T for part in replay.all()])
        assert sorted(seen.tolist()) == sorted(kept)
        drawn = np.column_stack([np.atleast_2d(part.T).T for part in replay.sample(5, rng)])
        assert all(row in kept for row in drawn.tolist())
    assert len(replay) == 7
    replay.flush()
    if path is not None:
        again = Replay(2, 1, capacity=7, path=path)
        again.resume(replay.added, replay.latest)
        np.testing.assert_array_equal(again.all().states, replay.all().states)
        with pytest.raises(PolicyError, match="another file"):
            Replay(3, 1, capacity=7, path=path)
    with pytest.raises(PolicyError, match="empty"):
        Replay(2, 1).sample(1, rng)


def _live(agent: DdpgAgent, steps: int, seed: int, scale: float = 1.0) -> None:
    """Best is an action of half the state; nothing carries over."""
    rng = np.random.default_rng(seed)
    state = rng.uniform(-1, 1, 1)
    for _ in range(steps):
        proposal = agent.explore(state)
        reward = -((proposal.action[0] - 0.5 * state[0]) ** 2)
        following = rng.uniform(-1, 1, 1)
        agent.observe(state, proposal.action, scale * reward, following, terminated=False)
        state = following


@pytest.mark.slow
def test_an_untrained_agent_is_the_champion() -> None:
    agent = DdpgAgent(3, 2)
    for state in np.random.default_rng(0).normal(size=(5, 3)):
        assert not agent.act(state).any()
        assert not agent.export().act(state).any() and agent.export().covers(state)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"critics": 2, "actor_delay": 2, "smoothing": 0.1},
    ],
)
def test_it_finds_the_action_that_pays(changes: dict[str, float]) -> None:
    settings = replace(SMALL, discount=0.0, centre_rewards=True, **changes)  # type: ignore[arg-type]
    agent = DdpgAgent(1, 1, settings=settings, seed=1)
    _live(agent, 800, 5)
    for state in (-0.8, 0.0, 0.8):
        assert agent.act([state])[0] == pytest.approx(0.5 * state, abs=0.2)


@pytest.mark.slow
def test_what_is_learnt_does_not_depend_on_the_scale_of_rewards() -> None:
    settings = replace(SMALL, centre_rewards=True, weight_decay=0.3)
    actions = []
    for scale in (1.0, 20.0, 1e-3):
        agent = DdpgAgent(1, 1, settings=settings, seed=2)
        _live(agent, 150, 6, scale)
        actions.append([agent.act([state])[0] for state in (-0.8, 0.3)])
    assert np.abs(actions[0]).max() > 0.01, "it has learnt something"
    np.testing.assert_allclose(actions[1], actions[0], atol=1e-3)
    np.testing.assert_allclose(actions[2], actions[0], atol=1e-3)


def test_the_averaged_actor_acts_and_is_exported() -> None:
    agent = DdpgAgent(1, 1, settings=replace(SMALL, average_rate=0.2), seed=6)
    average = [part.detach().clone() for part in agent._actor.parameters()]
    for step in range(90):
        _live(agent, 1, step)
        if not agent.warming_up:
            own = agent._actor.parameters()
            average = [0.8 * a + 0.2 * b for a, b in zip(average, own, strict=True)]
    found = [array for w, b in agent.export().layers for array in (w.T, b)]
    for ours, theirs in zip(found, average, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)
    with torch.no_grad():
        latest = torch.tanh(agent._actor(agent._normalised(np.array([0.1], dtype=np.float32))))
    assert agent.act([0.1]) == pytest.approx(agent.export().act([0.1]), abs=1e-6)
    assert agent.act([0.1]) != pytest.approx(latest.numpy(), abs=1e-6)
    drawn = [agent.explore([0.1]).drawn[0] for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(agent.act([0.1])[0], abs=4 * SMALL.noise / 20)


def test_the_actor_climbs_the_mean_of_critics_that_start_apart() -> None:
    settings = replace(SMALL, critics=3, saturation_penalty=0.0, normalise_actor_loss=False)
    agent = DdpgAgent(1, 1, settings=settings, seed=9)
    _live(agent, SMALL.warm_up - 1, 10)
    agent._freeze()
    weights = [critic[0].weight for critic in agent._critics]  # type: ignore[index]
    assert not torch.equal(weights[0], weights[1])
    batch = agent.replay.sample(SMALL.batch, np.random.default_rng(0))
    agent.replay.sample = lambda size, rng: batch  # type: ignore[method-assign]
    agent._update()
    found = agent._actor[-1].bias.grad
    states = agent._normalised(batch.states)
    before = DdpgAgent(1, 1, settings=settings, seed=9)._actor  # the actor before its step
    actions = torch.tanh(before(states))
    together = torch.cat([states, actions], dim=1)
    loss = -torch.stack([critic(together) for critic in agent._critics]).mean()
    before.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    assert found is not None
    torch.testing.assert_close(found, before[-1].bias.grad)


def test_critics_judge_what_an_action_comes_to() -> None:
    def live(effect: Effect | None, scale: float) -> DdpgAgent:
        """Whose second number of an action does nothing, and of which scale is logged."""
        settings = replace(SMALL, discount=0.8, smoothing=0.1)
        agent = DdpgAgent(1, 2, settings=settings, seed=11, effect=effect)
        rng = np.random.default_rng(12)
        for _ in range(100):
            state, following = rng.normal(size=1), rng.normal(size=1)
            first, second = rng.uniform(-1, 1, 2)
            agent.observe(state, [first, scale * second], first, following, terminated=False)
        return agent

    def first_alone(actions: torch.Tensor) -> torch.Tensor:
        return actions * torch.tensor([1.0, 0.0])

    one, other = (live(first_alone, scale) for scale in (1.0, 0.1))
    assert one.act([0.5]).any()
    np.testing.assert_array_equal(one.act([0.5]), other.act([0.5]))
    last = one._actor[-1].weight
    assert isinstance(last, torch.Tensor)
    assert not last[1].any(), "nothing is to be learnt of what does nothing"
    one, other = (live(None, scale) for scale in (1.0, 0.1))
    assert (one.act([0.5]) != other.act([0.5])).all()


def test_decay_keeps_critics_small() -> None:
    def size(decay: float) -> float:
        agent = DdpgAgent(1, 1, settings=replace(SMALL, weight_decay=decay), seed=7)
        rng = np.random.default_rng(8)
        for _ in range(200):
            agent.observe([0.0], rng.uniform(-1, 1, 1), rng.normal(), [0.0], terminated=False)
        with torch.no_grad():
            return float(sum((part**2).sum() for part in agent._critics.parameters()))

    assert size(1.0) < 0.9 * size(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("terminated", [True, False])
def test_values_go_on_where_an_episode_was_only_cut_off(terminated: bool) -> None:
    settings = replace(SMALL, discount=0.8, learning_rate=1e-2, target_rate=0.1)
    agent = DdpgAgent(1, 1, settings=settings, seed=3)
    rng = np.random.default_rng(3)
    for at in range(500):
        action = rng.uniform(-1, 1, 1)
        agent.observe([rng.normal()], action, 2.0 * (at % 2), [rng.normal()], terminated=terminated)
    states = torch.zeros((1, 1))
    with torch.no_grad():
        value = float(agent._critics[0](torch.cat([states, states], dim=1)))
    # Rewards of mean 1 and deviation 1: worth 1 if nothing follows, 1 / (1 - 0.8) if it goes on.
    assert value == pytest.approx(1.0 if terminated else 5.0, rel=0.2)


@pytest.mark.slow
def test_a_saved_run_continues_identically(tmp_path: Path) -> None:
    settings = replace(SMALL, critics=3, smoothing=0.1, average_rate=0.1)

    def make(name: str) -> DdpgAgent:
        return DdpgAgent(1, 1, settings=settings, seed=4, capacity=100, replay_path=tmp_path / name)

    whole, first = make("whole"), make("parts")
    _live(whole, 120, 7)
    _live(whole, 60, 8)
    _live(first, 120, 7)
    first.save(tmp_path / "agent")
    second = make("parts")
    second.load(tmp_path / "agent")
    _live(second, 60, 8)
    assert second.updates == whole.updates
    for ours, theirs in zip(second._networks(), whole._networks(), strict=True):
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(one, other)
    assert second.export().to_bytes() == whole.export().to_bytes()
    with pytest.raises(PolicyError, match="no agent of this size"):
        DdpgAgent(2, 1, settings=settings).load(tmp_path / "agent")
    with pytest.raises(PolicyError, match="not the one that was saved"):
        DdpgAgent(1, 1, settings=settings, capacity=100).load(tmp_path / "agent")
    settings = replace(settings, hidden=(8,))
    first.save(tmp_path / "agent")
    with pytest.raises(PolicyError, match="other layers"):
        make("parts").load(tmp_path / "agent")


def test_the_exported_network_is_the_actor_within_its_range() -> None:
    agent = DdpgAgent(1, 1, settings=replace(SMALL, hidden=(16, 8)), seed=5)
    _live(agent, 120, 9)
    network = agent.export()
    assert NetworkPolicy.from_bytes(network.to_bytes()).to_bytes() == network.to_bytes()
    for state in np.linspace(-0.9, 0.9, 7):
        np.testing.assert_allclose(network.act([state]), agent.act([state]), atol=1e-6)
        assert network.act([state]).any()
    for state in (-1.5, 30.0, math.nan, math.inf):
        assert not network.covers([state])
        assert not network.act([state]).any()
    with pytest.raises(PolicyError):
        network.act([0.0, 0.0])
    data = network.to_bytes()
    for at in range(0, len(data), 11):
        damaged = bytearray(data)
        damaged[at] ^= 4
        with pytest.raises(PolicyError):
            NetworkPolicy.from_bytes(bytes(damaged))


def test_networks_that_do_not_fit_are_refused() -> None:
    one = np.ones(2, dtype=np.float32)
    layer = (np.ones((2, 3), dtype=np.float32), np.ones(3, dtype=np.float32))
    NetworkPolicy([layer], one, one, -one, one)
    for layers, deviation in (
        ([layer, layer], one),
        ([], one),
        ([layer], 0 * one),
        ([layer], one[:1]),
        ([(layer[0] * np.nan, layer[1])], one),
    ):
        with pytest.raises(PolicyError):
            NetworkPolicy(layers, one, deviation, -one, one)


def test_proposals_carry_the_density_they_were_drawn_with() -> None:
    agent = DdpgAgent(1, 2, settings=replace(SMALL, warm_up_reach=0.25, noise=0.7), seed=6)
    first = agent.explore([0.0])
    assert first.log_density == pytest.approx(-2 * math.log(0.5))
    drawn = np.array([agent.explore([0.0]).drawn for _ in range(50)])
    assert -0.25 <= drawn.min() < -0.2 and 0.2 < drawn.max() <= 0.25
    for _ in range(SMALL.warm_up):
        agent.observe([0.1], [0.0, 0.0], float(agent._rng.normal()), [0.2], terminated=False)
    proposal = agent.explore([0.1])
    mean = agent.act([0.1])
    expected = stats.norm(mean, 0.7).logpdf(proposal.drawn).sum()
    assert proposal.log_density == pytest.approx(expected)
    assert gaussian_log_density(proposal.drawn, mean, 0.7) == pytest.approx(expected)
    np.testing.assert_array_equal(proposal.action, np.clip(proposal.drawn, -1, 1))
    with pytest.raises(PolicyError, match="finite"):
        agent.observe([math.nan], [0.0, 0.0], 0.0, [0.2], terminated=False)


def test_settings_out_of_range_are_refused() -> None:
    for changes in (
        {"hidden": ()},
        {"discount": 1.0},
        {"noise": -0.1},
        {"batch": 0},
        {"critics": 0},
        {"warm_up_reach": 0.0},
        {"target_rate": 0.0},
        {"weight_decay": -0.1},
        {"average_rate": 0.0},
    ):
        with pytest.raises(PolicyError):
            DdpgSettings(**changes)


@pytest.mark.long
def test_pendulum_swings_up() -> None:
    pytest.importorskip("gymnasium")
    from benchmarks.experiments import tuner as _experiments_tuner

    assert _experiments_tuner._pendulum_return(0, 12_000) > -200
