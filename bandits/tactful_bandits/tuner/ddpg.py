"""DDPG agent with the options of TD3; needs the extra ``tuner``.

An actor proposes an action in ``[-1, 1]``, a critic estimates its value, and the actor ascends the
critic's gradient (Lillicrap et al., ICLR 2016, arXiv 1509.02971). The minimum of several critics as
a target, delayed actors and smoothed targets are those of TD3 (Fujimoto, van Hoof, Meger, ICML
2018, arXiv 1802.09477). Measures against rewards of another scale, saturated actors and noise:

- the actor's loss is divided by the mean absolute value of the critic (Fujimoto, Gu, NeurIPS 2021,
  arXiv 2106.06860), and the inputs of its tanh are penalised;
- states and rewards are normalised, by frozen statistics of the first, random steps or by running
  ones;
- bootstrapping stops where an episode terminated, not where it was truncated;
- the last layer of the actor starts at 0, so an untrained actor gives action 0: the champion;
- weight decay regularises the critics, which would overfit noisy rewards (Loshchilov, Hutter, ICLR
  2019, arXiv 1711.05101), and the actor ascends the mean of several critics, whose errors partly
  cancel (as in Chen et al., ICLR 2021, arXiv 2101.05982);
- critics get the effect of an action (`effect`) if several actions are equivalent: they would learn
  that map from rewards and smooth its corners, and the actor would find a wrong optimum;
- the actor that acts and is exported may be an average over training (Polyak, Juditsky, SIAM
  Journal on Control and Optimization 30, 1992): it leaves the champion gradually.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import MissingExtraError, PolicyError
from tactful_bandits.tuner.box_spaces import BoxSpaces
from tactful_bandits.tuner.ddpg_settings import GENERAL_SETTINGS, DdpgSettings
from tactful_bandits.tuner.network import NetworkPolicy, gaussian_log_density
from tactful_bandits.tuner.replay_buffer import Batch, Replay
from tactful_bandits.tuner.running_statistics import RunningStatistics
from tactful_privacy.durable_files import replacing

try:
    import gymnasium
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "DDPG needs torch and gymnasium: pip install 'tactful[tuner]'"
    ) from error

_FORMAT = 4
_PHASE = 200  # steps
_WIDEST = 5.0  # same limit as in `NetworkPolicy`


Effect = Callable[[Tensor], Tensor]
"""Map from actions between -1 and 1, ``[batch, actions]``, to their effect, of the same shape;
differentiable, because the actor is trained through it."""


@dataclass(frozen=True, eq=False)
class Proposal:
    """An action with the data that off-policy evaluation needs."""

    action: NDArray[np.float64]  # action to take, between -1 and 1
    drawn: NDArray[np.float64]  # the action before it was clipped to that range; log this value
    log_density: float  # log density of `drawn` under its policy; NaN without noise


class DdpgAgent:
    """Actor, critics and replay buffer."""

    def __init__(
        self,
        states: int,
        actions: int,
        *,
        settings: DdpgSettings | None = None,
        seed: int = 0,
        capacity: int = 100_000,
        replay_path: Path | None = None,
        effect: Effect | None = None,
    ) -> None:
        """Create an agent that proposes action 0.

        The replay buffer lies in memory without a `replay_path`. Critics get the `effect` of an
        action instead of the action, if it is given; restore a saved agent with the same map.
        """
        self.settings = s = settings or DdpgSettings()
        self._sizes = states, actions
        self._effect: Effect = effect or (lambda actions: actions)
        self.replay = Replay(states, actions, capacity=capacity, path=replay_path)
        self._rng = np.random.default_rng(seed)
        self._torch_rng = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._actor = _perceptron(states, actions, s.hidden)
            critics = [_perceptron(states + actions, 1, s.hidden) for _ in range(s.critics)]
        for parameter in self._actor[-1].parameters():
            nn.init.zeros_(parameter)
        self._critics = nn.ModuleList(critics)
        self._target_actor = copy.deepcopy(self._actor)
        self._target_critics = copy.deepcopy(self._critics)
        self._average = copy.deepcopy(self._actor)
        self._actor_steps = torch.optim.Adam(self._actor.parameters(), s.learning_rate, fused=True)
        self._critic_steps = torch.optim.AdamW(
            self._critics.parameters(), s.learning_rate, weight_decay=s.weight_decay, fused=True
        )
        self.updates = 0
        self._statistics = {
            "mean": np.zeros(states, dtype=np.float32),
            "deviation": np.ones(states, dtype=np.float32),
            "lowest": np.full(states, -np.inf, dtype=np.float32),
            "highest": np.full(states, np.inf, dtype=np.float32),
            "reward": np.array([0.0, 1.0], dtype=np.float32),
        }
        self._running = RunningStatistics(states)
        self._last_noise, self._held = np.zeros(actions), np.zeros(actions)
        self._random_phase = False

    @classmethod
    def for_environment(
        cls,
        env: gymnasium.Env[Any, Any],
        *,
        settings: DdpgSettings = GENERAL_SETTINGS,
        seed: int = 0,
        replay_path: Path | None = None,
    ) -> DdpgAgent:
        """Create an agent for an environment; raise PolicyError if a space is not a finite Box."""
        spaces = BoxSpaces.of(env)
        sizes = spaces.states, spaces.actions
        return cls(*sizes, settings=settings, seed=seed, replay_path=replay_path)

    def learn(
        self,
        env: gymnasium.Env[Any, Any],
        steps: int,
        *,
        seed: int,
        save_to: Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Act in an environment and learn until the agent has seen so many steps in all.

        With `save_to` the agent is saved at ends of episodes, 20 times or so; one that was loaded
        from there continues as if it had not been stopped, if the environment depends on the
        seed of its reset alone. `progress` receives the steps that are done, and all.

        Raises:
            PolicyError: if a space is not a finite Box or of another size than the agent's, or an
                observation or reward is not finite.
        """
        spaces = BoxSpaces.of(env)
        if (spaces.states, spaces.actions) != self._sizes:
            raise PolicyError(
                f"the environment has {spaces.states} observations and {spaces.actions} actions, "
                f"the agent {self._sizes[0]} and {self._sizes[1]}"
            )
        saved = self.replay.added
        while (start := self.replay.added) < steps:
            # The seed depends on the step alone, so that a continued run meets the same episodes.
            episode = int(np.random.SeedSequence([seed, start]).generate_state(1)[0])
            state, over = spaces.state(env.reset(seed=episode)[0]), False
            while not over and self.replay.added < steps:
                proposal = self.explore(state)
                observed, reward, terminated, truncated, _ = env.step(
                    spaces.action(proposal.action)
                )
                following = spaces.state(observed)
                self.observe(
                    state, proposal.action, float(reward), following, terminated=bool(terminated)
                )
                state, over = following, bool(terminated or truncated)
                if progress is not None:
                    progress(self.replay.added, steps)
            self.end_episode()
            done = self.replay.added
            if save_to is not None and (done - saved >= steps // 20 or done >= steps):
                self.save(save_to)
                saved = done

    @property
    def warming_up(self) -> bool:
        """Whether actions are still random."""
        return self.replay.added < self.settings.warm_up

    def act(self, state: ArrayLike) -> NDArray[np.float64]:
        """Compute the averaged actor's action without noise, as the exported policy does."""
        with torch.no_grad():
            squeezed = torch.tanh(self._average(self._normalised(np.asarray(state, np.float32))))
        return np.asarray(squeezed.numpy(), dtype=np.float64)

    def explore(self, state: ArrayLike) -> Proposal:
        """Draw an action with noise; a uniform one during the warm-up."""
        size, s = self._sizes[1], self.settings
        if s.random_phases and self.replay.added % _PHASE == 0:
            self._random_phase = self._rng.random() < s.random_phases
        if self.warming_up or self._random_phase:
            return self._random_action()
        # Autoregressive noise with the standard deviation `noise`; its density is that given the
        # noise of the step before.
        mean = self.act(state)
        expected = mean + s.noise_correlation * self._last_noise
        fresh = s.noise * math.sqrt(1 - s.noise_correlation**2)
        drawn = expected + fresh * self._rng.standard_normal(size)
        self._last_noise = drawn - mean
        density = gaussian_log_density(drawn, expected, fresh) if fresh else math.nan
        return Proposal(np.clip(drawn, -1, 1), drawn, density)

    def _random_action(self) -> Proposal:
        """Return a uniform action, new or held."""
        s = self.settings
        if not s.hold:
            drawn = self._rng.uniform(-s.warm_up_reach, s.warm_up_reach, self._sizes[1])
            return Proposal(drawn, drawn, -len(drawn) * math.log(2 * s.warm_up_reach))
        if not self._held.any() or self._rng.random() >= s.hold:
            self._held = self._rng.uniform(-s.warm_up_reach, s.warm_up_reach, self._sizes[1])
        return Proposal(self._held, self._held, math.nan)

    def end_episode(self) -> None:
        """Begin an episode: noise and returns do not continue from the last one."""
        self._last_noise = np.zeros(self._sizes[1])
        self._running.end_episode()

    def observe(
        self,
        state: ArrayLike,
        action: ArrayLike,
        reward: float,
        next_state: ArrayLike,
        *,
        terminated: bool,
    ) -> None:
        """Store a transition, and update once after the warm-up.

        A truncated episode did not terminate.
        """
        values = (state, action, [reward], next_state)
        if not all(np.isfinite(np.asarray(value)).all() for value in values):
            raise PolicyError("a transition must be finite; some value is NaN or infinite")
        self.replay.add(state, action, reward, next_state, terminated)
        if self.settings.running_statistics:
            self._follow(np.asarray(state, np.float32), reward)
        elif self.replay.added == self.settings.warm_up:
            self._freeze()
        if not self.warming_up:
            self._update()

    def export(self, *, everywhere: bool = False) -> NetworkPolicy:
        """Export the averaged actor for serving.

        It covers the range of all states in the replay, extended by a tenth on each side, or
        `everywhere` all states: in an environment without a champion, action 0 is no safe one.
        """
        layers = [
            (part.weight.detach().numpy().T.copy(), part.bias.detach().numpy().copy())
            for part in self._average
            if isinstance(part, nn.Linear)
        ]
        s = self._statistics
        if everywhere or not len(self.replay):
            return NetworkPolicy(layers, s["mean"], s["deviation"], s["lowest"], s["highest"])
        states = self.replay.all().states
        low, high = states.min(axis=0), states.max(axis=0)
        margin = 0.1 * (high - low)
        return NetworkPolicy(layers, s["mean"], s["deviation"], low - margin, high + margin)

    def save(self, path: Path) -> None:
        """Save everything but the replay's rows, which stay in their file; atomic."""
        self.replay.flush()
        state = {
            "format": _FORMAT,
            "sizes": list(self._sizes),
            "networks": [network.state_dict() for network in self._networks()],
            "steps": [self._actor_steps.state_dict(), self._critic_steps.state_dict()],
            "statistics": {
                name: torch.from_numpy(array) for name, array in self._statistics.items()
            },
            "added": self.replay.added,
            "latest": torch.from_numpy(self.replay.latest),
            "updates": self.updates,
            "running": torch.from_numpy(self._running.to_array()),
            "noise": torch.from_numpy(self._last_noise),
            "held": torch.from_numpy(np.append(self._held, self._random_phase)),
            "rng": json.dumps(self._rng.bit_generator.state),
            "torch_rng": self._torch_rng.get_state(),
        }
        with replacing(path) as file:
            torch.save(state, file)

    def load(self, path: Path) -> None:
        """Restore the state of `save`, on the same replay file.

        Raise PolicyError if the file or the replay belongs to another agent.
        """
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state.get("format") != _FORMAT or state.get("sizes") != list(self._sizes):
            raise PolicyError(f"{path} holds no agent of this size and version: train a new one")
        self.replay.resume(state["added"], state["latest"].numpy())
        try:
            for network, saved in zip(self._networks(), state["networks"], strict=True):
                network.load_state_dict(saved)
        except (RuntimeError, ValueError) as error:
            raise PolicyError(f"{path} holds an agent with other layers: {error}") from error
        optimizers = self._actor_steps, self._critic_steps
        for optimizer, saved in zip(optimizers, state["steps"], strict=True):
            optimizer.load_state_dict(saved)
        self._statistics = {name: part.numpy() for name, part in state["statistics"].items()}
        self._running.restore(state["running"].numpy())
        self._last_noise = state["noise"].numpy()
        *held, random_phase = state["held"].tolist()
        self._held, self._random_phase = np.array(held), bool(random_phase)
        self.updates = state["updates"]
        self._rng.bit_generator.state = json.loads(state["rng"])
        self._torch_rng.set_state(state["torch_rng"])

    def _networks(self) -> Sequence[nn.Module]:
        return self._actor, self._critics, self._target_actor, self._target_critics, self._average

    def _freeze(self) -> None:
        warm_up = self.replay.all()
        s = self._statistics
        s["mean"] = warm_up.states.mean(axis=0)
        s["deviation"] = np.maximum(warm_up.states.std(axis=0), 1e-6).astype(np.float32)
        mean = float(warm_up.rewards.mean()) if self.settings.centre_rewards else 0.0
        s["reward"] = np.array([mean, max(float(warm_up.rewards.std()), 1e-9)], dtype=np.float32)

    def _follow(self, state: NDArray[np.float32], reward: float) -> None:
        self._running.update(state, reward, self.settings.discount)
        s = self._statistics
        s["mean"], s["deviation"] = self._running.mean, self._running.deviation
        s["reward"] = np.array([0.0, self._running.scale], dtype=np.float32)

    def _normalised(self, states: NDArray[np.float32]) -> Tensor:
        s = self._statistics
        return torch.from_numpy(np.clip((states - s["mean"]) / s["deviation"], -_WIDEST, _WIDEST))

    def _update(self) -> None:
        s = self.settings
        batch = self.replay.sample(s.batch, self._rng)
        states = self._normalised(batch.states)
        predicted = self._values(self._critics, states, torch.from_numpy(batch.actions))
        self._critic_steps.zero_grad()
        critic_loss = ((predicted - self._targets(batch)) ** 2).mean(dim=1).sum()
        critic_loss.backward()  # type: ignore[no-untyped-call]
        self._critic_steps.step()
        self.updates += 1
        if self.updates % s.actor_delay:
            return
        raw = self._actor(states)
        value = self._values(self._critics, states, torch.tanh(raw)).mean(dim=0)
        size = value.abs().mean().detach().clamp_min(1e-3) if s.normalise_actor_loss else 1.0
        loss = -value.mean() / size + s.saturation_penalty * (raw**2).mean()
        self._actor_steps.zero_grad()
        loss.backward()
        self._actor_steps.step()
        with torch.no_grad():
            for network, average, rate in (
                (self._actor, self._target_actor, s.target_rate),
                (self._critics, self._target_critics, s.target_rate),
                (self._actor, self._average, s.average_rate),
            ):
                pairs = zip(network.parameters(), average.parameters(), strict=True)
                for latest, averaged in pairs:
                    averaged.lerp_(latest, rate)

    @torch.no_grad()
    def _targets(self, batch: Batch) -> Tensor:
        """Compute the critics' targets ``[batch]``: reward plus discounted next value."""
        s = self.settings
        mean, deviation = self._statistics["reward"]
        rewards = torch.from_numpy((batch.rewards - mean) / deviation)
        if not s.discount:
            return rewards
        following = self._normalised(batch.next_states)
        actions = torch.tanh(self._target_actor(following))
        if s.smoothing:
            jitter = torch.randn(actions.shape, generator=self._torch_rng) * s.smoothing
            actions = (actions + jitter.clamp(-0.5, 0.5)).clamp(-1, 1)
        values = self._values(self._target_critics, following, actions).min(dim=0).values
        return rewards + s.discount * torch.from_numpy(1 - batch.terminated) * values

    # Values have the shape [critics, batch].
    def _values(self, critics: nn.ModuleList, states: Tensor, actions: Tensor) -> Tensor:
        together = torch.cat([states, self._effect(actions)], dim=1)
        return torch.stack([critic(together).squeeze(1) for critic in critics])


def _perceptron(inputs: int, outputs: int, hidden: Sequence[int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for width in hidden:
        parts += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))
