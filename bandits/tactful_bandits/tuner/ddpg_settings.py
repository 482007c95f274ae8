"""Hyperparameters of `DdpgAgent`, and defaults for environments other than a simulated shop."""

from __future__ import annotations

from dataclasses import dataclass

from tactful_bandits.errors import PolicyError


@dataclass(frozen=True)
class DdpgSettings:
    """Hyperparameters of an agent."""

    hidden: tuple[int, ...] = (64, 64)  # width of each hidden layer
    discount: float = 0.98  # weight of the next step's value, from 0 to below 1
    learning_rate: float = 1e-3  # learning rate of Adam, for actor and critics
    batch: int = 128  # transitions per update
    target_rate: float = 0.005  # rate of the exponential average in the target networks
    warm_up: int = 1000  # random steps at the start, after which normalisation is frozen
    warm_up_reach: float = 1.0  # random actions are uniform between minus and plus this value
    # Standard deviation of exploration, added to the action before it is clipped
    noise: float = 0.1
    # Correlation of the noise of a step with that of the step before, from 0 to below 1
    noise_correlation: float = 0.0
    # Probability that a random action is held for another step, from 0 to below 1
    hold: float = 0.0
    # Share of phases of 200 steps after the warm-up that act at random as well: where actions in
    # turn cancel each other out, noise around a policy that does nothing never finds a reward
    random_phases: float = 0.0
    # Number of critics with different initial weights; targets use their minimum, the actor their
    # mean
    critics: int = 1
    actor_delay: int = 1  # critic updates per actor update
    smoothing: float = 0.0  # standard deviation of the noise on target actions, clipped at 0.5
    normalise_actor_loss: bool = True  # divide it by the mean absolute value of the critic
    saturation_penalty: float = 1e-2  # weight of the squared inputs of the actor's tanh
    # Subtract the mean of the first rewards as well. Only valid if episodes never terminate:
    # otherwise it changes the value of termination.
    centre_rewards: bool = False
    # Normalise states by the statistics of all states so far, and divide rewards by the standard
    # deviation of discounted returns so far, instead of statistics of the warm-up: the first
    # steps of an episode-based environment may never see its other states, or any reward
    running_statistics: bool = False
    # Decay of the critics' weights, decoupled from the gradient, per unit of the learning rate
    weight_decay: float = 0.0
    # Rate of the averaged actor that acts and is exported; 1: the actor itself
    average_rate: float = 1.0

    def __post_init__(self) -> None:
        """Validate the values."""
        counts = (*self.hidden, self.batch, self.critics, self.actor_delay, self.warm_up)
        if not self.hidden or min(counts) < 1:
            raise PolicyError("layers, batch, critics, actor_delay and warm_up must be at least 1")
        if not (0 <= self.discount < 1 and 0 < self.target_rate <= 1 and self.learning_rate > 0):
            raise PolicyError("discount is in [0, 1), target_rate in (0, 1], learning_rate above 0")
        if min(self.noise, self.smoothing, self.saturation_penalty, self.weight_decay) < 0:
            raise PolicyError(
                "noise, smoothing, saturation_penalty and weight_decay must be at least 0"
            )
        for name in ("noise_correlation", "hold", "random_phases"):
            if not 0 <= getattr(self, name) < 1:
                raise PolicyError(f"{name} must be at least 0 and below 1")
        if self.running_statistics and self.centre_rewards:
            raise PolicyError("running_statistics scales rewards, and cannot centre them as well")
        if not 0 < self.average_rate <= 1:
            raise PolicyError("average_rate must lie above 0 and at most at 1")
        if not 0 < self.warm_up_reach <= 1:
            raise PolicyError("warm_up_reach must lie above 0 and at most at 1")


GENERAL_SETTINGS = DdpgSettings(
    discount=0.99,
    warm_up=1000,
    noise=0.1,
    hold=0.9,
    random_phases=0.1,
    target_rate=0.01,
    critics=2,
    actor_delay=2,
    smoothing=0.2,
    saturation_penalty=1e-3,
    running_statistics=True,
)
"""Settings for an environment that nobody tuned them for: the switches of TD3, and exploration
that holds a direction for some steps, without which a reward that needs many equal actions in a
row is never found."""
