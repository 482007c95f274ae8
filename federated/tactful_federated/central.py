"""Training on data that people agreed to have collected, so that the model tells little of any.

DP-SGD by Opacus. It is for data that lies on the server anyway, and protects one row each; it does
not replace training on devices, where the server sees no histories.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tactful_federated.errors import HistoryError, SettingsError, missing_extra, require

try:
    import torch
    from opacus import GradSampleModule
    from opacus.accountants import PRVAccountant
    from opacus.optimizers import DPOptimizer
    from opacus.utils.uniform_sampler import UniformWithReplacementSampler
    from opacus.validators import ModuleValidator
    from torch import Tensor, nn
except ImportError as error:
    raise missing_extra(error) from error

PerExampleLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class CentralSettings:
    """How to train, all of it public and chosen without looking at the data.

    Attributes:
        steps: Number of updates, 1 or more.
        sample_rate: Probability with which each row takes part in an update, in (0, 1].
        expected_batch: What the sum of gradients is divided by: about rows * sample_rate, as known
            beforehand. Not the number of rows that took part, which depends on people.
        noise_multiplier: Standard deviation of the noise in units of `clipping_norm`, above 0.
        clipping_norm: Most that one row moves the sum of gradients, Euclidean, above 0.
        delta: Below one in the number of rows.
        epsilon_limit: Most privacy loss that is allowed; training that would cost more does not
            begin.
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
        """Check the ranges.

        Raises:
            SettingsError: A setting lies outside its range.
        """
        require(self.steps >= 1, f"steps is {self.steps}: give 1 or more")
        require(0 < self.sample_rate <= 1, f"sample_rate is {self.sample_rate}: give (0, 1]")
        require(0 < self.delta < 1, f"delta is {self.delta}: give a number between 0 and 1")
        for name in (
            *("expected_batch", "noise_multiplier", "clipping_norm"),
            *("epsilon_limit", "learning_rate"),
        ):
            value = getattr(self, name)
            require(0 < value < float("inf"), f"{name} is {value}: give a finite number above 0")


@dataclass(frozen=True)
class CentralTraining:
    """What training cost and did.

    Attributes:
        epsilon: Upper bound on the privacy loss of one row, from the steps that were taken.
        delta: That goes with it.
        steps: Updates taken.
        unit: What is protected.
    """

    epsilon: float
    delta: float
    steps: int
    unit: str = "one person, who is one row; added or removed"


def epsilon_of(settings: CentralSettings) -> float:
    """Return the upper bound on the privacy loss that training with these settings costs."""
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

    Guarantee: (epsilon, delta) for adding or removing one row, which is one person: whoever has
    several is refused. Each update takes every row with probability `sample_rate` (Poisson), clips
    each gradient, adds Gaussian noise to the sum (Abadi et al., CCS 2016), also when no row was
    taken. The loss is composed by privacy loss random variables (Gopi, Lee, Wutschitz, NeurIPS
    2021). Rows whose gradient is not finite count as zero.

    Assumed: noise and gradients are floats and the generator is torch's, which is no cryptographic
    one, so this is the guarantee of the algorithm on real numbers and not an exact one as that of
    published counts. Settings were chosen without the data, or their choice is accounted elsewhere.

    Args:
        model: Any module that Opacus can take apart by example: no batch normalisation.
        loss: Returns the loss of each example, ``[batch]``, from outputs and targets.
        inputs: ``[rows, ...]``.
        targets: ``[rows, ...]``.
        people: Whose each row is.
        settings: How to train.
        consented: Whether somebody agreed to central training.
        generator: Of sampling and noise; default: one seeded by the operating system. Other ones
            are for tests.

    Raises:
        SettingsError: It would cost more than `epsilon_limit`, or the model cannot be trained so.
        HistoryError: There are no rows, lengths differ, somebody did not consent or has several
            rows. Nothing was trained then.
    """
    _check_rows(inputs, targets, people, consented)
    cost = epsilon_of(settings)
    if cost > settings.epsilon_limit:
        raise SettingsError(
            f"these settings cost epsilon {cost:.3f} at delta {settings.delta:g}, above the limit"
            f" {settings.epsilon_limit:g}: take fewer steps or more noise"
        )
    if problems := ModuleValidator.validate(model, strict=False):
        raise SettingsError(f"the model cannot be trained privately: {problems[0]}")
    if generator is None:
        generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(8), "little"))
    accountant = PRVAccountant()
    model.train()
    taken_apart = GradSampleModule(model, loss_reduction="sum")
    try:
        optimizer = DPOptimizer(
            torch.optim.SGD(taken_apart.parameters(), settings.learning_rate),
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clipping_norm,
            expected_batch_size=settings.expected_batch,
            generator=generator,
        )
        optimizer.attach_step_hook(
            accountant.get_optimizer_hook_fn(sample_rate=settings.sample_rate)
        )
        for rows in UniformWithReplacementSampler(
            num_samples=len(inputs),
            sample_rate=settings.sample_rate,
            generator=generator,
            steps=settings.steps,
        ):
            optimizer.zero_grad()
            if rows:
                total = loss(taken_apart(inputs[rows]), targets[rows]).sum()
                total.backward()  # type: ignore[no-untyped-call]
            _drop_what_is_not_finite(optimizer.params)
            optimizer.step()
    finally:
        taken_apart.remove_hooks()
    return CentralTraining(
        epsilon=float(accountant.get_epsilon(settings.delta)),
        delta=settings.delta,
        steps=sum(steps for _, _, steps in accountant.history),
    )


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


def _drop_what_is_not_finite(parameters: Sequence[Any]) -> None:
    """Set the gradients of a row to zero where one of them cannot be clipped."""
    for parameter in parameters:
        if getattr(parameter, "grad_sample", None) is None:  # no row took part
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
    finite = torch.stack([p.grad_sample.flatten(1).isfinite().all(dim=1) for p in parameters]).all(
        dim=0
    )
    for parameter in parameters:
        parameter.grad_sample[~finite] = 0
