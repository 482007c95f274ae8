"""Differentially private training on central data with consent: DP-SGD by Opacus.

The data are on the server already, and one row is protected. It does not replace training on
devices, where the server receives no histories.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tactful_federated.errors import HistoryError, SettingsError, extra, require, require_positive

with extra():
    import torch
    from opacus import GradSampleModule
    from opacus.accountants import PRVAccountant
    from opacus.optimizers import DPOptimizer
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler
    from opacus.validators import ModuleValidator
    from torch import Tensor, nn

PerExampleLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CentralSettings:
    """Settings of training; public, and chosen without looking at the data.

    Attributes:
        steps: Number of updates, 1 or more.
        sample_rate: Probability with which each row takes part in an update, in (0, 1].
        expected_batch: Divisor of the sum of gradients: about rows * sample_rate, fixed beforehand.
            It is not the number of sampled rows, which depends on private data.
        noise_multiplier: Standard deviation of the noise in units of `clipping_norm`, above 0.
        clipping_norm: Euclidean norm to which the gradient of a row is clipped, above 0.
        delta: Probability of failure, below 1 / rows.
        epsilon_limit: Largest privacy loss allowed; training that would cost more is refused.
        learning_rate: Step size of plain SGD, above 0.
    """

    steps: int
    sample_rate: float
    expected_batch: float
    noise_multiplier: float
    clipping_norm: float
    delta: float
    epsilon_limit: float
    learning_rate: float

    def __post_init__(self) -> None:
        """Raise `SettingsError` on a setting outside its range."""
        require(self.steps >= 1, f"steps is {self.steps}: give 1 or more")
        require(0 < self.sample_rate <= 1, f"sample_rate is {self.sample_rate}: give (0, 1]")
        require(0 < self.delta < 1, f"delta is {self.delta}: give a number between 0 and 1")
        require_positive(self, "expected_batch", "noise_multiplier", "clipping_norm")
        require_positive(self, "epsilon_limit", "learning_rate")


@dataclass(frozen=True)
class CentralTraining:
    """Result of training: its privacy loss and number of steps."""

    epsilon: float  # upper bound on the privacy loss of one row over the steps taken, at delta
    delta: float
    steps: int
    unit: str = "one person, who is one row; added or removed"


def epsilon_of(settings: CentralSettings) -> float:
    """Return an upper bound on the privacy loss of training with these settings."""
    accountant = PRVAccountant()
    accountant.history = [(settings.noise_multiplier, settings.sample_rate, settings.steps)]
    return float(accountant.get_epsilon(settings.delta))


def train_privately(
    model: nn.Module,
    loss: PerExampleLoss,
    inputs: Tensor,
    targets: Tensor,
    people: Sequence[str],
    settings: CentralSettings,
    *,
    consented: Callable[[str], bool],
    generator: torch.Generator | None = None,
) -> CentralTraining:
    """Train a model in place by DP-SGD.

    Guarantee: (epsilon, delta) for adding or removing one row, which is one user; users with
    several rows are refused. Each step samples every row with probability `sample_rate` (Poisson),
    clips each gradient and adds Gaussian noise to the sum (Abadi et al., CCS 2016), also when no
    row was sampled. Privacy loss random variables compose the loss (Gopi, Lee, Wutschitz, NeurIPS
    2021). Rows whose gradient is not finite count as zero.

    Assumed: noise and gradients are floats, and torch's generator is not cryptographic, so the
    guarantee is that of the algorithm on real numbers, not an exact one as for published counts.
    Settings were chosen without the data, or their choice is accounted elsewhere.

    Args:
        model: Module that Opacus supports: no batch normalisation.
        loss: Maps outputs and targets to the loss of each example, ``[batch]``.
        inputs: ``[rows, ...]``.
        targets: ``[rows, ...]``.
        people: User of each row.
        settings: Settings of training.
        consented: Returns whether a user consented to central training.
        generator: Generator for sampling and noise, seeded by the operating system by default. Only
            tests give one.

    Raises:
        SettingsError: Training would cost more than `epsilon_limit`, or Opacus does not support the
            model.
        HistoryError: There are no rows, lengths differ, a user did not consent or has several
            rows. The model is unchanged.
    """
    _check_rows(inputs, targets, people, consented)
    _check_settings(model, settings)
    if generator is None:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(8), "little"))
    accountant = PRVAccountant()
    model.train()
    per_example = GradSampleModule(model, loss_reduction="sum")
    try:
        optimizer = DPOptimizer(
            torch.optim.SGD(per_example.parameters(), settings.learning_rate),
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clipping_norm,
            expected_batch_size=settings.expected_batch,
            generator=generator,
        )
        optimizer.attach_step_hook(
            accountant.get_optimizer_hook_fn(sample_rate=settings.sample_rate)
        )
        samples = UniformWithReplacementSampler(
            num_samples=len(inputs),
            sample_rate=settings.sample_rate,
            generator=generator,
            steps=settings.steps,
        )
        for rows in samples:  # a step may have none
            optimizer.zero_grad()
            if rows:
                total = loss(per_example(inputs[rows]), targets[rows]).sum()
                total.backward()  # type: ignore[no-untyped-call]
            _zero_unbounded_rows(optimizer.params)
            optimizer.step()
    finally:
        per_example.remove_hooks()
    return CentralTraining(
        epsilon=float(accountant.get_epsilon(settings.delta)),
        delta=settings.delta,
        steps=sum(steps for _, _, steps in accountant.history),
    )


def _check_settings(model: nn.Module, settings: CentralSettings) -> None:
    cost = epsilon_of(settings)
    if cost > settings.epsilon_limit:
        raise SettingsError(
            f"these settings cost epsilon {cost:.3f} at delta {settings.delta:g}, above the limit"
            f" {settings.epsilon_limit:g}: take fewer steps or more noise"
        )
    if problems := ModuleValidator.validate(model, strict=False):
        raise SettingsError(f"the model cannot be trained privately: {problems[0]}")


def _check_rows(
    inputs: Tensor, targets: Tensor, people: Sequence[str], consented: Callable[[str], bool]
) -> None:
    if not len(inputs) == len(targets) == len(people) or not len(people):
        raise HistoryError(
            f"there are {len(inputs)} inputs, {len(targets)} targets and {len(people)} people:"
            " give as many of each, one or more"
        )
    several = sum(rows > 1 for rows in Counter(people).values())
    if several:
        raise HistoryError(
            f"{several} of {len(set(people))} people have several rows: the guarantee is for one"
            " each, so put a person's data into one row or choose one"
        )
    refused = sum(not consented(person) for person in people)
    if refused:
        raise HistoryError(
            f"{refused} of {len(people)} people did not consent to central training: leave them out"
        )


def _zero_unbounded_rows(parameters: Sequence[Any]) -> None:
    """Set the gradients of rows to zero that hold a value that is not finite."""
    for parameter in parameters:
        if getattr(parameter, "grad_sample", None) is None:  # no row was sampled
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
    finite = torch.stack([p.grad_sample.flatten(1).isfinite().all(dim=1) for p in parameters]).all(
        dim=0
    )
    for parameter in parameters:
        parameter.grad_sample[~finite] = 0
